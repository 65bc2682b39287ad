//! Renewal, and the return of a registration after faults of the registry.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_registration_outlives_its_ttl_for_as_long_as_its_handle_lives() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    let calls = registry.faults().calls_of(Operation::Renew);
    sleep(10 * TTL).await;
    assert_eq!(weights(&registry).await, [1]);
    let renewals = registry.faults().calls_of(Operation::Renew) - calls;
    assert!(
        (27..=34).contains(&renewals),
        "{renewals} renewals in ten TTLs: one a third, give or take a tenth"
    );
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn renewals_of_many_registrations_spread_out() {
    let registry = MemoryRegistry::new();
    let mut handles = Vec::new();
    for port in 1..=100 {
        let instance = Instance::new(format!("10.0.0.7:{port}").parse().unwrap());
        let registration = Registration::new(service(), instance).unwrap().with_ttl(TTL).unwrap();
        handles.push(keep_registered(
            registry.clone(),
            registration,
            RegistrationConfig::default().with_seed(port),
        ));
    }
    for handle in &handles {
        soon(handle.registered()).await.unwrap();
    }
    // All registered at one moment, and yet no thirtieth of a TTL has many more of them than another one.
    let begun = registry.faults().calls_of(Operation::Renew);
    for part in 0..15 {
        let before = registry.faults().calls_of(Operation::Renew);
        sleep(TTL / 30).await;
        let renewals = registry.faults().calls_of(Operation::Renew) - before;
        assert!(renewals < 25, "{renewals} of 100 in part {part}, where 10 would be even");
    }
    assert!(registry.faults().calls_of(Operation::Renew) - begun >= 100);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_a_registry_loses_nothing() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    let RegistrationStatus::Retrying { since, .. } = status(&handle, is_retrying).await else {
        unreachable!()
    };
    let calls = registry.faults().calls();
    sleep(3600 * SECOND).await;
    let RegistrationStatus::Retrying { since: still, cause, .. } = handle.status() else {
        panic!("{:?}", handle.status())
    };
    assert_eq!((since, cause.kind()), (still, ErrorKind::Unavailable));
    let calls = registry.faults().calls() - calls;
    assert!((400..2_000).contains(&calls), "{calls} calls in an hour: the longest backoff is 10 s, jittered");

    registry.faults().start();
    let began = Instant::now();
    soon(handle.registered()).await.unwrap();
    assert!(began.elapsed() <= 10 * SECOND, "{:?}", began.elapsed());
    assert_eq!(registry.faults().calls_of(Operation::Register), 1, "the lease was kept");
}

#[tokio::test(start_paused = true)]
async fn a_registration_arrives_when_the_registry_comes_up() {
    let registry = MemoryRegistry::new();
    registry.faults().stop();
    let handle = keep(&registry);
    status(&handle, is_retrying).await;
    sleep(3600 * SECOND).await;
    registry.faults().start();
    soon(handle.registered()).await.unwrap();
    assert_eq!(weights(&registry).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_replaced_by_a_new_one() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    assert!(registry.faults().expire(&service(), instance().id()));
    assert!(weights(&registry).await.is_empty());
    sleep(TTL / 2).await;
    assert_eq!(weights(&registry).await, [1]);
    assert!(matches!(handle.status(), RegistrationStatus::Registered), "{:?}", handle.status());
}

#[tokio::test(start_paused = true)]
async fn a_wiped_registry_gets_its_registrations_back() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().wipe();
    sleep(TTL / 2).await;
    assert_eq!(weights(&registry).await, [1]);
    assert!(matches!(handle.status(), RegistrationStatus::Registered), "{:?}", handle.status());
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_removed_or_changed_by_hand_is_restored() {
    let registry = MemoryRegistry::new();
    let _handle = kept(&registry).await;
    assert!(registry.faults().delete_record(&service(), instance().id()));
    sleep(TTL / 2).await;
    assert_eq!(weights(&registry).await, [1]);
    assert!(registry.faults().change_record(&service(), instance().with_weight(9)));
    sleep(TTL / 2).await;
    assert_eq!(weights(&registry).await, [1]);
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_registry_keeps_the_registration() {
    let registry = MemoryRegistry::new();
    registry.faults().delay(4 * SECOND);
    let handle = kept(&registry).await;
    sleep(20 * TTL).await;
    registry.faults().delay(Duration::ZERO);
    assert_eq!(weights(&registry).await, [1]);
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
    assert!(matches!(handle.status(), RegistrationStatus::Registered), "{:?}", handle.status());
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_frozen_registry_ends_at_its_deadline_and_is_retried() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().freeze();
    let began = Instant::now();
    let RegistrationStatus::Retrying { cause, .. } = status(&handle, is_retrying).await else {
        unreachable!()
    };
    assert_eq!(cause.kind(), ErrorKind::Timeout);
    assert!(began.elapsed() <= TTL * 4 / 5, "{:?}", began.elapsed());
    sleep(3 * TTL).await;
    registry.faults().thaw();
    soon(handle.registered()).await.unwrap();
    assert_eq!(weights(&registry).await, [1], "the lease lapsed while the registry was frozen");
}
