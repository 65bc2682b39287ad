//! TLS to etcd, in one direction and in both, and certificates that are replaced.
#![cfg(feature = "tls")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use hither_core::RegistrationStatus;
use hither_etcd::{EtcdOptions, EtcdTls};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::scene::{Lease, Scene, TTL, Truth};
use crate::support::Etcd;

/// A directory with an authority's certificate, and those that it has signed for a server and a client.
struct Certificates {
    directory: TempDir,
    authority: Issuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = new_authority(directory.path());
        let certificates = Self { directory, authority };
        certificates.sign("server");
        certificates.sign("client");
        certificates
    }

    fn replace_authority(&mut self) {
        self.authority = new_authority(self.directory.path());
    }

    fn sign(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let parameters = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = parameters.signed_by(&key, &self.authority).unwrap();
        replace(&self.file(&format!("{name}-key.pem")), key.serialize_pem().as_bytes());
        replace(&self.file(&format!("{name}.pem")), certificate.pem().as_bytes());
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.file(name)).unwrap()
    }

    /// An etcd that shows the server's certificate, and asks for the client's.
    async fn etcd(&self) -> Etcd {
        let text = |name: &str| self.file(name).display().to_string();
        let (certificate, key, ca) = (text("server.pem"), text("server-key.pem"), text("ca.pem"));
        let own = ["--cert-file", &certificate, "--key-file", &key];
        let theirs = ["--client-cert-auth", "--trusted-ca-file", &ca];
        Etcd::start_with(&[&own[..], &theirs].concat()).await
    }

    fn tls(&self) -> EtcdTls {
        EtcdTls::from_files(self.file("ca.pem"))
            .with_client_certificate_file(self.file("client.pem"))
            .with_client_key_file(self.file("client-key.pem"))
    }

    async fn scene(&self, fault: &'static str, etcd: &Etcd) -> Scene {
        let options: EtcdOptions = etcd.options().with_tls(self.tls());
        Scene::new(fault, options, self.truth(etcd)).await
    }

    /// What they are now.
    fn truth(&self, etcd: &Etcd) -> Truth {
        let identity = Identity::from_pem(self.read("client.pem"), self.read("client-key.pem"));
        let tls =
            TlsOptions::new().ca_certificate(Certificate::from_pem(self.read("ca.pem"))).identity(identity);
        Truth::at([etcd.endpoint()]).with(ConnectOptions::new().with_tls(tls))
    }
}

fn new_authority(directory: &Path) -> Issuer<'static, KeyPair> {
    let key = KeyPair::generate().unwrap();
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.distinguished_name.push(DnType::CommonName, "an authority");
    replace(&directory.join("ca.pem"), parameters.self_signed(&key).unwrap().pem().as_bytes());
    Issuer::new(parameters, key)
}

/// In one step: it may be read at any time.
fn replace(file: &Path, with: &[u8]) {
    let part = file.with_extension("part");
    std::fs::write(&part, with).unwrap();
    std::fs::rename(part, file).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_restarted() {
    let certificates = Certificates::new();
    let mut etcd = certificates.etcd().await;
    let mut scene = certificates.scene("mutual TLS: etcd killed and restarted", &etcd).await;
    etcd.kill();
    scene.is_stale().await;
    let _etcd = etcd.start_again().await;
    scene.over();
    scene.recovers(Lease::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_renewed() {
    let certificates = Certificates::new();
    let mut etcd = certificates.etcd().await;
    let mut scene =
        certificates.scene("mutual TLS: all certificates renewed by their authority", &etcd).await;
    certificates.sign("server");
    certificates.sign("client");
    etcd.kill();
    scene.is_stale().await;
    let _etcd = etcd.start_again().await;
    scene.over();
    scene.recovers(Lease::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn authority_replaced() {
    let mut certificates = Certificates::new();
    let mut etcd = certificates.etcd().await;
    let mut scene =
        certificates.scene("mutual TLS: another authority, and all certificates new", &etcd).await;
    etcd.kill();
    scene.is_stale().await;
    certificates.replace_authority();
    certificates.sign("server");
    certificates.sign("client");
    let etcd = etcd.start_again().await;
    scene.set_truth(certificates.truth(&etcd));
    scene.over();
    scene.recovers(Lease::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_for_a_while() {
    let certificates = Certificates::new();
    let strangers = Certificates::new();
    let mut etcd = certificates.etcd().await;
    let fault = "mutual TLS: our files wrong, half and missing for 9 s, then right again";
    let mut scene = certificates.scene(fault, &etcd).await;
    let right = certificates.read("client.pem");
    etcd.kill();
    scene.is_stale().await;
    // A connection that nobody missed is made again with what it was made with.
    scene.has(|status| matches!(status, RegistrationStatus::Retrying { .. })).await;
    replace(&certificates.file("client.pem"), &strangers.read("client.pem"));
    let _etcd = etcd.start_again().await;
    sleep(Duration::from_secs(3)).await;
    replace(&certificates.file("client.pem"), &right[..right.len() / 2]);
    sleep(Duration::from_secs(3)).await;
    std::fs::remove_file(certificates.file("client.pem")).unwrap();
    sleep(Duration::from_secs(3)).await;
    replace(&certificates.file("client.pem"), &right);
    scene.over();
    assert!(TTL < Duration::from_secs(9));
    scene.recovers(Lease::New).await;
}
