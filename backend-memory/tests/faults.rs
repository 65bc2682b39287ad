//! Every fault as callers see it, under paused time.

mod support;

use std::time::Duration;

use hither_core::{Catalog, Claim, ErrorKind, Registrar, Resolver};
use hither_memory::{MemoryRegistry, Operation};
use support::{SECOND, TTL, end, id, instance, present, register, registration, service, watch};
use tokio::time::{Instant, advance, sleep};

#[tokio::test(start_paused = true)]
async fn the_next_calls_fail_as_planned_and_later_calls_succeed() {
    let registry = MemoryRegistry::new();
    registry.faults().fail_next(2, ErrorKind::Unauthenticated);
    let error = registry.register(&registration("a"), Claim::TakeOver).await.unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Unauthenticated, Some("register")));
    assert_eq!(registry.services(None).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert!(present(&registry).await.is_empty(), "a call that failed has no effect");
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_one_operation_applies_only_to_that_operation() {
    let registry = MemoryRegistry::new();
    let faults = registry.faults();
    let mut lease = register(&registry, "a").await;
    faults.fail_next_of(Operation::Update, 1, ErrorKind::PermissionDenied);
    faults.fail_next_of(Operation::Watch, 1, ErrorKind::Unavailable);
    lease.renew().await.unwrap();
    assert_eq!(lease.update(&registration("a")).await.unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(registry.watch(&service()).await.is_err());
    lease.update(&registration("a")).await.unwrap();
    assert_eq!((faults.calls_of(Operation::Update), faults.calls_of(Operation::Renew)), (2, 1));
    assert_eq!(faults.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_registration_whose_response_was_lost_belongs_to_its_registrar() {
    let registry = MemoryRegistry::new();
    registry.faults().lose_next_response_of(Operation::Register);
    let error = registry.register(&registration("a"), Claim::TakeOver).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert_eq!(present(&registry).await, ["a"], "it took effect");
    registry.register(&registration("a"), Claim::IfVacant).await.unwrap();
    let other = registry.connect().register(&registration("a"), Claim::IfVacant).await;
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Superseded);
}

#[tokio::test(start_paused = true)]
async fn every_call_can_lose_its_response() {
    let registry = MemoryRegistry::new();
    let faults = registry.faults();
    let mut lease = register(&registry, "a").await;
    for operation in [Operation::Update, Operation::Revoke, Operation::Watch] {
        faults.lose_next_response_of(operation);
    }
    assert!(
        lease.update(&registration("a").with_instance(instance("a").with_weight(7)).unwrap()).await.is_err()
    );
    assert_eq!(registry.resolve(&service()).await.unwrap().iter().next().unwrap().weight(), 7);
    assert!(registry.watch(&service()).await.is_err());
    assert_eq!(faults.open_watches(), 0);
    assert!(lease.revoke().await.is_err());
    assert!(present(&registry).await.is_empty());
    lease.revoke().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_renewal_after_a_failed_update_writes_the_new_content() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    registry.faults().fail_next(1, ErrorKind::Unavailable);
    assert!(
        lease.update(&registration("a").with_instance(instance("a").with_weight(7)).unwrap()).await.is_err()
    );
    lease.renew().await.unwrap();
    assert_eq!(registry.resolve(&service()).await.unwrap().iter().next().unwrap().weight(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_delay_applies_to_every_call_and_from_the_deadline_on_it_is_a_timeout() {
    let registry = MemoryRegistry::new();
    registry.faults().delay(2 * SECOND);
    let start = Instant::now();
    registry.resolve(&service()).await.unwrap();
    assert_eq!(start.elapsed(), 2 * SECOND);

    registry.faults().delay(Duration::MAX);
    let start = Instant::now();
    assert_eq!(registry.resolve(&service()).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(start.elapsed(), MemoryRegistry::DEADLINE);

    registry.faults().delay(Duration::ZERO);
    let start = Instant::now();
    registry.resolve(&service()).await.unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_registry_fails_every_call_and_ends_every_watch() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    let (mut watch, _) = watch(&registry).await;
    registry.faults().stop();
    assert_eq!(end(&mut watch).await.kind(), ErrorKind::Unavailable);
    let errors = [
        lease.renew().await.unwrap_err(),
        lease.update(&registration("a")).await.unwrap_err(),
        lease.revoke().await.unwrap_err(),
        registry.resolve(&service()).await.unwrap_err(),
        registry.watch(&service()).await.err().unwrap(),
        registry.services(None).await.unwrap_err(),
        registry.connect().register(&registration("b"), Claim::TakeOver).await.unwrap_err(),
    ];
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Unavailable && error.is_retryable()));
}

#[tokio::test(start_paused = true)]
async fn no_lease_expires_while_the_registry_is_stopped_and_each_has_its_whole_ttl_after_the_start() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    advance(TTL - SECOND).await;
    registry.faults().stop();
    advance(100 * TTL).await;
    registry.faults().start();
    advance(TTL - SECOND).await;
    assert_eq!(present(&registry).await, ["a"]);
    advance(SECOND).await;
    assert!(present(&registry).await.is_empty());
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::LeaseExpired);
}

#[tokio::test(start_paused = true)]
async fn starting_a_running_registry_prolongs_no_lease() {
    let registry = MemoryRegistry::new();
    let _lease = register(&registry, "a").await;
    advance(TTL - SECOND).await;
    registry.faults().start();
    advance(SECOND).await;
    assert!(present(&registry).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_frozen_registry_completes_after_the_thaw() {
    let registry = MemoryRegistry::new();
    let faults = registry.faults();
    faults.freeze();
    let call = tokio::spawn({
        let registry = registry.clone();
        async move { registry.register(&registration("a"), Claim::TakeOver).await.map(drop) }
    });
    sleep(SECOND).await;
    assert!(!call.is_finished());
    assert_eq!(faults.live_leases(), 0, "it has not taken effect yet");
    faults.thaw();
    call.await.unwrap().unwrap();
    assert_eq!(present(&registry).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_frozen_registry_ends_at_its_deadline_without_effect() {
    let registry = MemoryRegistry::new();
    registry.faults().freeze();
    let start = Instant::now();
    let error = registry.register(&registration("a"), Claim::TakeOver).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, MemoryRegistry::DEADLINE));
    registry.faults().thaw();
    assert!(present(&registry).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_a_frozen_registry_ends_when_the_registry_stops() {
    let registry = MemoryRegistry::new();
    let faults = registry.faults();
    faults.freeze();
    let call = tokio::spawn({
        let registry = registry.clone();
        async move { registry.resolve(&service()).await }
    });
    sleep(SECOND).await;
    faults.stop();
    assert_eq!(call.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn leases_expire_while_the_registry_is_frozen() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    registry.faults().freeze();
    advance(TTL).await;
    registry.faults().thaw();
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::LeaseExpired);
}

#[tokio::test(start_paused = true)]
async fn only_the_disconnected_process_fails_and_its_leases_expire() {
    let here = MemoryRegistry::new();
    let there = here.connect();
    let mut lease = register(&here, "a").await;
    let (mut cut, _) = watch(&here).await;
    let (_open, _) = watch(&there).await;
    here.faults().disconnect();
    assert_eq!(end(&mut cut).await.kind(), ErrorKind::Unavailable);
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(here.clone().resolve(&service()).await.is_err(), "a clone is the same process");
    assert_eq!(here.faults().open_watches(), 1);
    advance(TTL).await;
    there.register(&registration("a"), Claim::IfVacant).await.unwrap();

    here.faults().reconnect();
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::LeaseExpired);
    let again = here.register(&registration("a"), Claim::IfVacant).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Superseded);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_expired_removes_its_record() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    let mut other = register(&registry, "b").await;
    assert!(registry.faults().expire(&service(), &id("a")));
    assert!(!registry.faults().expire(&service(), &id("a")), "already expired");
    assert_eq!(present(&registry).await, ["b"]);
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::LeaseExpired);
    other.renew().await.unwrap();
    registry.faults().expire_all();
    assert_eq!(other.renew().await.unwrap_err().kind(), ErrorKind::LeaseExpired);
    assert_eq!(registry.faults().live_leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_restores_a_deleted_record() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    assert!(registry.faults().delete_record(&service(), &id("a")));
    assert!(!registry.faults().delete_record(&service(), &id("a")));
    assert!(present(&registry).await.is_empty());
    lease.renew().await.unwrap();
    assert_eq!(present(&registry).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn an_update_restores_a_deleted_record() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    registry.faults().delete_record(&service(), &id("a"));
    lease.update(&registration("a").with_instance(instance("a").with_weight(7)).unwrap()).await.unwrap();
    assert_eq!(registry.resolve(&service()).await.unwrap().iter().next().unwrap().weight(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_wiped_registry_has_neither_records_nor_leases() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    let before = registry.resolve(&service()).await.unwrap();
    registry.faults().wipe();
    let after = registry.resolve(&service()).await.unwrap();
    assert!(after.is_empty());
    assert_ne!(before.revision(), after.revision());
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::LeaseExpired);
    assert!(registry.services(None).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_takes_a_record_over_keeps_it() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    registry.faults().take_over(&service(), instance("a").with_zone("theirs"));
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::Superseded);
    lease.revoke().await.unwrap();
    let again = registry.register(&registration("a"), Claim::IfVacant).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Superseded);
    advance(100 * TTL).await;
    assert_eq!(registry.resolve(&service()).await.unwrap().iter().next().unwrap().zone(), Some("theirs"));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_restores_changed_content() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    assert!(registry.faults().change_record(&service(), instance("a").with_weight(7)));
    assert!(!registry.faults().change_record(&service(), instance("b")), "no such record");
    assert_eq!(registry.resolve(&service()).await.unwrap().iter().next().unwrap().weight(), 7);
    lease.renew().await.unwrap();
    assert_eq!(registry.resolve(&service()).await.unwrap().iter().next().unwrap().weight(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_without_a_lease_is_reclaimed_by_a_registrar_with_its_address() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    registry.faults().put_without_lease(&service(), instance("a").with_weight(7));
    lease.renew().await.unwrap();
    assert_eq!(registry.resolve(&service()).await.unwrap().iter().next().unwrap().weight(), 1);
    advance(TTL).await;
    assert!(present(&registry).await.is_empty(), "it is bound to the lease again");

    registry.faults().put_without_lease(&service(), instance("a"));
    advance(100 * TTL).await;
    assert_eq!(present(&registry).await, ["a"], "without a lease it never expires");
    registry.register(&registration("a"), Claim::IfVacant).await.unwrap();
    advance(TTL).await;
    assert!(present(&registry).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_record_without_a_lease_and_with_another_address_has_another_owner() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    registry.faults().put_without_lease(&service(), instance("elsewhere").with_id(id("a")));
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::Superseded);
    let again = registry.register(&registration("a"), Claim::IfVacant).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::Superseded);
    registry.register(&registration("a"), Claim::TakeOver).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_undecodable_record_is_skipped_counted_once_and_makes_no_service() {
    let registry = MemoryRegistry::new();
    let other = "other".parse().unwrap();
    registry.faults().put_garbage(&service(), &id("garbage"));
    registry.faults().put_garbage(&other, &id("garbage"));
    let _lease = register(&registry, "a").await;
    assert_eq!(present(&registry).await, ["a"]);
    let _second = register(&registry, "b").await;
    assert_eq!(present(&registry).await, ["a", "b"]);
    assert_eq!(registry.faults().skipped_records(), 1);
    assert!(registry.resolve(&other).await.unwrap().is_empty());
    assert_eq!(registry.faults().skipped_records(), 2);
    assert_eq!(registry.services(None).await.unwrap(), [service()]);
}
