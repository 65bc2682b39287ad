//! Odd etcds and proxies: each is one clear error, never an empty service, never a flood, never a panic.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod listing;
mod other_protocols;
mod registering;
#[path = "../support/mod.rs"]
mod support;
mod watching;

use std::time::Duration;

use futures_util::StreamExt;
use hither_core::{Claim, Error, ErrorKind, Registrar, Resolver, ServiceName};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use tokio::time::timeout;

use support::fake::{Fake, Script};
use support::{LONG, comes_to, ids, instance, registration, watch};

fn svc() -> ServiceName {
    "svc".parse().unwrap()
}

fn connect(config: EtcdConfig) -> EtcdRegistry {
    EtcdRegistry::connect(config).unwrap()
}

async fn resolve(fake: &Fake) -> Result<Vec<String>, Error> {
    let registry = connect(fake.config());
    let snapshot = timeout(LONG, registry.resolve(&svc())).await.expect("it ends")?;
    Ok(ids(&snapshot).into_iter().map(str::to_owned).collect())
}

/// An error that a caller may retry, and that is no mistake of theirs.
fn assert_retryable(error: &Error, what: &str) {
    assert!(error.is_retryable(), "{error:?}");
    assert!([ErrorKind::InvalidData, ErrorKind::Unavailable].contains(&error.kind()), "{what}: {error:?}");
}

#[tokio::test]
async fn the_fake_without_faults_behaves_like_etcd() {
    let fake = Fake::start(Script::default()).await;
    assert_eq!(resolve(&fake).await.unwrap(), ["a"]);
    let registry = connect(fake.config());
    let mut lease =
        registry.register(&registration(&svc(), instance("10.0.0.1:80")), Claim::TakeOver).await.unwrap();
    lease.renew().await.unwrap();
    let mut watch = watch(&registry, &svc()).await;
    comes_to(&mut watch, &["10.0.0.1:80", "a"]).await;
    // Probed, and answered.
    assert!(timeout(Duration::from_secs(1), watch.next()).await.is_err());
    lease.revoke().await.unwrap();
}
