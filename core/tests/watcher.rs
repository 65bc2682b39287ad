//! The watch that never ends, through scripted faults, under paused time.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use hither_core::{Backoff, ErrorKind, Freshness, ProtectionConfig, Update, WatcherConfig, watcher};
use support::{SECOND, Script, names, scripted, service, soon};
use tokio::time::{Instant, advance, sleep};

type Updates = Pin<Box<dyn Stream<Item = Update> + Send>>;

fn watched() -> (Updates, Script) {
    watched_with(WatcherConfig::default())
}

fn watched_with(config: WatcherConfig) -> (Updates, Script) {
    let (resolver, script) = scripted();
    (Box::pin(watcher(resolver, service(), config.with_seed(1))), script)
}

/// The next update while the script plays: the watcher is only driven when it is polled.
async fn next(updates: &mut Updates) -> Update {
    soon(updates.next()).await.expect("a watcher never ends")
}

fn cause(update: &Update) -> ErrorKind {
    match &update.freshness {
        Freshness::Stale { cause, .. } => cause.kind(),
        _ => panic!("it is fresh: {update:?}"),
    }
}

fn instances(update: &Update) -> Vec<String> {
    names(update.instances())
}

#[tokio::test(start_paused = true)]
async fn the_first_snapshot_is_sent_even_if_it_is_empty() {
    let (mut updates, mut script) = watched();
    let (update, _open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&[]) });
    assert!(update.snapshot.is_some_and(|snapshot| snapshot.is_empty()));
    assert!(update.freshness.is_fresh());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_at_the_start_is_reported_and_retried() {
    let (mut updates, mut script) = watched();
    let (update, ()) = tokio::join!(next(&mut updates), async {
        script.watch().await.fail(ErrorKind::Unavailable);
    });
    assert!(update.snapshot.is_none(), "not knowing is not an empty list");
    assert_eq!(cause(&update), ErrorKind::Unavailable);
    let (update, _open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a"]) });
    assert_eq!(instances(&update), ["a"]);
    assert!(update.freshness.is_fresh());
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_an_hour_keeps_the_last_snapshot_and_is_reported_once() {
    let (mut updates, mut script) = watched();
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a", "b"]) });
    let began = Instant::now();
    open.fail(ErrorKind::Unavailable);
    let stale = next(&mut updates).await;
    assert_eq!(
        (instances(&stale), cause(&stale)),
        (vec!["a".to_owned(), "b".to_owned()], ErrorKind::Unavailable)
    );

    let outage = async {
        let mut attempts = 0;
        while began.elapsed() < 3600 * SECOND {
            let call = script.watch().await;
            call.fail(ErrorKind::Unavailable);
            attempts += 1;
        }
        attempts
    };
    let attempts = tokio::select! {
        attempts = outage => attempts,
        update = updates.next() => panic!("sent again: {update:?}"),
    };
    // Full jitter up to 10 s: one attempt in 5 s on average.
    assert!((500..1500).contains(&attempts), "{attempts} attempts in an hour");

    let (update, _open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a", "b"]) });
    assert!(update.freshness.is_fresh(), "the end of the outage is sent, though no instance changed");
    let Freshness::Stale { since, .. } = stale.freshness else { unreachable!() };
    assert_eq!(since, began, "stale counts from the loss");
}

#[tokio::test(start_paused = true)]
async fn another_cause_of_the_outage_is_reported() {
    let (mut updates, mut script) = watched();
    let (_, ()) =
        tokio::join!(next(&mut updates), async { script.watch().await.fail(ErrorKind::Unavailable) });
    let (update, ()) =
        tokio::join!(next(&mut updates), async { script.watch().await.fail(ErrorKind::PermissionDenied) });
    assert_eq!(cause(&update), ErrorKind::PermissionDenied);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_without_an_error_is_opened_again() {
    let (mut updates, mut script) = watched();
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a"]) });
    drop(open);
    assert_eq!(cause(&next(&mut updates).await), ErrorKind::Unavailable);
    let (update, _open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["b"]) });
    assert_eq!(instances(&update), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_a_first_snapshot_is_abandoned() {
    let (mut updates, mut script) = watched();
    let (update, _silent) = tokio::join!(next(&mut updates), async { script.watch().await.open_silent() });
    assert_eq!(cause(&update), ErrorKind::Timeout);
    // And again when the call itself hangs.
    let began = Instant::now();
    let hanging = async {
        let call = script.watch().await;
        let next = script.watch().await;
        drop(call);
        next.open(&["a"])
    };
    let (update, _open) = tokio::join!(next(&mut updates), hanging);
    assert_eq!(instances(&update), ["a"]);
    assert!(began.elapsed() >= 20 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_lost_soon_after_it_was_opened_keeps_its_backoff() {
    let (mut updates, mut script) = watched();
    let began = Instant::now();
    let flapping = async {
        let mut attempts = 0;
        while began.elapsed() < 600 * SECOND {
            script.watch().await.open(&["a"]).fail(ErrorKind::Unavailable);
            attempts += 1;
        }
        attempts
    };
    let attempts = tokio::select! {
        attempts = flapping => attempts,
        () = updates.by_ref().for_each(|_| async {}) => unreachable!("a watcher never ends"),
    };
    assert!((80..300).contains(&attempts), "{attempts} attempts in ten minutes");
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_sent_at_its_beginning_and_at_its_end() {
    let (mut updates, mut script) = watched();
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a"]) });
    sleep(SECOND).await;
    let began = Instant::now();
    open.send(&["a", "b"]);
    assert_eq!(instances(&next(&mut updates).await), ["a", "b"]);
    assert_eq!(began.elapsed(), Duration::ZERO, "the first change goes out at once");
    open.send(&["a", "b", "c"]);
    open.send(&["a", "b", "c", "d"]);
    assert_eq!(instances(&next(&mut updates).await), ["a", "b", "c", "d"]);
    assert_eq!(began.elapsed(), Duration::from_millis(50), "the rest is gathered");
}

#[tokio::test(start_paused = true)]
async fn the_first_newcomer_after_a_removal_is_not_held_back() {
    let (mut updates, mut script) = watched();
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a", "b", "c"]) });
    for departure in [&["b", "c"][..], &["a*", "b", "c"]] {
        sleep(SECOND).await;
        let began = Instant::now();
        open.send(departure);
        assert_eq!(next(&mut updates).await.instances().count(), departure.len());
        advance(Duration::from_millis(7)).await;
        open.send(&["b", "c", "d"]);
        assert_eq!(instances(&next(&mut updates).await), ["b", "c", "d"]);
        assert_eq!(began.elapsed(), Duration::from_millis(7), "{departure:?}");
        // No more than one: further changes are coalesced as ever.
        open.send(&["b", "c"]);
        open.send(&["a", "b", "c"]);
        assert_eq!(instances(&next(&mut updates).await), ["a", "b", "c"]);
        assert_eq!(began.elapsed(), Duration::from_millis(57), "{departure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_repeated_snapshot_is_dropped_and_unchanged_instances_keep_their_arc() {
    let (mut updates, mut script) = watched();
    let (first, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a"]) });
    open.send(&["a"]);
    open.send(&["a", "b"]);
    let second = next(&mut updates).await;
    assert_eq!(instances(&second), ["a", "b"]);
    assert!(Arc::ptr_eq(first.instances().next().unwrap(), second.instances().next().unwrap()));
}

#[tokio::test(start_paused = true)]
async fn instances_of_a_wiped_registry_are_held_for_five_minutes() {
    let (mut updates, mut script) = watched();
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a", "b", "c"]) });
    open.send(&[]);
    let update = next(&mut updates).await;
    assert!(update.instances().next().is_none(), "a snapshot is the registry's truth");
    assert_eq!(names(&update.held), ["a", "b", "c"]);
    let emptied = Instant::now();
    open.send(&["b"]);
    let update = next(&mut updates).await;
    assert_eq!(
        (instances(&update), names(&update.held)),
        (vec!["b".to_owned()], vec!["a".to_owned(), "c".to_owned()])
    );
    advance(299 * SECOND).await;
    let update = next(&mut updates).await;
    assert!(update.held.is_empty());
    assert!((299..=301).contains(&emptied.elapsed().as_secs()), "{:?}", emptied.elapsed());
}

#[tokio::test(start_paused = true)]
async fn draining_is_observed_before_a_burst_is_coalesced() {
    let (mut updates, mut script) = watched();
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a", "b"]) });
    open.send(&["a*", "b*"]);
    open.send(&[]);
    let update = next(&mut updates).await;
    assert!(update.instances().next().is_none() && update.held.is_empty(), "{update:?}");
}

#[tokio::test(start_paused = true)]
async fn dropping_the_stream_ends_the_watch() {
    let (mut updates, mut script) = watched();
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a"]) });
    drop(updates);
    open.is_dropped().await;
    script.is_dropped().await;
}

#[tokio::test(start_paused = true)]
async fn errors_that_only_an_operator_can_correct_are_retried_slowly() {
    let mut waited = Duration::ZERO;
    for seed in 0..20 {
        let (resolver, mut script) = scripted();
        let mut updates = Box::pin(watcher(resolver, service(), WatcherConfig::default().with_seed(seed)));
        let second_try = async {
            script.watch().await.fail(ErrorKind::PermissionDenied);
            let began = Instant::now();
            let _second = script.watch().await;
            began.elapsed()
        };
        tokio::select! {
            delay = second_try => waited += delay,
            () = async { while updates.next().await.is_some() {} } => panic!("a watcher never ends"),
        }
    }
    // Up to 10 s each, drawn evenly; the first delay of an outage is 0.1 s on average.
    assert!(waited > 60 * SECOND, "{waited:?} for 20 delays");
}

#[tokio::test(start_paused = true)]
async fn the_coalescing_time_is_a_setting() {
    let (mut updates, mut script) = watched_with(WatcherConfig::default().with_coalesce(7 * SECOND));
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a"]) });
    let began = Instant::now();
    open.send(&["a", "b"]);
    open.send(&["a", "b", "c"]);
    assert_eq!(instances(&next(&mut updates).await), ["a", "b", "c"]);
    assert_eq!(began.elapsed(), 7 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_the_first_snapshot_is_a_setting() {
    let (mut updates, mut script) = watched_with(WatcherConfig::default().with_first_answer(3 * SECOND));
    let began = Instant::now();
    let (update, _silent) = tokio::join!(next(&mut updates), async { script.watch().await.open_silent() });
    assert_eq!((cause(&update), began.elapsed()), (ErrorKind::Timeout, 3 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_backoff_is_a_setting() {
    let fixed = Backoff::proportional(40 * SECOND, 1.0, 40 * SECOND, 0.0);
    let (mut updates, mut script) = watched_with(WatcherConfig::default().with_backoff(fixed));
    let (_, ()) =
        tokio::join!(next(&mut updates), async { script.watch().await.fail(ErrorKind::Unavailable) });
    let began = Instant::now();
    let (_, _open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a"]) });
    assert_eq!(began.elapsed(), 40 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_window_and_the_hold_time_of_the_protection_are_settings() {
    let protection = ProtectionConfig::default().with_window(10 * SECOND).with_hold(5 * SECOND);
    let (mut updates, mut script) = watched_with(WatcherConfig::default().with_protection(protection));
    let (_, open) =
        tokio::join!(next(&mut updates), async { script.watch().await.open(&["a", "b", "c", "d"]) });
    // One removal in eleven seconds each: never two within the window.
    for left in [&["b", "c", "d"][..], &["c", "d"], &["d"]] {
        advance(11 * SECOND).await;
        open.send(left);
        assert!(next(&mut updates).await.held.is_empty());
    }
    advance(11 * SECOND).await;
    open.send(&[]);
    assert_eq!(names(&next(&mut updates).await.held), ["d"]);
    let began = Instant::now();
    assert!(next(&mut updates).await.held.is_empty());
    assert_eq!(began.elapsed(), 5 * SECOND);
}

/// No duration from a setting or a registry is added to a time without a bound.
#[tokio::test(start_paused = true)]
async fn settings_without_a_limit_do_not_overflow() {
    let protection = ProtectionConfig::default().with_window(Duration::MAX).with_hold(Duration::MAX);
    let backoff = Backoff::full_jitter(Duration::MAX, f64::INFINITY, Duration::MAX);
    let config = WatcherConfig::default()
        .with_coalesce(Duration::ZERO)
        .with_first_answer(Duration::MAX)
        .with_backoff(backoff)
        .with_protection(protection);
    let (mut updates, mut script) = watched_with(config.clone());
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a"]) });
    open.send(&[]);
    assert_eq!(names(&next(&mut updates).await.held), ["a"]);
    open.fail(ErrorKind::Unavailable);
    assert_eq!(cause(&next(&mut updates).await), ErrorKind::Unavailable);

    let (mut updates, mut script) = watched_with(config.with_coalesce(Duration::MAX));
    let (_, open) = tokio::join!(next(&mut updates), async { script.watch().await.open(&["a"]) });
    open.send(&["a", "b"]);
    advance(3600 * SECOND).await;
    assert!(futures_util::FutureExt::now_or_never(updates.next()).is_none(), "it coalesces on");
}
