//! An etcd that wants to know who calls.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::time::Duration;

use etcd_client::{Client, Permission};
use hither_core::{Claim, ErrorKind, Registrar, Resolver, Result, ServiceName};
use hither_etcd::EtcdRegistry;
use support::{Etcd, comes_to, ids, instance, put, register, registration};
use tokio::time::sleep;

/// An etcd on which user `server`, whose password is `secret`, may do what servers and clients of `svc` must, and
/// nothing else.
async fn guarded(arguments: &[&str]) -> (Etcd, Client) {
    let etcd = Etcd::start_with(&[&["--bcrypt-cost", "4"], arguments].concat()).await;
    let mut client = etcd.client().await;
    for (user, role) in [("root", "root"), ("server", "svc")] {
        client.user_add(user, "secret", None).await.unwrap();
        client.role_add(role).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    let permission = Permission::read_write("svc/").with_range_end("svc0");
    client.role_grant_permission("svc", permission).await.unwrap();
    client.auth_enable().await.unwrap();
    (etcd, client)
}

fn registry(etcd: &Etcd, user: &str, password: &str) -> EtcdRegistry {
    EtcdRegistry::connect(etcd.options().with_user(user, password)).unwrap()
}

fn service() -> ServiceName {
    "svc".parse().unwrap()
}

/// The kind of an error, and whether it is worth a retry.
fn refusal<T>(result: Result<T>) -> (ErrorKind, bool) {
    result.map_or_else(|error| (error.kind(), error.is_retryable()), |_| panic!("it was let in"))
}

#[tokio::test]
async fn the_least_permissions_let_a_server_come_and_go_and_a_client_look() {
    let (etcd, _) = guarded(&[]).await;
    let registry = registry(&etcd, "server", "secret");
    let mut watch = registry.watch(&service(), None).await.unwrap();
    comes_to(&mut watch, &[]).await;
    let mut lease = register(&registry, &service(), "a:1").await;
    comes_to(&mut watch, &["a:1"]).await;
    lease.renew().await.unwrap();
    lease.update(&instance("a:1").with_weight(2)).await.unwrap();
    assert_eq!(ids(&registry.resolve(&service()).await.unwrap()), ["a:1"]);
    lease.revoke().await.unwrap();
    comes_to(&mut watch, &[]).await;
}

#[tokio::test]
async fn who_one_is_not_is_an_error_that_no_retry_cures() {
    let (etcd, _) = guarded(&[]).await;
    let unauthenticated = (ErrorKind::Unauthenticated, false);
    for stranger in [registry(&etcd, "server", "wrong"), registry(&etcd, "nobody", "secret"), etcd.registry()]
    {
        assert_eq!(refusal(stranger.resolve(&service()).await), unauthenticated);
        assert_eq!(refusal(stranger.watch(&service(), None).await), unauthenticated);
        let wish = registration(&service(), instance("a:1"));
        assert_eq!(refusal(stranger.register(&wish, Claim::TakeOver).await), unauthenticated);
    }
}

#[tokio::test]
async fn what_one_may_not_do_is_denied() {
    let (etcd, _) = guarded(&[]).await;
    let registry = registry(&etcd, "server", "secret");
    let denied = (ErrorKind::PermissionDenied, false);
    let other: ServiceName = "svc2".parse().unwrap();
    assert_eq!(refusal(registry.resolve(&other).await), denied);
    assert_eq!(refusal(registry.watch(&other, None).await), denied);
    let wish = registration(&other, instance("a:1"));
    assert_eq!(refusal(registry.register(&wish, Claim::TakeOver).await), denied);
    registry.resolve(&service()).await.unwrap();
}

#[tokio::test]
async fn a_token_that_expired_is_renewed_for_every_kind_of_call() {
    let (etcd, _) = guarded(&["--auth-token-ttl", "1"]).await;
    let registry = registry(&etcd, "server", "secret");
    let mut lease = register(&registry, &service(), "a:1").await;
    let mut watch = registry.watch(&service(), None).await.unwrap();
    let since = comes_to(&mut watch, &["a:1"]).await;
    for call in ["renew", "update", "watch", "resolve"] {
        // Tokens live on while they are used, and nothing tells that one has expired.
        sleep(Duration::from_millis(2500)).await;
        match call {
            "renew" => lease.renew().await.unwrap(),
            "update" => lease.update(&instance("a:1").with_weight(2)).await.unwrap(),
            "watch" => drop(registry.watch(&service(), Some(since.clone())).await.unwrap()),
            _ => drop(registry.resolve(&service()).await.unwrap()),
        }
    }
    lease.revoke().await.unwrap();
    comes_to(&mut watch, &[]).await;
}

#[tokio::test]
async fn a_password_where_etcd_asks_for_none_is_said_to_be_wrong() {
    let etcd = Etcd::start().await;
    put(&etcd.client().await, "svc/a", r#"{"Addr":"h:1"}"#, 0).await;
    let error = registry(&etcd, "server", "secret").resolve(&service()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert!(error.message().contains("authentication is not enabled"), "{error}");
}
