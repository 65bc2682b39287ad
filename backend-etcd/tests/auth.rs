//! Authentication on a real etcd.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Permission};
use hither_core::{Claim, ErrorKind, Registrar, Resolver, Result, ServiceName};
use hither_etcd::EtcdRegistry;
use support::{Etcd, comes_to, ids, instance, register, registration};
use tokio::time::sleep;

/// An etcd on which user `server`, whose password is `secret`, may do what servers and clients of `svc` must, and
/// nothing else.
async fn guarded(arguments: &[&str]) -> (Etcd, Client) {
    let etcd = Etcd::start_with(&[&["--bcrypt-cost", "4"], arguments].concat()).await;
    let mut client = etcd.client().await;
    enable(&mut client).await;
    (etcd, client)
}

async fn enable(client: &mut Client) {
    for (user, role) in [("root", "root"), ("server", "svc")] {
        client.user_add(user, "secret", None).await.unwrap();
        client.role_add(role).await.unwrap();
        client.user_grant_role(user, role).await.unwrap();
    }
    let permission = Permission::read_write("svc/").with_range_end("svc0");
    client.role_grant_permission("svc", permission).await.unwrap();
    client.auth_enable().await.unwrap();
}

fn registry(etcd: &Etcd, user: &str, password: &str) -> EtcdRegistry {
    EtcdRegistry::connect(etcd.config().with_user(user, password)).unwrap()
}

fn service() -> ServiceName {
    "svc".parse().unwrap()
}

/// The kind of an error, and whether it is worth a retry.
fn refusal<T>(result: Result<T>) -> (ErrorKind, bool) {
    result.map_or_else(|error| (error.kind(), error.is_retryable()), |_| panic!("it was let in"))
}

#[tokio::test]
async fn the_least_permissions_suffice_for_servers_and_clients() {
    let (etcd, _) = guarded(&[]).await;
    let registry = registry(&etcd, "server", "secret");
    let mut watch = registry.watch(&service()).await.unwrap();
    comes_to(&mut watch, &[]).await;
    let mut lease = register(&registry, &service(), "a:1").await;
    comes_to(&mut watch, &["a:1"]).await;
    lease.renew().await.unwrap();
    lease.update(&registration(&service(), instance("a:1").with_weight(2))).await.unwrap();
    assert_eq!(ids(&registry.resolve(&service()).await.unwrap()), ["a:1"]);
    lease.revoke().await.unwrap();
    comes_to(&mut watch, &[]).await;
}

