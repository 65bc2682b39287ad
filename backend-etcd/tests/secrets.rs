//! No log has passwords, keys or tokens, at any level.
#![cfg(feature = "tls")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use hither_core::{Claim, Registrar, Resolver, ServiceName};
use hither_etcd::{EtcdConfig, EtcdRegistry, TlsConfig};
use support::{Etcd, documented_roles, instance, register, registration};
use tempfile::NamedTempFile;
use tokio::time::sleep;
use tracing::level_filters::LevelFilter;

const PASSWORD: &str = "hunter2-and-more";

/// The only test here: its subscriber takes the log of the whole process.
#[tokio::test]
async fn no_log_has_a_password_a_key_or_a_token() {
    let log = NamedTempFile::new().unwrap();
    let writer = Arc::new(log.reopen().unwrap());
    tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_writer(writer).init();
    let etcd = Etcd::start_with(&["--bcrypt-cost", "4", "--auth-token-ttl", "1"]).await;
    documented_roles(etcd.endpoint(), PASSWORD, &[]).await;
    etcd.client().await.auth_enable().await.unwrap();
    let service: ServiceName = "greeter".parse().unwrap();

    let registry = EtcdRegistry::connect(etcd.config().with_user("server", PASSWORD)).unwrap();
    let mut lease = register(&registry, &service, "a:1").await;
    let mut watch = support::watch(&registry, &service).await;
    support::comes_to(&mut watch, &["a:1"]).await;
    // The token expires, and is renewed.
    sleep(Duration::from_millis(2500)).await;
    lease.renew().await.unwrap();

    let mut printed = Vec::new();
    let wrong = format!("{PASSWORD}-wrong");
    let stranger = EtcdRegistry::connect(etcd.config().with_user("server", &wrong)).unwrap();
    printed.push(stranger.resolve(&service).await.unwrap_err().report());
    let elsewhere: ServiceName = "elsewhere".parse().unwrap();
    let denied = registry.register(&registration(&elsewhere, instance("a:1")), Claim::TakeOver).await;
    printed.push(denied.unwrap_err().report());
    printed.push(format!("{registry:?} {stranger:?} {lease:?}"));
    let url = format!("etcd://server:{PASSWORD}@nowhere");
    printed.push(url.parse::<EtcdConfig>().unwrap_err().report());
    let key = include_str!("tls/client-key.pem");
    let tls = TlsConfig::new(&include_bytes!("tls/ca.pem")[..])
        .with_client_certificate(&include_bytes!("tls/client.pem")[..])
        .with_client_key(key);
    let secure = EtcdRegistry::connect(etcd.config().with_tls(tls)).unwrap();
    printed.push(secure.resolve(&service).await.unwrap_err().report());
    printed.push(format!("{secure:?}"));

    let log = String::from_utf8_lossy(&std::fs::read(log.path()).unwrap()).into_owned();
    assert!(log.contains("connected to etcd"), "it is this log that ours go to");
    let secret_line = key.lines().nth(1).unwrap();
    for text in printed.iter().chain([&log]) {
        let leak = text
            .lines()
            .find(|line| line.contains(PASSWORD) || line.contains(secret_line) || has_token(line));
        assert_eq!(leak, None);
    }
}

/// A simple token of etcd's: sixteen letters, a point, and the revision at which it was given.
fn has_token(line: &str) -> bool {
    line.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').any(|word| {
        word.split_once('.').is_some_and(|(letters, revision)| {
            letters.len() == 16
                && letters.bytes().all(|byte| byte.is_ascii_alphabetic())
                && !revision.is_empty()
                && revision.bytes().all(|byte| byte.is_ascii_digit())
        })
    })
}
