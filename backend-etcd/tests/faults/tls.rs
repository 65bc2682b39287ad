//! TLS to etcd, in one direction and in both, and certificates that are replaced.
#![cfg(feature = "tls")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use hither_core::RegistrationStatus;
use hither_etcd::{EtcdConfig, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::clocks::{Clock, ClockProcess};
use crate::report::Row;
use crate::scene::{Lease, Scene, TTL, Truth, join};
use crate::support::{Cluster, Etcd, Proxy, documented_roles};

crate::faults! {
    killed_and_restarted_one_sided
    stranger_in_its_place
    switched_on_for_a_while
    killed_and_restarted
    cluster_with_users
    certificates_renewed
    authority_replaced
    wrong_for_a_while
    #[cfg(target_os = "linux")]
    wrong_clock
}

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
        let mut parameters =
            CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        parameters.not_after = date_time_ymd(2100, 1, 1);
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

    /// The arguments of an etcd with the server's certificate.
    fn one_sided(&self) -> [String; 4] {
        let text = |name: &str| self.file(name).display().to_string();
        ["--cert-file".to_owned(), text("server.pem"), "--key-file".to_owned(), text("server-key.pem")]
    }

    /// The arguments of one that also requires a client certificate.
    fn mutual(&self) -> Vec<String> {
        let ca = self.file("ca.pem").display().to_string();
        let theirs = ["--client-cert-auth".to_owned(), "--trusted-ca-file".to_owned(), ca];
        self.one_sided().into_iter().chain(theirs).collect()
    }

    async fn etcd(&self) -> Etcd {
        Etcd::start_with(&texts(&self.mutual())).await
    }

    fn tls(&self) -> TlsConfig {
        TlsConfig::from_files(self.file("ca.pem"))
            .with_client_certificate_file(self.file("client.pem"))
            .with_client_key_file(self.file("client-key.pem"))
    }

    async fn scene(&self, fault: &'static str, etcd: &Etcd) -> Scene {
        let config: EtcdConfig = etcd.config().with_tls(self.tls());
        Scene::new(fault, config, self.truth(etcd)).await
    }

    /// What they are now.
    fn truth(&self, etcd: &Etcd) -> Truth {
        Truth::at([etcd.endpoint()]).with(self.connect())
    }

    fn connect(&self) -> ConnectOptions {
        let identity = Identity::from_pem(self.read("client.pem"), self.read("client-key.pem"));
        let tls =
            TlsOptions::new().ca_certificate(Certificate::from_pem(self.read("ca.pem"))).identity(identity);
        ConnectOptions::new().with_tls(tls)
    }
}

fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
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

