//! The watch that never ends: the only place that tries a watch again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::{Instant, sleep_until, timeout};

use super::cache::Cached;
use super::protection::Guard;
use super::{Freshness, Update, WatcherConfig};
use crate::{Backoff, Error, ErrorKind, Instance, Resolver, Result, ServiceName, Snapshot, SnapshotStream};

/// Watches a service for ever: a stream that never ends and never fails.
///
/// When the registry is lost it keeps the last good snapshot, says so ([`Freshness::Stale`]), and tries again
/// with jittered backoff. Bursts are coalesced, repeated snapshots swallowed, and instances that vanish
/// together without a word are held ([`Protection`]). Programs usually share one through
/// [`Discovery`](crate::Discovery).
///
/// ```
/// use futures_util::StreamExt;
/// use hither_core::{Instance, StaticResolver, WatcherConfig, watcher};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let resolver = StaticResolver::new([Instance::new("10.0.0.7:8001".parse()?)]);
/// let mut updates = Box::pin(watcher(resolver, "greeter".parse()?, WatcherConfig::default()));
/// let update = updates.next().await.expect("a watcher never ends");
/// assert_eq!(update.instances().len(), 1);
/// assert!(update.freshness.is_fresh());
/// # Ok(())
/// # }
/// ```
///
/// # Cancellation
/// Nothing is spawned: dropping the stream ends the watch.
pub fn watcher(
    resolver: impl Resolver,
    service: ServiceName,
    config: WatcherConfig,
) -> impl Stream<Item = Update> + Send + 'static {
    watcher_from(resolver, service, config, None)
}

/// The same, beginning with what was found on disk.
pub(crate) fn watcher_from(
    resolver: impl Resolver,
    service: ServiceName,
    config: WatcherConfig,
    cached: Option<Cached>,
) -> impl Stream<Item = Update> + Send + 'static {
    let mut watcher = Watcher {
        guard: Guard::new(config.protection),
        backoff: config.backoff.clone(),
        resolver: Arc::new(resolver),
        service,
        config,
        source: Source::Idle,
        opened: None,
        snapshot: None,
        stale: None,
        lost: false,
        pending: true,
        quiet_until: None,
        held: Arc::new([]),
    };
    if let Some(cached) = cached {
        watcher.begin_with(cached);
    }
    stream::unfold(watcher, |mut watcher| async move {
        let update = watcher.next().await;
        Some((update, watcher))
    })
}

type Opening = Pin<Box<dyn Future<Output = Result<(Snapshot, SnapshotStream)>> + Send>>;

/// Where snapshots come from at the moment.
enum Source {
    Idle,
    Opening(Opening),
    Open(SnapshotStream),
    Waiting(Instant),
}

/// What can happen next.
enum Event {
    Snapshot(Snapshot),
    Lost(Error),
    Retry,
    HoldEnds,
    BurstEnds,
}

struct Stale {
    since: Instant,
    age: Duration,
    cause: Error,
}

struct Watcher {
    config: WatcherConfig,
    resolver: Arc<dyn Resolver>,
    service: ServiceName,
    backoff: Backoff,
    guard: Guard,
    source: Source,
    /// When the present watch brought its first snapshot.
    opened: Option<Instant>,
    snapshot: Option<Snapshot>,
    /// `None` is fresh.
    stale: Option<Stale>,
    /// An attempt has failed since the registry was last heard.
    lost: bool,
    /// Something changed that nobody was told yet.
    pending: bool,
    /// Changes are gathered until then.
    quiet_until: Option<Instant>,
    held: Arc<[Arc<Instance>]>,
}

impl Watcher {
    async fn next(&mut self) -> Update {
        loop {
            let spoken = self.snapshot.is_some() || self.stale.is_some();
            if self.pending && spoken && self.quiet_until.is_none() {
                self.pending = false;
                self.quiet_until = Some(Instant::now() + self.config.coalesce);
                return self.update();
            }
            match self.event().await {
                Event::Snapshot(snapshot) => self.take(snapshot),
                Event::Lost(error) => self.lose(error),
                Event::Retry => self.source = Source::Idle,
                Event::HoldEnds => {
                    self.guard.release(Instant::now());
                    self.refresh_held();
                }
                Event::BurstEnds => self.quiet_until = None,
            }
        }
    }

    async fn event(&mut self) -> Event {
        if matches!(self.source, Source::Idle) {
            self.source = Source::Opening(self.open());
        }
        let (hold_ends, burst_ends) = (self.guard.next_release(), self.quiet_until);
        tokio::select! {
            biased;
            () = until(burst_ends) => Event::BurstEnds,
            () = until(hold_ends) => Event::HoldEnds,
            event = self.source.event() => match event {
                Ok((snapshot, opened)) => {
                    if let Some(opened) = opened {
                        self.source = Source::Open(opened);
                        self.opened = Some(Instant::now());
                    }
                    snapshot.map_or(Event::Retry, Event::Snapshot)
                }
                Err(error) => Event::Lost(error),
            },
        }
    }

