//! Files that are replaced while a channel is in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hither_core::{Backoff, Instance};
use hither_tonic::{ClientTls, ServerTls};
use tempfile::TempDir;

use crate::peers::TonicServer;
use crate::pki::{Ca, Issued, NAME, roots};
use crate::servers::Running;
use crate::support::{Client, Log, Registry, SERVICE, SOON, until};

const INTERVAL: Duration = Duration::from_millis(10);

/// The files of a client: its CA, its certificate and key.
pub(crate) struct Directory(TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces a file as a whole.
    pub(crate) fn put(&self, name: &str, content: &str) -> PathBuf {
        let (new, file) = (self.file("new"), self.file(name));
        std::fs::write(&new, content).unwrap();
        std::fs::rename(&new, &file).unwrap();
        file
    }

    pub(crate) fn put_identity(&self, issued: &Issued) -> (PathBuf, PathBuf) {
        (self.put("cert.pem", &issued.certificate), self.put("key.pem", &issued.key))
    }
}

#[tokio::test]
async fn new_roots_and_identities_are_used_for_new_connections_and_no_call_is_lost() {
    let (old, new) = (Ca::named("old"), Ca::named("new"));
    let first = TonicServer::start(&old.issue(NAME), Some(&old)).await;
    let second = TonicServer::start(&new.issue(NAME), Some(&new)).await;
    let files = Directory::new();
    let (certificate, key) = files.put_identity(&old.issue("client"));
    let tls = ClientTls::from_file(files.put("ca.pem", &old.pem()))
        .with_identity_files(certificate, key)
        .with_server_name(NAME)
        .with_reload_interval(INTERVAL);
    let mut registry = Registry::new();
    registry.up(&first.address()).await;
    let builder = hither_tonic::DiscoveryChannel::builder(registry.discovery(), SERVICE).tls(tls);
    let backoff = Backoff::proportional(INTERVAL, 1.0, INTERVAL, 0.0);
    let channel = builder.backoff(backoff).connect().await.unwrap();
    let client = Client::new(&channel);
    client.name().await.unwrap();
    let mut held = client.stream("Ticks", String::new()).await.unwrap();
    held.message().await.unwrap();

    files.put("ca.pem", &format!("{}{}", old.pem(), new.pem()));
    files.put_identity(&new.issue("client"));
    registry.up(&second.address()).await;
    while second.echo.calls.load(Ordering::SeqCst) == 0 {
        client.name().await.unwrap();
    }
    // The call that began before goes on over the connection that it has.
    assert_eq!(held.message().await.unwrap().as_deref(), Some("tick"));
    assert_eq!(first.accepted.load(Ordering::SeqCst), 1, "it was never dialled again");
}

/// A certificate and a key that do not belong together are what a reader sees between two writes (grpc/grpc#26709).
#[tokio::test]
async fn files_that_are_half_written_are_reported_and_the_previous_ones_stay_in_use() {
    let log = Log::capture();
    let ca = Ca::new();
    let server = TonicServer::start(&ca.issue(NAME), Some(&ca)).await;
    let files = Directory::new();
    let (certificate, key) = files.put_identity(&ca.issue("client"));
    let tls = ClientTls::new(ca.pem())
        .with_identity_files(&certificate, key)
        .with_server_name(NAME)
        .with_reload_interval(INTERVAL);
    let channel = crate::channel(&[&server.address()], tls.clone()).connect().await.unwrap();
    let mut lines = Vec::new();
    let new = ca.issue("client");
    for (content, why) in [
        (&new.certificate[..new.certificate.len() / 2], "is no valid PEM: a certificate has no end"),
        ("", "has no certificate in it"),
        (&new.certificate, "the client key does not belong to the client certificate"),
    ] {
        std::fs::write(&certificate, content).unwrap();
        until(why, || {
            lines.extend(log.take());
            lines.iter().any(|line| {
                line.starts_with("WARN TLS files invalid; previous ones kept") && line.contains(why)
            })
        })
        .await;
    }
    std::fs::remove_file(&certificate).unwrap();
    until("the missing file is reported", || {
        lines.extend(log.take());
        lines.iter().any(|line| line.contains("cannot be read: entity not found"))
    })
    .await;
    let warnings = lines.iter().filter(|line| line.starts_with("WARN")).count();
    assert_eq!(warnings, 4, "each content once: {lines:#?}");
    Client::new(&channel).name().await.unwrap();

    files.put_identity(&new);
    until("the files are good again", || {
        lines.extend(log.take());
        lines.iter().any(|line| line.starts_with("INFO TLS files reloaded"))
    })
    .await;
}

#[tokio::test]
async fn new_files_end_a_backoff() {
    let (ca, other) = (Ca::new(), Ca::named("other"));
    let server = TonicServer::start(&ca.issue(NAME), None).await;
    let files = Directory::new();
    let tls = ClientTls::from_file(files.put("ca.pem", &other.pem()))
        .with_server_name(NAME)
        .with_reload_interval(INTERVAL);
    let minute = Duration::from_secs(60);
    let builder = crate::channel(&[&server.address()], tls);
    let channel = builder.backoff(Backoff::proportional(minute, 1.0, minute, 0.0)).connect_lazy().unwrap();
    let client = Client::new(&channel);
    let status = client.name().await.unwrap_err();
    assert!(status.message().contains("is of an unknown authority"), "{status}");

    files.put("ca.pem", &ca.pem());
    channel.wait_ready(SOON).await.expect("the backoff has ended");
    client.name().await.unwrap();
}

