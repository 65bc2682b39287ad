//! Whose record it is, on a real etcd: what a lease does when others write under its key.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::time::Duration;

use etcd_client::Client;
use hither_core::{Claim, ErrorKind, Instance, Lease, Registrar, Resolver, ServiceName};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use support::{
    Etcd, LONG, Proxy, Raw, delete, get, instance, put, register, registration, shared, unique_service,
};
use tokio::time::timeout;

const ADDRESS: &str = "10.0.0.1:80";
const VALUE: &str = r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}"#;

/// One record in the shared etcd, and a way around the registry.
struct Scene {
    registry: EtcdRegistry,
    client: Client,
    service: ServiceName,
    key: String,
}

impl Scene {
    async fn new() -> Self {
        let etcd = shared().await;
        let service = unique_service();
        let key = format!("{service}/{ADDRESS}");
        Self { registry: etcd.registry(), client: etcd.client().await, service, key }
    }

    async fn register(&self) -> Box<dyn Lease> {
        register(&self.registry, &self.service, ADDRESS).await
    }

    async fn record(&self) -> Option<Raw> {
        get(&self.client, &self.key).await
    }

    async fn claim_vacant(&self, registry: &EtcdRegistry) -> hither_core::Result<Box<dyn Lease>> {
        registry.register(&registration(&self.service, instance(ADDRESS)), Claim::IfVacant).await
    }
}

fn weighing(weight: u32) -> Instance {
    instance(ADDRESS).with_weight(weight)
}

fn kind<T>(result: hither_core::Result<T>) -> Option<ErrorKind> {
    result.err().map(|error| error.kind())
}

