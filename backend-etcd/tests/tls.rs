//! TLS to a real etcd, in both directions.
#![cfg(feature = "tls")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::process::{Command, Stdio};

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use hither_core::{ErrorKind, Resolver};
use hither_etcd::{EtcdConfig, EtcdRegistry, TlsConfig};
use support::{Etcd, documented_roles, ids, register, unique_service};

const CA: &[u8] = include_bytes!("tls/ca.pem");
const OTHER_CA: &[u8] = include_bytes!("tls/other-ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("tls/client.pem");
const KEY: &[u8] = include_bytes!("tls/client-key.pem");

fn file(name: &str) -> String {
    format!("{}/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// An etcd with a certificate for `localhost` and 127.0.0.1.
async fn etcd(arguments: &[&str]) -> Etcd {
    let (certificate, key) = (file("server.pem"), file("server-key.pem"));
    Etcd::start_with(&[&["--cert-file", &certificate, "--key-file", &key], arguments].concat()).await
}

fn registry(etcd: &Etcd, tls: TlsConfig) -> EtcdRegistry {
    EtcdRegistry::connect(etcd.config().with_tls(tls)).unwrap()
}

/// A way around the registry.
async fn client_of(etcd: &Etcd) -> Client {
    let with = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(CA))
        .identity(Identity::from_pem(CERTIFICATE, KEY));
    Client::connect([etcd.endpoint()], Some(ConnectOptions::new().with_tls(with))).await.unwrap()
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_is_served() {
    let (etcd, service) = (etcd(&[]).await, unique_service());
    let registry = registry(&etcd, TlsConfig::new(CA));
    let _lease = register(&registry, &service, "a:1").await;
    assert_eq!(ids(&registry.resolve(&service).await.unwrap()), ["a:1"]);
}

#[tokio::test]
async fn an_untrusted_server_is_an_error_with_the_reason() {
    let etcd = etcd(&[]).await;
    let wrong_name = TlsConfig::new(CA).with_server_name("etcd.internal");
    for (tls, why) in [(TlsConfig::new(OTHER_CA), "UnknownIssuer"), (wrong_name, "not valid for name")] {
        let error = registry(&etcd, tls).resolve(&unique_service()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.report().contains(why), "{}", error.report());
    }
}

#[tokio::test]
async fn the_certificate_may_be_for_another_name_than_the_endpoints() {
    let etcd = etcd(&[]).await;
    let registry = registry(&etcd, TlsConfig::new(CA).with_server_name("localhost"));
    registry.resolve(&unique_service()).await.unwrap();
}

#[tokio::test]
async fn mutual_tls_admits_a_client_with_a_certificate() {
    let ca = file("ca.pem");
    let etcd = etcd(&["--client-cert-auth", "--trusted-ca-file", &ca]).await;
    let with = TlsConfig::new(CA).with_client_certificate(CERTIFICATE).with_client_key(KEY);
    registry(&etcd, with).resolve(&unique_service()).await.unwrap();
    let error = registry(&etcd, TlsConfig::new(CA)).resolve(&unique_service()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn plain_text_to_an_etcd_with_tls_fails() {
    let etcd = etcd(&[]).await;
    let error = etcd.registry().resolve(&unique_service()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // It is there: the same with TLS is served.
    registry(&etcd, TlsConfig::new(CA)).resolve(&unique_service()).await.unwrap();
}

#[tokio::test]
async fn tls_to_an_etcd_without_tls_fails() {
    let etcd = Etcd::start().await;
    let error = registry(&etcd, TlsConfig::new(CA)).resolve(&unique_service()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // The error depends on a race: a handshake cut short, or a reset. For others it serves.
    etcd.registry().resolve(&unique_service()).await.unwrap();
}

#[tokio::test]
async fn a_url_can_set_everything() {
    let ca = file("ca.pem");
    let etcd = etcd(&["--client-cert-auth", "--trusted-ca-file", &ca, "--bcrypt-cost", "4"]).await;
    let directory = tempfile::tempdir().unwrap();
    let password = directory.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let url = |key: &str, user: &str| {
        let (certificate, password) = (file("client.pem"), password.display());
        let url = format!(
            "etcd://{user}{}/fleet?cacert={ca}&cert={certificate}&key={key}&server_name=localhost\
             &password_file={password}&connect_timeout=5s&request_timeout=4s",
            etcd.endpoint()
        );
        if user.is_empty() { url.replace(&format!("&password_file={password}"), "") } else { url }
    };
    let registry = |url: String| EtcdRegistry::connect(url.parse().unwrap());
    // The files cannot have been taken for each other.
    assert_eq!(registry(url(&file("client.pem"), "")).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let without_user = registry(url(&file("client-key.pem"), "")).unwrap();
    let service = unique_service();
    let _lease = register(&without_user, &service, "a:1").await;

    let mut client = client_of(&etcd).await;
    let found = client.get(format!("fleet/{service}/a:1"), None).await.unwrap();
    assert_eq!(found.kvs().len(), 1);
    client.user_add("root", "secret", None).await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    let root = registry(url(&file("client-key.pem"), "root@")).unwrap();
    assert_eq!(ids(&root.resolve(&service).await.unwrap()), ["a:1"]);
}

/// In a process of its own, because the environment is the whole process's.
#[tokio::test]
async fn the_variables_of_etcdctl_can_set_everything() {
    const SERVICE: &str = "greeter";
    if std::env::var_os("ETCDCTL_ENDPOINTS").is_some() {
        let registry = EtcdRegistry::connect(EtcdConfig::from_env().unwrap()).unwrap();
        let found = registry.resolve(&SERVICE.parse().unwrap()).await.unwrap();
        assert_eq!(ids(&found), ["a:1"]);
        return;
    }
    let ca = file("ca.pem");
    let etcd = etcd(&["--client-cert-auth", "--trusted-ca-file", &ca, "--bcrypt-cost", "4"]).await;
    let tls = || TlsConfig::new(CA).with_client_certificate(CERTIFICATE).with_client_key(KEY);
    let _lease = register(&registry(&etcd, tls()), &SERVICE.parse().unwrap(), "a:1").await;
    let variables = [
        ("ETCDCTL_ENDPOINTS", format!("https://{}", etcd.endpoint())),
        ("ETCDCTL_CACERT", ca),
        ("ETCDCTL_CERT", file("client.pem")),
        ("ETCDCTL_KEY", file("client-key.pem")),
    ];
    let with = variables.clone().map(|(name, value)| (name.to_owned(), value));
    documented_roles(etcd.endpoint(), "secret", &with).await;
    client_of(&etcd).await.auth_enable().await.unwrap();

    for (user, succeeds) in [("client:secret", true), ("client:wrong", false)] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_variables_of_etcdctl_can_set_everything"]);
        command.envs(variables.clone()).env("ETCDCTL_USER", user).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.success(), succeeds, "{user}: {printed}");
        assert!(succeeds || printed.contains("authentication failed"), "{printed}");
    }
}