/// Kubernetes mounts a secret as a link to a directory that is replaced, so neither the file nor its link changes
/// (linkerd/linkerd2#5272, #5888).
#[cfg(unix)]
#[tokio::test]
async fn a_secret_that_kubernetes_replaces_is_read_again() {
    let log = Log::capture();
    let ca = Ca::new();
    let files = Directory::new();
    let mount = |version: &str, issued: &Issued| {
        let data = files.file(version);
        std::fs::create_dir(&data).unwrap();
        std::fs::write(data.join("tls.crt"), &issued.certificate).unwrap();
        std::fs::write(data.join("tls.key"), &issued.key).unwrap();
        std::os::unix::fs::symlink(version, files.file("..new")).unwrap();
        std::fs::rename(files.file("..new"), files.file("..data")).unwrap();
    };
    mount("..1", &ca.issue("client"));
    for name in ["tls.crt", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), files.file(name)).unwrap();
    }
    let tls = ClientTls::new(ca.pem())
        .with_identity_files(files.file("tls.crt"), files.file("tls.key"))
        .with_reload_interval(INTERVAL);
    let instance = Instance::new("a.internal:1".parse().unwrap());
    let channel = crate::of_instances([instance], tls).connect_lazy().unwrap();
    mount("..2", &ca.issue("client"));
    let mut lines = Vec::new();
    until("the new secret is in use", || {
        lines.extend(log.take());
        lines.iter().any(|line| line.starts_with("INFO TLS files reloaded"))
    })
    .await;
    drop(channel);
}

/// The certificates that a client is shown at `address`, the first of them as DER.
async fn shown(address: std::net::SocketAddr, ca: &Ca) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots(ca))
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(NAME.try_into().unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_certificate_is_replaced_under_load_without_a_call_lost() {
    let ca = Ca::new();
    let files = Directory::new();
    let (certificate, key) = files.put_identity(&ca.issue(NAME));
    let server = Running::start(ServerTls::from_files(certificate, key).with_reload_interval(INTERVAL)).await;
    let (stopped, calls) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default());
    let (mut callers, mut dialling) = (Vec::new(), Vec::new());
    let tls = || ClientTls::new(ca.pem()).with_server_name(NAME);
    let channel = crate::channel(&[&server.address()], tls()).connect().await.unwrap();
    let mut held = Client::new(&channel).stream("Ticks", String::new()).await.unwrap();
    for _ in 0..8 {
        let (client, stopped, calls) = (Client::new(&channel), Arc::clone(&stopped), Arc::clone(&calls));
        callers.push(tokio::spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                client.name().await.unwrap();
                calls.fetch_add(1, Ordering::SeqCst);
            }
        }));
    }
    for _ in 0..2 {
        let (address, tls, stopped) = (server.address(), tls(), Arc::clone(&stopped));
        dialling.push(tokio::spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                crate::call(&address, tls.clone()).await.unwrap();
            }
        }));
    }
    for _ in 0..5 {
        let new = ca.issue(NAME);
        files.put_identity(&new);
        let wait = async {
            while shown(server.address, &ca).await != *new.chain()[0] {
                tokio::time::sleep(INTERVAL).await;
            }
        };
        tokio::time::timeout(SOON, wait).await.expect("the new certificate is shown");
        let before = calls.load(Ordering::SeqCst);
        until("the calls go on", || calls.load(Ordering::SeqCst) >= before + 20).await;
    }
    stopped.store(true, Ordering::SeqCst);
    for task in callers.into_iter().chain(dialling) {
        task.await.unwrap();
    }
    assert_eq!(
        held.message().await.unwrap().as_deref(),
        Some("tick"),
        "over the connection of the first one"
    );
}

#[tokio::test]
async fn a_server_takes_up_new_authorities_of_clients() {
    let (ca, old, new) = (Ca::new(), Ca::named("old"), Ca::named("new"));
    let files = Directory::new();
    let (certificate, key) = files.put_identity(&ca.issue(NAME));
    let tls = ServerTls::from_files(certificate, key)
        .with_client_ca_file(files.put("ca.pem", &old.pem()))
        .with_reload_interval(INTERVAL);
    let server = Running::start(tls).await;
    let of = |authority: &Ca| {
        let client = authority.issue("client");
        let tls = ClientTls::new(ca.pem()).with_server_name(NAME);
        tls.with_identity(client.certificate, client.key)
    };
    crate::call(&server.address(), of(&old)).await.unwrap();
    assert!(crate::refused(&server.address(), of(&new)).await.contains("unknown there"));
    files.put("ca.pem", &new.pem());
    let wait = async { while crate::call(&server.address(), of(&new)).await.is_err() {} };
    tokio::time::timeout(SOON, wait).await.expect("the new authority is trusted");
    // A session of before is not resumed past the authorities of now.
    assert!(crate::refused(&server.address(), of(&old)).await.contains("unknown there"));
}