#[tokio::test]
async fn a_server_needs_no_more_than_its_own_key_and_a_client_no_more_than_to_read() {
    let (etcd, _) = guarded(&[]).await;
    let permissions = [
        ("own", Permission::read_write("svc/a:1")),
        ("reads", Permission::read("svc/").with_range_end("svc0")),
    ];
    let mut client =
        Client::connect([etcd.endpoint()], Some(ConnectOptions::new().with_user("root", "secret")))
            .await
            .unwrap();
    for (name, permission) in permissions {
        client.user_add(name, "secret", None).await.unwrap();
        client.role_add(name).await.unwrap();
        client.user_grant_role(name, name).await.unwrap();
        client.role_grant_permission(name, permission).await.unwrap();
    }
    let (server, reader) = (registry(&etcd, "own", "secret"), registry(&etcd, "reads", "secret"));
    let mut watch = reader.watch(&service()).await.unwrap();
    let mut lease = register(&server, &service(), "a:1").await;
    let _since = comes_to(&mut watch, &["a:1"]).await;
    lease.renew().await.unwrap();
    drop(reader.watch(&service()).await.unwrap());
    lease.update(&registration(&service(), instance("a:1").with_weight(2))).await.unwrap();
    lease.revoke().await.unwrap();
    comes_to(&mut watch, &[]).await;
    assert_eq!(refusal(server.resolve(&service()).await).0, ErrorKind::PermissionDenied);
    let desired = registration(&service(), instance("a:1"));
    assert_eq!(refusal(reader.register(&desired, Claim::TakeOver).await).0, ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn wrong_credentials_are_an_error_that_is_not_retryable() {
    let (etcd, _) = guarded(&[]).await;
    let unauthenticated = (ErrorKind::Unauthenticated, false);
    for stranger in
        [registry(&etcd, "server", "wrong"), registry(&etcd, "unknown", "secret"), etcd.registry()]
    {
        assert_eq!(refusal(stranger.resolve(&service()).await), unauthenticated);
        assert_eq!(refusal(stranger.watch(&service()).await), unauthenticated);
        let desired = registration(&service(), instance("a:1"));
        assert_eq!(refusal(stranger.register(&desired, Claim::TakeOver).await), unauthenticated);
    }
}

/// Until 3.4.42, 3.5.28 and 3.6.9, etcd grants leases to anybody.
#[tokio::test]
async fn a_registration_that_is_refused_leaves_no_lease_behind() {
    let (etcd, _) = guarded(&[]).await;
    let mut root =
        Client::connect([etcd.endpoint()], Some(ConnectOptions::new().with_user("root", "secret")))
            .await
            .unwrap();
    let (other, service): (ServiceName, _) = ("svc2".parse().unwrap(), service());
    for (registry, service) in [(registry(&etcd, "server", "secret"), other), (etcd.registry(), service)] {
        let desired = registration(&service, instance("a:1"));
        for _ in 0..3 {
            registry.register(&desired, Claim::TakeOver).await.unwrap_err();
        }
    }
    assert_eq!(root.leases().await.unwrap().leases().len(), 0);
}

#[tokio::test]
async fn requests_without_permission_are_denied() {
    let (etcd, _) = guarded(&[]).await;
    let registry = registry(&etcd, "server", "secret");
    let denied = (ErrorKind::PermissionDenied, false);
    let other: ServiceName = "svc2".parse().unwrap();
    assert_eq!(refusal(registry.resolve(&other).await), denied);
    assert_eq!(refusal(registry.watch(&other).await), denied);
    let desired = registration(&other, instance("a:1"));
    assert_eq!(refusal(registry.register(&desired, Claim::TakeOver).await), denied);
    registry.resolve(&service()).await.unwrap();
}

#[tokio::test]
async fn a_token_that_expired_is_renewed_for_every_kind_of_call() {
    let (etcd, _) = guarded(&["--auth-token-ttl", "1"]).await;
    let registry = registry(&etcd, "server", "secret");
    let mut lease = register(&registry, &service(), "a:1").await;
    let mut watch = registry.watch(&service()).await.unwrap();
    let _since = comes_to(&mut watch, &["a:1"]).await;
    for call in ["renew", "update", "watch", "resolve"] {
        // Tokens live on while they are used, and etcd gives no sign that one has expired.
        sleep(Duration::from_millis(2500)).await;
        match call {
            "renew" => lease.renew().await.unwrap(),
            "update" => {
                lease.update(&registration(&service(), instance("a:1").with_weight(2))).await.unwrap();
            }
            "watch" => drop(registry.watch(&service()).await.unwrap()),
            _ => drop(registry.resolve(&service()).await.unwrap()),
        }
    }
    lease.revoke().await.unwrap();
    comes_to(&mut watch, &[]).await;
}

#[tokio::test]
async fn an_etcd_without_authentication_is_used_without_credentials_until_it_is_enabled() {
    let etcd = Etcd::start_with(&["--bcrypt-cost", "4"]).await;
    let registry = registry(&etcd, "server", "secret");
    let mut lease = register(&registry, &service(), "a:1").await;
    enable(&mut etcd.client().await).await;
    // The connection that has no token learns it once, and the next one has one.
    assert_eq!(refusal(registry.resolve(&service()).await).0, ErrorKind::Unauthenticated);
    assert_eq!(ids(&registry.resolve(&service()).await.unwrap()), ["a:1"]);
    lease.renew().await.unwrap();
}