    /// One attempt: it is done once the first snapshot is there.
    fn open(&self) -> Opening {
        let (resolver, service, since) =
            (Arc::clone(&self.resolver), self.service.clone(), self.snapshot.clone());
        let within = self.config.first_answer;
        Box::pin(async move {
            let attempt = async {
                let mut snapshots = resolver.watch(&service, since).await?;
                match snapshots.next().await {
                    Some(Ok(snapshot)) => Ok((snapshot, snapshots)),
                    Some(Err(error)) => Err(error),
                    None => Err(ended()),
                }
            };
            timeout(within, attempt).await.unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!("the registry sent nothing about {service} within {within:?}"),
                )
                .with_operation("watch"))
            })
        })
    }

    /// Knows what was found on disk, until the registry says something.
    fn begin_with(&mut self, Cached { snapshot, age }: Cached) {
        let now = Instant::now();
        // So the instances may be called, and where the registry has lost them they are held.
        self.guard.observe(&snapshot, now);
        let why = format!("{} has not been resolved yet, and is known from disk", self.service);
        let cause = Error::new(ErrorKind::Unavailable, why).with_operation("watch");
        self.stale = Some(Stale { since: now, age, cause });
        self.snapshot = Some(snapshot);
    }

    fn take(&mut self, snapshot: Snapshot) {
        let snapshot = match &self.snapshot {
            Some(last) => snapshot.reusing(last),
            None => snapshot,
        };
        self.guard.observe(&snapshot, Instant::now());
        self.refresh_held();
        let changed = self.snapshot.as_ref().is_none_or(|last| !snapshot.diff(last).is_empty());
        let recovered = self.stale.take().is_some();
        if std::mem::take(&mut self.lost) {
            tracing::info!(service = %self.service, "watched again");
        }
        self.pending |= changed || recovered;
        self.snapshot = Some(snapshot);
    }

    fn lose(&mut self, cause: Error) {
        let now = Instant::now();
        // A watch that dies young again and again is not a success.
        if self.opened.take().is_some_and(|opened| now.duration_since(opened) >= self.backoff.longest()) {
            self.backoff.reset();
        }
        let delay = match cause.kind() {
            // Only a person can mend these, so there is no hurry; but they are mended, so there is no end.
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied | ErrorKind::InvalidArgument
                if !cause.is_retryable() =>
            {
                self.backoff.longest_delay()
            }
            _ => self.backoff.next_delay(),
        };
        // Once for each outage, however long it lasts.
        let (service, why) = (&self.service, cause.report());
        if std::mem::replace(&mut self.lost, true) {
            tracing::debug!(%service, cause = why, ?delay, "watch still lost");
        } else {
            tracing::warn!(%service, cause = why, "watch lost, and trying on");
        }
        // The freshness is told anew when it changes or its reason does, not at each attempt.
        self.pending |= self.stale.as_ref().is_none_or(|stale| stale.cause.kind() != cause.kind());
        let (since, age) = self.stale.take().map_or((now, Duration::ZERO), |stale| (stale.since, stale.age));
        self.stale = Some(Stale { since, age, cause });
        self.source = Source::Waiting(now + delay);
    }

    fn refresh_held(&mut self) {
        let held = self.guard.held();
        if held != self.held {
            self.held = held;
            self.pending = true;
        }
    }

    fn update(&self) -> Update {
        let freshness = match &self.stale {
            None => Freshness::Fresh,
            Some(Stale { since, age, cause }) => {
                Freshness::Stale { since: *since, age: *age, cause: cause.clone() }
            }
        };
        Update { snapshot: self.snapshot.clone(), held: Arc::clone(&self.held), freshness }
    }
}

impl Source {
    /// A snapshot, with the stream behind it where that is new; or neither, when the time for a retry has come.
    async fn event(&mut self) -> Result<(Option<Snapshot>, Option<SnapshotStream>)> {
        match self {
            Self::Idle => Ok((None, None)),
            Self::Opening(opening) => opening.await.map(|(snapshot, opened)| (Some(snapshot), Some(opened))),
            Self::Open(snapshots) => match snapshots.next().await {
                Some(snapshot) => snapshot.map(|snapshot| (Some(snapshot), None)),
                None => Err(ended()),
            },
            Self::Waiting(at) => {
                sleep_until(*at).await;
                Ok((None, None))
            }
        }
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::Unavailable, "the registry ended the watch").with_operation("watch")
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
