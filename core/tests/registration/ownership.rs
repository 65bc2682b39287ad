//! Two owners of one id.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_first_registration_takes_over_the_record_of_an_earlier_process() {
    let registry = MemoryRegistry::new();
    let before = registry.connect();
    let old = Registration::new(service(), instance().with_weight(5)).unwrap();
    let _lease = before.register(&old, Claim::TakeOver).await.unwrap();
    let _handle = kept(&registry).await;
    assert_eq!(weights(&registry).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn two_owners_never_fight() {
    let registry = MemoryRegistry::new();
    let first = kept(&registry).await;
    let second = keep_registered(
        registry.connect(),
        Registration::new(service(), instance().with_weight(2)).unwrap().with_ttl(TTL).unwrap(),
        RegistrationConfig::default().with_seed(1),
    );
    soon(second.registered()).await.unwrap();
    status(&first, |status| matches!(status, RegistrationStatus::Superseded)).await;
    assert_eq!(soon(first.registered()).await.unwrap_err().kind(), ErrorKind::Superseded);
    assert_eq!(first.update(instance()).await.unwrap_err().kind(), ErrorKind::Superseded);
    sleep(100 * TTL).await;
    assert_eq!(weights(&registry).await, [2]);
    first.deregister().await.unwrap();
    drop(first);
    sleep(TTL).await;
    assert_eq!(weights(&registry).await, [2], "an owner that was superseded removes nothing");
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_returns_from_a_partition_does_not_displace_its_successor() {
    let here = MemoryRegistry::new();
    let handle = kept(&here).await;
    here.faults().disconnect();
    sleep(2 * TTL).await;
    let successor =
        Registration::new(service(), instance().with_weight(2)).unwrap().with_ttl(1000 * TTL).unwrap();
    let _lease = here.connect().register(&successor, Claim::IfVacant).await.unwrap();
    here.faults().reconnect();
    status(&handle, |status| matches!(status, RegistrationStatus::Superseded)).await;
    assert_eq!(weights(&here).await, [2]);
}

/// What a registry has that was restored from a copy: the record of a process that is gone.
#[tokio::test(start_paused = true)]
async fn an_owner_waits_for_the_expiry_of_a_record_that_is_not_renewed() {
    let here = MemoryRegistry::new();
    let handle = kept(&here).await;
    here.faults().disconnect();
    sleep(2 * TTL).await;
    let dead = Registration::new(service(), instance().with_weight(2)).unwrap().with_ttl(TTL).unwrap();
    let _never_renewed = here.connect().register(&dead, Claim::IfVacant).await.unwrap();
    here.faults().reconnect();
    sleep(TTL / 2).await;
    assert!(is_retrying(&handle.status()), "{:?}", handle.status());
    assert_eq!(weights(&here).await, [2]);
    soon(handle.registered()).await.unwrap();
    assert_eq!(weights(&here).await, [1]);
    // And as long again after the registry was away for longer, with the dead one's record, and has it still.
    for outage in [Duration::ZERO, 3 * TTL] {
        here.faults().disconnect();
        sleep(2 * TTL).await;
        let dead = dead.clone().with_ttl(if outage.is_zero() { TTL } else { 5 * TTL }).unwrap();
        let _never_renewed = here.connect().register(&dead, Claim::IfVacant).await.unwrap();
        here.faults().reconnect();
        sleep(TTL / 2).await;
        here.faults().disconnect();
        sleep(outage).await;
        here.faults().reconnect();
        soon(handle.registered()).await.unwrap();
        assert_eq!(weights(&here).await, [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_returns_from_a_partition_without_a_successor_registers_again() {
    let here = MemoryRegistry::new();
    let handle = kept(&here).await;
    here.faults().disconnect();
    status(&handle, is_retrying).await;
    sleep(10 * TTL).await;
    assert!(weights(&here).await.is_empty());
    here.faults().reconnect();
    soon(handle.registered()).await.unwrap();
    assert_eq!(weights(&here).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_registration_whose_answer_was_lost_is_recognised() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().lose_next_response_of(Operation::Register);
    registry.faults().expire_all();
    status(&handle, is_retrying).await;
    soon(handle.registered()).await.unwrap();
    sleep(2 * TTL).await;
    assert!(matches!(handle.status(), RegistrationStatus::Registered), "{:?}", handle.status());
    assert_eq!(weights(&registry).await, [1]);
}
