//! Deregistration, by the handle and by dropping it.

use super::*;

#[tokio::test(start_paused = true)]
async fn deregistering_removes_the_record_and_ends_the_task() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    handle.deregister().await.unwrap();
    assert!(weights(&registry).await.is_empty());
    assert_eq!((tasks().await, registry.faults().live_leases()), (0, 0));
    handle.deregister().await.unwrap();
    assert_eq!(handle.registered().await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(handle.statuses().collect::<Vec<_>>().await.last().unwrap().is_final());
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_during_an_outage_is_not_confirmed_but_final() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    let began = Instant::now();
    let error = handle.deregister().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() <= 5 * SECOND, "{:?}", began.elapsed());
    sleep(600 * SECOND).await;
    registry.faults().start();
    soon(handle.deregister()).await.unwrap();
    assert!(weights(&registry).await.is_empty());
    sleep(10 * TTL).await;
    assert!(weights(&registry).await.is_empty(), "no reconnect brings it back");
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_at_a_frozen_registry_is_bounded() {
    let registry = MemoryRegistry::new();
    let config = RegistrationConfig::default().with_deregister_timeout(2 * SECOND);
    let handle = keep_registered(registry.clone(), registration(), config);
    soon(handle.registered()).await.unwrap();
    registry.faults().freeze();
    let began = Instant::now();
    let error = handle.deregister().await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Timeout, 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_after_the_lease_was_lost_is_confirmed() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().expire_all();
    let RegistrationStatus::Retrying { cause, .. } = status(&handle, is_retrying).await else {
        unreachable!()
    };
    assert_eq!(cause.kind(), ErrorKind::LeaseExpired);
    handle.deregister().await.unwrap();
    assert!(weights(&registry).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_ends_the_attempts_of_a_registration_that_never_succeeded() {
    let registry = MemoryRegistry::new();
    registry.faults().stop();
    let handle = keep(&registry);
    status(&handle, is_retrying).await;
    let error = handle.deregister().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "whether an attempt arrived is not known");
    assert!(matches!(handle.status(), RegistrationStatus::Deregistered));
    registry.faults().start();
    sleep(10 * TTL).await;
    assert!(weights(&registry).await.is_empty());
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_deregisters_and_leaves_no_task() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    assert_eq!(tasks().await, 1);
    drop(handle);
    assert_eq!(tasks().await, 0);
    assert!(weights(&registry).await.is_empty());
    assert_eq!(registry.faults().live_leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_during_an_outage_retries_for_one_ttl_and_no_longer() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    drop(handle);
    sleep(TTL / 2).await;
    assert_eq!(tasks().await, 1);
    sleep(TTL).await;
    assert_eq!(tasks().await, 0);

    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    drop(handle);
    sleep(TTL / 2).await;
    registry.faults().start();
    sleep(TTL / 2).await;
    assert_eq!((tasks().await, weights(&registry).await.len()), (0, 0));
}
