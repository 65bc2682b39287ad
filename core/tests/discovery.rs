//! One watch per service, shared by all who ask, under paused time.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_core::Stream;
use futures_util::{FutureExt, StreamExt};
use hither_core::{
    Discovery, ErrorKind, Freshness, Resolver, Result, ServiceName, Snapshot, SnapshotStream, StaticRegistry,
};
use support::{SECOND, names, scripted, service, snapshot, soon};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

#[tokio::test(start_paused = true)]
async fn all_views_of_a_service_share_one_watch() {
    let (resolver, mut script) = scripted();
    let discovery = Discovery::new(resolver);
    let views: Vec<_> = (0..100).map(|_| discovery.clone().service(&service())).collect();
    let _open = script.watch().await.open(&["a"]);
    for view in &views {
        assert_eq!(names(view.wait_ready(SECOND).await.unwrap().iter()), ["a"]);
    }
    assert!(!script.is_called(), "a second watch");
}

#[tokio::test(start_paused = true)]
async fn the_watch_ends_with_its_last_view_and_begins_again_with_the_next() {
    let (resolver, mut script) = scripted();
    let discovery = Discovery::new(resolver);
    let first = discovery.service(&service());
    let second = first.clone();
    let open = script.watch().await.open(&["a"]);
    drop(first);
    assert_eq!(second.wait_ready(SECOND).await.unwrap().len(), 1);
    drop(second);
    open.is_dropped().await;
    let again = discovery.service(&service());
    let _open = script.watch().await.open(&["b"]);
    assert_eq!(names(again.wait_ready(SECOND).await.unwrap().iter()), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn no_task_is_left_behind() {
    let (resolver, mut script) = scripted();
    let before = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let discovery = Discovery::new(resolver);
    let view = discovery.service(&service());
    let _open = script.watch().await.open(&["a"]);
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before + 1);
    drop((view, discovery));
    script.is_dropped().await;
    yield_now().await;
    assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), before);
}

#[tokio::test(start_paused = true)]
async fn a_view_returns_each_change_once_and_skips_intermediate_ones() {
    let (resolver, mut script) = scripted();
    let discovery = Discovery::new(resolver);
    let mut view = discovery.service(&service());
    assert!(
        view.current().snapshot.is_none() && !view.current().freshness.is_fresh(),
        "nothing is known yet"
    );
    let open = script.watch().await.open(&["a"]);
    assert_eq!(names(soon(view.changed()).await.unwrap().instances()), ["a"]);
    assert!(view.changed().now_or_never().is_none(), "returned twice");
    open.send(&["a", "b"]);
    sleep(SECOND).await;
    open.send(&["a", "b", "c"]);
    sleep(SECOND).await;
    assert_eq!(names(soon(view.changed()).await.unwrap().instances()), ["a", "b", "c"]);
    let mut updates = Box::pin(view.updates());
    assert_eq!(
        names(soon(updates.next()).await.unwrap().instances()),
        ["a", "b", "c"],
        "updates begin with now"
    );
}

