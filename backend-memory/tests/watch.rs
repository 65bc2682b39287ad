//! Watches, under paused time.

mod support;

use futures_util::{FutureExt, StreamExt};
use hither_core::{ErrorKind, Resolver};
use hither_memory::MemoryRegistry;
use support::{
    SECOND, TTL, end, id, instance, names, now, present, register, register_for_long, registration, service,
    watch,
};
use tokio::runtime::Handle;
use tokio::time::{Instant, advance, sleep};

#[tokio::test(start_paused = true)]
async fn a_watch_sees_an_expiry_at_once_and_needs_no_task() {
    let registry = MemoryRegistry::new();
    let lease = register(&registry, "a").await;
    let tasks = Handle::current().metrics().num_alive_tasks();
    let (mut watch, first) = watch(&registry).await;
    assert_eq!(names(&first), ["a"]);
    drop(lease);
    let start = Instant::now();
    assert!(watch.next().await.unwrap().unwrap().is_empty());
    assert_eq!(start.elapsed(), TTL);
    assert_eq!(Handle::current().metrics().num_alive_tasks(), tasks);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_sends_no_snapshot() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    let (mut watch, _) = watch(&registry).await;
    for _ in 0..100 {
        sleep(TTL / 3).await;
        lease.renew().await.unwrap();
        assert!(now(&mut watch).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_another_service_sends_no_snapshot() {
    let registry = MemoryRegistry::new();
    let (mut watch, _) = watch(&registry).await;
    registry.faults().put_without_lease(&"greeter/deeper".parse().unwrap(), instance("a"));
    assert!(now(&mut watch).is_none());
}

#[tokio::test(start_paused = true)]
async fn an_update_is_one_change_without_a_gap() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    let (mut watch, _) = watch(&registry).await;
    lease.update(&registration("a").with_instance(instance("a").with_weight(7)).unwrap()).await.unwrap();
    let snapshot = now(&mut watch).unwrap().unwrap();
    assert_eq!(snapshot.iter().next().unwrap().weight(), 7);
    assert!(now(&mut watch).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_only_the_newest_snapshot() {
    let registry = MemoryRegistry::new();
    let (mut watch, _) = watch(&registry).await;
    let _leases = [register(&registry, "a").await, register(&registry, "b").await];
    assert_eq!(names(&now(&mut watch).unwrap().unwrap()), ["a", "b"]);
    assert!(now(&mut watch).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_cut_watch_ends_with_an_error_and_a_new_one_can_be_opened() {
    let registry = MemoryRegistry::new();
    let (mut cut, _) = watch(&registry).await;
    let waiting = tokio::spawn(async move { end(&mut cut).await.kind() });
    tokio::task::yield_now().await;
    registry.faults().cut_watches();
    assert_eq!(waiting.await.unwrap(), ErrorKind::Unavailable);
    let (mut open, _) = watch(&registry).await;
    assert!(now(&mut open).is_none());
}

#[tokio::test(start_paused = true)]
async fn open_watches_are_counted_until_they_are_dropped_or_cut() {
    let registry = MemoryRegistry::new();
    let faults = registry.faults();
    let (first, _) = watch(&registry).await;
    let second = registry.connect().watch(&service()).await.unwrap();
    assert_eq!(faults.open_watches(), 2);
    drop(first);
    assert_eq!(faults.open_watches(), 1);
    faults.cut_watches();
    assert_eq!(faults.open_watches(), 0);
    drop(second);
    assert_eq!(faults.open_watches(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_frozen_registry_is_silent_and_continues_after_the_thaw() {
    let registry = MemoryRegistry::new();
    let (mut watch, _) = watch(&registry).await;
    registry.faults().freeze();
    registry.faults().put_without_lease(&service(), instance("a"));
    assert!(now(&mut watch).is_none());
    sleep(MemoryRegistry::DEADLINE - SECOND).await;
    registry.faults().thaw();
    assert_eq!(names(&watch.next().await.unwrap().unwrap()), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_a_frozen_registry_ends_at_the_deadline() {
    let registry = MemoryRegistry::new();
    let (mut watch, _) = watch(&registry).await;
    registry.faults().freeze();
    let start = Instant::now();
    assert_eq!(end(&mut watch).await.kind(), ErrorKind::Timeout);
    assert_eq!(start.elapsed(), MemoryRegistry::DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_new_watch_begins_with_the_state_after_a_wipe() {
    let registry = MemoryRegistry::new();
    let _a = register(&registry, "a").await;
    let (mut open, _) = watch(&registry).await;
    let _b = register(&registry, "b").await;
    let before = now(&mut open).unwrap().unwrap();

    registry.faults().wipe();
    let _leases = [register(&registry, "a").await, register(&registry, "b").await];
    let mut again = registry.watch(&service()).await.unwrap();
    assert!(again.next().await.unwrap().unwrap().diff(&before).is_empty());
}

#[tokio::test(start_paused = true)]
async fn snapshots_of_one_revision_are_equal() {
    let registry = MemoryRegistry::new();
    let mut lease = register(&registry, "a").await;
    let first = registry.resolve(&service()).await.unwrap();
    lease.renew().await.unwrap();
    registry.faults().put_without_lease(&"other".parse().unwrap(), instance("a"));
    assert_eq!(registry.resolve(&service()).await.unwrap(), first);
    registry.faults().delete_record(&service(), &id("a"));
    lease.renew().await.unwrap();
    assert_ne!(registry.resolve(&service()).await.unwrap().revision(), first.revision());
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_dropped_lease_is_removed_after_its_ttl() {
    let registry = MemoryRegistry::new();
    drop(register(&registry, "a").await);
    advance(TTL - SECOND).await;
    assert_eq!(present(&registry).await, ["a"]);
    advance(SECOND).await;
    assert!(present(&registry).await.is_empty());
    assert_eq!(registry.faults().live_leases(), 0);
}

#[test]
fn calls_outside_a_runtime_return_errors_and_do_not_panic() {
    let registry = MemoryRegistry::new();
    assert!(registry.resolve(&service()).now_or_never().unwrap().unwrap().is_empty());
    let watch = registry.watch(&service()).now_or_never().unwrap();
    assert_eq!(watch.err().unwrap().kind(), ErrorKind::Unsupported);
    registry.faults().freeze();
    let resolve = registry.resolve(&service()).now_or_never().unwrap();
    assert_eq!(resolve.unwrap_err().kind(), ErrorKind::Unsupported);
    registry.faults().thaw();
    registry.faults().delay(SECOND);
    let resolve = registry.resolve(&service()).now_or_never().unwrap();
    assert_eq!(resolve.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_is_missed_under_concurrent_writes() {
    let registry = MemoryRegistry::new();
    let (mut open, _) = watch(&registry).await;
    let writers: Vec<_> = (0..50)
        .map(|number| {
            let registry = registry.connect();
            tokio::spawn(async move {
                let mut gone = register_for_long(&registry, &format!("gone{number}")).await;
                let stays = register_for_long(&registry, &format!("stays{number}")).await;
                gone.revoke().await.unwrap();
                stays
            })
        })
        .collect();
    let mut leases = Vec::new();
    for writer in writers {
        leases.push(writer.await.unwrap());
    }
    loop {
        let seen = names(&open.next().await.unwrap().unwrap());
        if seen.len() == 50 && seen.iter().all(|name| name.starts_with("stays")) {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn leases_that_expire_together_are_one_change_and_keep_no_thread_for_long() {
    let registry = MemoryRegistry::new();
    for number in 0..10_000 {
        drop(register(&registry, &format!("h{number:05}")).await);
    }
    let (mut watch, first) = watch(&registry).await;
    assert_eq!(first.len(), 10_000);
    assert!(now(&mut watch).is_none());
    advance(TTL).await;
    let mut polls = 0;
    let snapshot = std::future::poll_fn(|cx| {
        polls += 1;
        watch.poll_next_unpin(cx)
    });
    assert!(snapshot.await.unwrap().unwrap().is_empty(), "what has expired is not sent");
    assert!(polls > 30, "{polls} polls");
}