#[tokio::test]
async fn a_record_that_was_removed_is_created_again_on_the_same_lease() {
    let scene = Scene::new().await;
    let mut lease = scene.register().await;
    let before = scene.record().await.unwrap();
    delete(&scene.client, &scene.key).await;
    lease.renew().await.unwrap();
    assert_eq!(scene.record().await, Some(before.clone()));
    delete(&scene.client, &scene.key).await;
    lease.update(&registration(&scene.service, weighing(7))).await.unwrap();
    let after = scene.record().await.unwrap();
    assert_eq!(after.lease, before.lease);
    assert!(after.value.contains(r#""weight":7"#), "{after:?}");
}

#[tokio::test]
async fn a_record_without_a_lease_that_has_our_address_is_reclaimed() {
    let scene = Scene::new().await;
    let mut lease = scene.register().await;
    let before = scene.record().await.unwrap();
    // As a Go `Manager` puts an endpoint that it has once listed.
    put(&scene.client, &scene.key, r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":"mine now"}"#, 0).await;
    lease.renew().await.unwrap();
    assert_eq!(scene.record().await, Some(before));
}

#[tokio::test]
async fn a_record_without_a_lease_that_has_our_address_is_removed_with_ours() {
    let scene = Scene::new().await;
    let mut lease = scene.register().await;
    put(&scene.client, &scene.key, VALUE, 0).await;
    lease.revoke().await.unwrap();
    assert_eq!(scene.record().await, None, "no other process would ever remove it");
}

#[tokio::test]
async fn a_record_without_a_lease_that_has_another_address_supersedes() {
    let scene = Scene::new().await;
    let mut lease = scene.register().await;
    let theirs = r#"{"Op":0,"Addr":"10.9.9.9:80","Metadata":null}"#;
    put(&scene.client, &scene.key, theirs, 0).await;
    assert_eq!(kind(lease.renew().await), Some(ErrorKind::Superseded));
    assert_eq!(
        kind(lease.update(&registration(&scene.service, weighing(7))).await),
        Some(ErrorKind::Superseded)
    );
    lease.revoke().await.unwrap();
    assert_eq!(scene.record().await, Some(Raw { value: theirs.into(), lease: 0 }));
}

#[tokio::test]
async fn a_record_without_a_lease_that_is_no_endpoint_at_all_is_reclaimed() {
    let scene = Scene::new().await;
    let mut lease = scene.register().await;
    let before = scene.record().await;
    for garbage in [&b"10.0.0.1:80"[..], b"", b"\xff\x00{", b"null", br#"{"Addr":""}"#] {
        put(&scene.client, &scene.key, garbage, 0).await;
        lease.renew().await.unwrap();
        assert_eq!(scene.record().await, before, "{:?}", String::from_utf8_lossy(garbage));
    }
}

#[tokio::test]
async fn another_living_owner_supersedes_and_is_left_alone() {
    let scene = Scene::new().await;
    let mut lease = scene.register().await;
    let _other = register(&shared().await.registry(), &scene.service, ADDRESS).await;
    let theirs = scene.record().await;
    let error = lease.renew().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Superseded);
    assert!(error.message().contains(ADDRESS), "{error}");
    assert_eq!(
        kind(lease.update(&registration(&scene.service, weighing(7))).await),
        Some(ErrorKind::Superseded)
    );
    lease.revoke().await.unwrap();
    assert_eq!(scene.record().await, theirs, "neither renewing, updating nor revoking touches the successor");
}

#[tokio::test]
async fn content_that_changed_under_our_lease_is_restored() {
    let scene = Scene::new().await;
    let mut lease = scene.register().await;
    let before = scene.record().await.unwrap();
    for garbage in [r#"{"Op":0,"Addr":"10.9.9.9:80","Metadata":null}"#.as_bytes(), b"\xff"] {
        put(&scene.client, &scene.key, garbage, before.lease).await;
        lease.renew().await.unwrap();
        assert_eq!(scene.record().await.as_ref(), Some(&before));
    }
}

#[tokio::test]
async fn a_record_that_fell_back_to_our_earlier_lease_is_taken_along() {
    let scene = Scene::new().await;
    let earlier = scene.register().await;
    let fell_back = scene.record().await.unwrap();
    let mut later = scene.register().await;
    let before = scene.record().await.unwrap();
    assert_ne!(fell_back.lease, before.lease);
    // As when a write of the earlier call, which had timed out, is applied last.
    put(&scene.client, &scene.key, VALUE, fell_back.lease).await;
    later.renew().await.unwrap();
    assert_eq!(scene.record().await, Some(before));
    drop(earlier);
}

#[tokio::test]
async fn an_earlier_lease_yields_to_a_later_one_of_the_same_registrar() {
    let scene = Scene::new().await;
    let mut earlier = scene.register().await;
    let _later = scene.register().await;
    let before = scene.record().await;
    assert_eq!(kind(earlier.renew().await), Some(ErrorKind::Superseded));
    assert_eq!(scene.record().await, before);
}

#[tokio::test]
async fn a_lease_that_an_operator_revoked_is_gone_and_leaves_the_id_vacant() {
    let scene = Scene::new().await;
    let mut lease = scene.register().await;
    let before = scene.record().await.unwrap();
    scene.client.clone().lease_revoke(before.lease).await.unwrap();
    assert_eq!(
        kind(lease.update(&registration(&scene.service, weighing(7))).await),
        Some(ErrorKind::LeaseExpired)
    );
    assert_eq!(kind(lease.renew().await), Some(ErrorKind::LeaseExpired));
    assert_eq!(scene.record().await, None);
    let _again = scene.claim_vacant(&scene.registry).await.unwrap();
    assert_ne!(scene.record().await.unwrap().lease, before.lease);
}

#[tokio::test]
async fn a_vacant_id_is_free_or_ours_or_without_an_owner() {
    let scene = Scene::new().await;
    let other = shared().await.registry();
    let first = scene.claim_vacant(&scene.registry).await.unwrap();
    let second = scene.claim_vacant(&scene.registry).await.unwrap();
    let ours = scene.record().await;
    assert_eq!(kind(scene.claim_vacant(&other).await), Some(ErrorKind::Superseded));
    assert_eq!(scene.record().await, ours);

    put(&scene.client, &scene.key, VALUE, 0).await;
    let third = scene.claim_vacant(&other).await.unwrap();
    assert_ne!(scene.record().await.unwrap().lease, 0, "a Go peer had put our endpoint without a lease");
    drop((first, second, third));

    put(&scene.client, &scene.key, r#"{"Op":0,"Addr":"10.9.9.9:80","Metadata":null}"#, 0).await;
    assert_eq!(kind(scene.claim_vacant(&other).await), Some(ErrorKind::Superseded));
}

#[tokio::test]
async fn a_claim_that_is_refused_leaves_no_lease_behind() {
    let etcd = Etcd::start().await;
    let service = unique_service();
    let _owner = register(&etcd.registry(), &service, ADDRESS).await;
    let claim = registration(&service, instance(ADDRESS));
    let refused = etcd.registry().register(&claim, Claim::IfVacant).await;
    assert_eq!(kind(refused), Some(ErrorKind::Superseded));
    let too_large = instance("10.0.0.2:80").with_metadata("much", "x".repeat(1_600_000));
    let refused = etcd.registry().register(&registration(&service, too_large), Claim::TakeOver).await;
    assert_eq!(kind(refused), Some(ErrorKind::InvalidArgument));
    assert_eq!(etcd.client().await.leases().await.unwrap().leases().len(), 1, "the owner's");
}

#[tokio::test]
async fn an_update_that_etcd_refuses_changes_nothing() {
    let scene = Scene::new().await;
    let mut lease = scene.register().await;
    let before = scene.record().await;
    // Above its limit for a request, and above what it reads at all.
    for size in [1_600_000, 3_000_000] {
        let too_large = instance(ADDRESS).with_metadata("much", "x".repeat(size));
        assert_eq!(
            kind(lease.update(&registration(&scene.service, too_large)).await),
            Some(ErrorKind::InvalidArgument)
        );
        lease.renew().await.unwrap();
    }
    assert_eq!(scene.record().await, before);
}

/// A registry behind a proxy, whose answers can be kept from it.
async fn through_a_proxy() -> (Scene, Proxy) {
    let mut scene = Scene::new().await;
    let proxy = Proxy::start(shared().await.endpoint()).await;
    let config = EtcdConfig::new([proxy.endpoint()]).with_request_timeout(Duration::from_secs(2));
    scene.registry = EtcdRegistry::connect(config).unwrap();
    scene.registry.resolve(&scene.service).await.unwrap();
    (scene, proxy)
}

#[tokio::test]
async fn a_registration_that_was_applied_and_never_answered_is_recognised_as_ours() {
    let (scene, proxy) = through_a_proxy().await;
    proxy.mute_after(VALUE.as_bytes());
    assert_eq!(kind(scene.claim_vacant(&scene.registry).await), Some(ErrorKind::Timeout));
    let applied = scene.record().await.expect("it was applied");
    proxy.heal();
    let mut lease = scene.claim_vacant(&scene.registry).await.unwrap();
    lease.renew().await.unwrap();
    let record = scene.record().await.unwrap();
    assert_eq!(record.value, VALUE);
    assert_ne!(record.lease, applied.lease, "each call has a lease of its own");
}

#[tokio::test]
async fn an_update_that_was_applied_and_never_answered_is_recognised_as_ours() {
    let (scene, proxy) = through_a_proxy().await;
    let mut lease = scene.register().await;
    let before = scene.record().await.unwrap();
    proxy.mute_after(br#""weight":7"#);
    assert_eq!(
        kind(lease.update(&registration(&scene.service, weighing(7))).await),
        Some(ErrorKind::Timeout)
    );
    let applied = scene.record().await.unwrap();
    assert!(applied.value.contains(r#""weight":7"#), "it was applied: {applied:?}");
    proxy.heal();
    lease.renew().await.unwrap();
    assert_eq!(scene.record().await.as_ref(), Some(&applied));
    assert_eq!(applied.lease, before.lease);
}

#[tokio::test]
async fn a_lost_update_is_applied_by_the_next_renewal() {
    let (scene, proxy) = through_a_proxy().await;
    let mut lease = scene.register().await;
    proxy.freeze();
    let given_up =
        timeout(Duration::from_millis(50), lease.update(&registration(&scene.service, weighing(7)))).await;
    assert!(given_up.is_err(), "no response arrives");
    proxy.heal();
    // That the connection is cut may still have to be found out.
    timeout(LONG, async { while lease.renew().await.is_err() {} }).await.unwrap();
    assert!(scene.record().await.unwrap().value.contains(r#""weight":7"#));
}

#[tokio::test]
async fn a_revocation_that_was_applied_and_never_answered_can_be_repeated() {
    let (scene, proxy) = through_a_proxy().await;
    let mut lease = scene.register().await;
    proxy.mute_after_next();
    assert_eq!(kind(lease.revoke().await), Some(ErrorKind::Timeout));
    assert_eq!(scene.record().await, None, "it was applied");
    proxy.heal();
    lease.revoke().await.unwrap();
    lease.revoke().await.unwrap();
}
