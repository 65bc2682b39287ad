//! Out of the registry for a while, and back.

use super::*;

fn is_withdrawn(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Withdrawn)
}

fn is_registered(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Registered)
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_registration_is_removed_until_it_is_restored_with_the_latest_content() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    handle.withdraw();
    status(&handle, is_withdrawn).await;
    assert!(weights(&registry).await.is_empty());
    assert_eq!(registry.faults().live_leases(), 0);

    let update = timeout(SECOND, handle.update(instance().with_weight(2))).await;
    assert!(update.is_err(), "there is no record to update");
    sleep(10 * TTL).await;
    assert!(weights(&registry).await.is_empty());

    handle.restore();
    status(&handle, is_registered).await;
    assert_eq!(weights(&registry).await, [2]);
    handle.deregister().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_begins_withdrawn_registers_nothing_before_it_is_restored() {
    let registry = MemoryRegistry::new();
    let config = RegistrationConfig::default().with_withdrawn(true);
    let handle = keep_registered(registry.clone(), registration(), config);
    assert!(is_withdrawn(&handle.status()));
    sleep(10 * TTL).await;
    assert_eq!(registry.faults().calls_of(Operation::Register), 0);
    handle.restore();
    soon(handle.registered()).await.unwrap();
    assert_eq!(weights(&registry).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawal_during_an_outage_is_finished_after_it_although_it_was_restored_meanwhile() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    // The registry executes it, and its answer is lost: the lease is gone.
    registry.faults().lose_next_response_of(Operation::Revoke);
    handle.withdraw();
    status(&handle, is_retrying).await;
    handle.restore();
    // Not as late as the next renewal would have been.
    timeout(SECOND, status(&handle, is_registered)).await.unwrap();
    assert_eq!(weights(&registry).await, [1]);
    sleep(10 * TTL).await;
    assert_eq!(weights(&registry).await, [1], "and it is renewed");
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_was_withdrawn_does_not_displace_its_successor() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    handle.withdraw();
    status(&handle, is_withdrawn).await;
    let successor = keep_registered(
        registry.connect(),
        Registration::new(service(), instance().with_weight(2)).unwrap().with_ttl(TTL).unwrap(),
        RegistrationConfig::default().with_seed(1),
    );
    soon(successor.registered()).await.unwrap();
    handle.restore();
    status(&handle, |status| matches!(status, RegistrationStatus::Superseded)).await;
    assert_eq!(weights(&registry).await, [2]);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_registration_ends_when_it_is_deregistered_or_dropped() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    handle.withdraw();
    status(&handle, is_withdrawn).await;
    let (deregistered, ()) = tokio::join!(handle.deregister(), async { handle.restore() });
    deregistered.unwrap();
    sleep(TTL).await;
    assert!(weights(&registry).await.is_empty(), "deregistered is for good");

    let before = tasks().await;
    let handle = kept(&registry).await;
    handle.withdraw();
    status(&handle, is_withdrawn).await;
    drop(handle);
    assert_eq!(tasks().await, before);
}