#[tokio::test(start_paused = true)]
async fn ready_names_what_is_missing() {
    let (resolver, mut script) = scripted();
    let discovery = Discovery::new(resolver);
    let view = discovery.service(&service());
    let began = Instant::now();
    script.watch().await.fail(ErrorKind::PermissionDenied);
    let error = view.wait_ready(5 * SECOND).await.unwrap_err();
    assert_eq!(began.elapsed(), 5 * SECOND);
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.report().contains("permission denied"), "{}", error.report());

    let open = script.watch().await.open(&[]);
    let error = view.wait_ready(5 * SECOND).await.unwrap_err();
    assert!(error.to_string().contains("no instance is registered"), "{error}");
    let (ready, ()) = tokio::join!(view.wait_ready(5 * SECOND), async { open.send(&["a"]) });
    assert_eq!(ready.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn ready_returns_the_last_snapshot_during_an_outage() {
    let (resolver, mut script) = scripted();
    let discovery = Discovery::new(resolver);
    let view = discovery.service(&service());
    let open = script.watch().await.open(&["a"]);
    view.wait_ready(SECOND).await.unwrap();
    open.fail(ErrorKind::Unavailable);
    sleep(3600 * SECOND).await;
    assert!(matches!(view.current().freshness, Freshness::Stale { .. }));
    assert_eq!(view.wait_ready(SECOND).await.unwrap().len(), 1);
}

#[test]
fn a_view_made_outside_a_runtime_reports_it() {
    let discovery = Discovery::new(StaticRegistry::new([]));
    let view = discovery.service(&service());
    let Freshness::Stale { cause, .. } = view.current().freshness else { panic!("it cannot be fresh") };
    assert!(cause.to_string().contains("runtime"), "{cause}");
}

#[test]
fn a_watch_whose_runtime_was_shut_down_is_reported_and_restarted() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let discovery = Discovery::new(StaticRegistry::new([support::instance("a").as_ref().clone()]));
    let first = runtime();
    let mut view = first.block_on(async {
        let view = discovery.service(&service());
        view.wait_ready(SECOND).await.unwrap();
        view
    });
    drop(first);
    let second = runtime();
    second.block_on(async {
        view.updates().for_each(|_| async {}).await;
        let error = loop {
            if let Err(error) = view.changed().await {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
        assert_eq!(view.current().instances().count(), 1, "what was known is still at hand");
        let mut anew = discovery.service(&service());
        assert_eq!(anew.wait_ready(SECOND).await.unwrap().len(), 1);
        while let Some(update) = anew.changed().now_or_never() {
            update.expect("the service is watched again");
        }
    });
}

/// Where a resolver panics at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum At {
    Nowhere,
    Watch,
    Poll,
    Drop,
}

#[derive(Debug, Clone)]
struct Broken(Arc<AtomicU8>);

impl Broken {
    fn check(&self, at: At) {
        assert!(self.0.load(Ordering::SeqCst) != at as u8, "a bug at {at:?}");
    }
}

#[async_trait]
impl Resolver for Broken {
    async fn resolve(&self, _service: &ServiceName) -> Result<Snapshot> {
        Ok(snapshot(&["a"]))
    }

    async fn watch(&self, _service: &ServiceName) -> Result<SnapshotStream> {
        self.check(At::Watch);
        let (broken, first) = (self.clone(), Some(snapshot(&["a"])));
        Ok(Box::pin(BrokenStream { broken, first, polled: Box::pin(sleep(SECOND)) }))
    }
}

/// Sends a snapshot, and fails after a second.
struct BrokenStream {
    broken: Broken,
    first: Option<Snapshot>,
    polled: Pin<Box<tokio::time::Sleep>>,
}

impl Stream for BrokenStream {
    type Item = Result<Snapshot>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Snapshot>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        std::task::ready!(self.polled.as_mut().poll(cx));
        self.broken.check(At::Poll);
        Poll::Ready(Some(Err(support::error(ErrorKind::Unavailable))))
    }
}

impl Drop for BrokenStream {
    fn drop(&mut self) {
        self.broken.check(At::Drop);
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_panics_is_a_registry_that_fails() {
    for at in [At::Watch, At::Poll, At::Drop] {
        let broken = Broken(Arc::new(AtomicU8::new(at as u8)));
        let discovery = Discovery::new(broken.clone());
        let mut view = discovery.service(&service());
        let told = soon(async {
            loop {
                let update = view.changed().await.expect("the watch goes on");
                if let Freshness::Stale { cause, .. } = update.freshness {
                    return cause;
                }
            }
        })
        .await;
        let (kind, text) = match at {
            At::Drop => (ErrorKind::Unavailable, "as scripted".to_owned()),
            at => (ErrorKind::Unexpected, format!("panic: a bug at {at:?}")),
        };
        assert_eq!(told.kind(), kind);
        assert!(told.report().ends_with(&text), "{}", told.report());
        if at != At::Watch {
            assert_eq!(names(view.current().instances()), ["a"], "the last snapshot stays");
        }
        broken.0.store(At::Nowhere as u8, Ordering::SeqCst);
        soon(async {
            while !view.current().freshness.is_fresh() {
                view.changed().await.unwrap();
            }
        })
        .await;
        assert_eq!(names(view.current().instances()), ["a"]);
    }
}