async fn killed_and_restarted_one_sided() -> Row {
    let certificates = Certificates::new();
    let mut etcd = Etcd::start_with(&texts(&certificates.one_sided())).await;
    let config = etcd.config().with_tls(TlsConfig::from_files(certificates.file("ca.pem")));
    let fault = "TLS of etcd's alone: etcd killed and restarted";
    let mut scene = Scene::new(fault, config, certificates.truth(&etcd)).await;
    etcd.kill();
    scene.is_stale().await;
    let _etcd = etcd.start_again().await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

/// A server with another certificate is not believed, although it has no instance at all.
async fn stranger_in_its_place() -> Row {
    let certificates = Certificates::new();
    let strangers = Certificates::new();
    let mut etcd = certificates.etcd().await;
    let fault = "mutual TLS: a stranger answers in etcd's place for 9 s";
    let mut scene = certificates.scene(fault, &etcd).await;
    etcd.kill();
    let mut stranger = strangers.etcd().await;
    stranger.take_the_place_of(&etcd);
    let mut stranger = stranger.start_again().await;
    scene.is_stale().await;
    sleep(Duration::from_secs(9)).await;
    stranger.kill();
    let _etcd = etcd.start_again().await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn switched_on_for_a_while() -> Row {
    let certificates = Certificates::new();
    let mut etcd = Etcd::start().await;
    let fault = "etcd restarted with TLS for 9 s, which we do not talk, and without again";
    let mut scene = Scene::new(fault, etcd.config(), Truth::at([etcd.endpoint()])).await;
    etcd.kill();
    etcd.set_arguments(&texts(&certificates.one_sided()));
    let mut etcd = etcd.start_again().await;
    scene.is_stale().await;
    sleep(Duration::from_secs(9)).await;
    etcd.kill();
    etcd.set_arguments(&[]);
    let _etcd = etcd.start_again().await;
    scene.over();
    // With every start it gives the lease its whole TTL again; it ran for more than that.
    scene.recovers(Lease::New).await
}

async fn killed_and_restarted() -> Row {
    let certificates = Certificates::new();
    let mut etcd = certificates.etcd().await;
    let mut scene = certificates.scene("mutual TLS: etcd killed and restarted", &etcd).await;
    etcd.kill();
    scene.is_stale().await;
    let _etcd = etcd.start_again().await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

/// All of it at once, as it is in production: three members, users with the least permissions, and mutual TLS.
async fn cluster_with_users() -> Row {
    const PASSWORD: &str = "secret";
    let certificates = Certificates::new();
    let arguments = [certificates.mutual(), vec!["--bcrypt-cost".to_owned(), "4".to_owned()]].concat();
    let mut cluster = Cluster::start_with(&texts(&arguments), Some(certificates.connect())).await;
    let (_, [follower, _]) = cluster.leader().await;
    let etcdctls = [("CACERT", "ca.pem"), ("CERT", "client.pem"), ("KEY", "client-key.pem")]
        .map(|(name, file)| (format!("ETCDCTL_{name}"), certificates.file(file).display().to_string()));
    documented_roles(cluster.endpoints().swap_remove(follower), PASSWORD, &etcdctls).await;
    let truth = Truth::at(cluster.endpoints()).with(certificates.connect());
    truth.client().await.auth_enable().await.unwrap();
    let root = certificates.connect().with_user("root", PASSWORD);
    cluster.set_connect(root.clone());

    let config = |user: &str| cluster.config().with_tls(certificates.tls()).with_user(user, PASSWORD);
    let (fault, service) =
        ("cluster with users and mutual TLS: leader killed, then the next frozen", "greeter");
    let truth = truth.with(root);
    let mut scene =
        Scene::in_service(fault, service.parse().unwrap(), config("server"), config("client"), truth).await;
    let (leader, _) = cluster.leader().await;
    cluster.kill(leader);
    scene.joins("10.0.0.4:80").await;
    sleep(2 * TTL).await;
    cluster.start_again(&[leader]).await;
    let (next, _) = cluster.leader().await;
    let frozen = cluster.freeze(next);
    sleep(2 * TTL).await;
    drop(frozen);
    scene.over();
    // The TTL is short for an election, and for deadlines of one member after the other.
    scene.recovers(Lease::Either).await
}

async fn certificates_renewed() -> Row {
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
    scene.recovers(Lease::Kept).await
}

async fn authority_replaced() -> Row {
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
    scene.recovers(Lease::Kept).await
}

async fn wrong_for_a_while() -> Row {
    let certificates = Certificates::new();
    let strangers = Certificates::new();
    let mut etcd = certificates.etcd().await;
    let fault = "mutual TLS: our files wrong, half and missing for 11 s, then right again";
    let mut scene = certificates.scene(fault, &etcd).await;
    let (right, right_key) = (certificates.read("client.pem"), certificates.read("client-key.pem"));
    etcd.kill();
    scene.is_stale().await;
    // A connection that was not in use is opened again with the same material.
    scene.has(|status| matches!(status, RegistrationStatus::Retrying { .. })).await;
    // Certificates of another authority, valid as such: etcd refuses them. Then with our key, which does not match.
    replace(&certificates.file("client.pem"), &strangers.read("client.pem"));
    replace(&certificates.file("client-key.pem"), &strangers.read("client-key.pem"));
    let _etcd = etcd.start_again().await;
    sleep(Duration::from_secs(3)).await;
    replace(&certificates.file("client-key.pem"), &right_key);
    sleep(Duration::from_secs(2)).await;
    replace(&certificates.file("client.pem"), &right[..right.len() / 2]);
    sleep(Duration::from_secs(3)).await;
    std::fs::remove_file(certificates.file("client.pem")).unwrap();
    sleep(Duration::from_secs(3)).await;
    replace(&certificates.file("client.pem"), &right);
    scene.over();
    scene.recovers(Lease::New).await
}

/// No certificate is valid any more.
#[cfg(target_os = "linux")]
async fn wrong_clock() -> Row {
    let clock = match Clock::controlled("tls::wrong_clock") {
        ClockProcess::Here(clock) => clock,
        ClockProcess::Elsewhere(row) => return row,
    };
    let certificates = Certificates::new();
    let etcd = certificates.etcd().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let config = EtcdConfig::new([proxy.endpoint()]).with_tls(certificates.tls());
    let fault = "mutual TLS: our clock a hundred years ahead for 9 s, and all connections cut";
    let mut scene = Scene::new(fault, config, certificates.truth(&etcd)).await;
    let (before, connections) = (scene.client().await, proxy.connections());
    clock.jumps(100 * 365 * 24 * 3600);
    // A connection that is open stays so.
    join(&before, scene.service(), "10.0.0.5:80").await;
    scene.shows("10.0.0.5:80").await;
    assert_eq!(proxy.connections(), connections);
    proxy.cut();
    scene.is_stale().await;
    join(&before, scene.service(), "10.0.0.4:80").await;
    sleep(Duration::from_secs(9)).await;
    clock.jumps(0);
    scene.over();
    scene.recovers(Lease::New).await
}
