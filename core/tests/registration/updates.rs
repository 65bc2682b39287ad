//! Updates of the content.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_update_changes_the_record_in_place() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    handle.update(instance().with_weight(2)).await.unwrap();
    assert_eq!(weights(&registry).await, [2]);
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
    let other = Instance::new("10.0.0.8:8001".parse().unwrap());
    assert_eq!(handle.update(other).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn an_update_during_an_outage_arrives_after_it_even_if_its_future_was_dropped() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    assert!(
        timeout(SECOND, handle.update(instance().with_weight(2))).await.is_err(),
        "it cannot have arrived"
    );
    sleep(600 * SECOND).await;
    registry.faults().start();
    soon(handle.update(instance().with_weight(3))).await.unwrap();
    assert_eq!(weights(&registry).await, [3]);

    registry.faults().stop();
    let _ = timeout(SECOND, handle.update(instance().with_weight(4))).await;
    registry.faults().wipe();
    registry.faults().start();
    sleep(TTL).await;
    assert_eq!(weights(&registry).await, [4], "a new lease begins with the desired state");
}

#[tokio::test(start_paused = true)]
async fn an_update_that_the_registry_refuses_leaves_the_content_before() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().fail_next_of(Operation::Update, 1, ErrorKind::InvalidArgument);
    let refused = soon(handle.update(instance().with_weight(2))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    sleep(2 * TTL).await;
    assert_eq!(weights(&registry).await, [1]);
    soon(handle.update(instance().with_weight(3))).await.unwrap();
    assert_eq!(weights(&registry).await, [3]);
}

#[tokio::test(start_paused = true)]
async fn frequent_updates_do_not_starve_the_lease() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().delay(Duration::from_millis(10));
    let end = Instant::now() + 2 * TTL;
    // Two in turn, so that there always is one more that the registry does not have.
    let flood = |weight: u32| {
        let handle = &handle;
        async move {
            sleep(Duration::from_millis(5) * weight).await;
            while Instant::now() < end {
                handle.update(instance().with_weight(weight)).await.unwrap();
            }
        }
    };
    tokio::join!(flood(2), flood(3));
    assert!(registry.faults().calls_of(Operation::Update) > 1000);
    assert!(registry.faults().calls_of(Operation::Renew) >= 5);
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
}
