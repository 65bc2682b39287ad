//! A watch that never ends: the only place that retries a watch.
//!
//! [`Watcher`] is a state machine in the way of kube-runtime's: [`State`] is where snapshots come from at the moment,
//! [`State::step`] waits for what happens next, and [`Watcher::next`] applies it and decides what to send.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until, timeout};

use super::protection::HoldState;
use super::{Freshness, Update, WatcherConfig};
use crate::contain::{Contained, drop_contained};
use crate::metrics::{Source, WatchMetrics};
use crate::model::change;
use crate::time::after;
use crate::{
    Backoff, Change, Error, ErrorKind, Instance, InstanceState, Resolver, Result, ServiceName, Snapshot,
    SnapshotStream, SortedById,
};

/// How long a watch must last before the log has the end of an outage.
const ESTABLISHED_AFTER: Duration = Duration::from_secs(1);

/// Watches a service: a stream that never ends and never fails.
///
/// When the watch is lost, the last snapshot stays, [`Freshness::Stale`] is reported, and the watch is retried with
/// exponential backoff and jitter. Bursts of changes are coalesced: a change within 50 ms of the last update is sent at their
/// end ([`WatcherConfig::with_coalesce`]). Repeated snapshots are dropped, an instance that has not changed keeps its
/// [`Arc`], and instances that are removed in bulk are held ([`ProtectionConfig`](crate::ProtectionConfig)). The work for a
/// change does not grow with the service, if the backend's snapshots share what has not changed ([`Snapshot::of`]).
/// Programs usually share a watcher through [`Discovery`](crate::Discovery).
///
/// ```
/// use futures_util::StreamExt;
/// use hither_core::{Instance, StaticRegistry, WatcherConfig, watcher};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let resolver = StaticRegistry::new([Instance::new("10.0.0.7:8001".parse()?)]);
/// let mut updates = Box::pin(watcher(resolver, "greeter".parse()?, WatcherConfig::default()));
/// let update = updates.next().await.expect("a watcher never ends");
/// assert_eq!(update.instances().count(), 1);
/// assert!(update.freshness.is_fresh());
/// # Ok(())
/// # }
/// ```
///
/// # Cancellation
/// No task is spawned: dropping the stream ends the watch.
pub fn watcher(
    resolver: impl Resolver,
    service: ServiceName,
    config: WatcherConfig,
) -> impl Stream<Item = Update> + Send + 'static {
    watcher_from(Arc::new(resolver), service, config, None)
}

/// As [`watcher`], beginning with an older state of knowledge, such as one that was read from disk.
pub(super) fn watcher_from(
    resolver: Arc<dyn Resolver>,
    service: ServiceName,
    config: WatcherConfig,
    known: Option<Update>,
) -> impl Stream<Item = Update> + Send + 'static {
    let watcher = Watcher::new(resolver, service, config, known).know();
    stream::once(watcher).flat_map(|watcher| {
        stream::unfold(watcher, |mut watcher| async move {
            let update = watcher.next().await;
            Some((update, watcher))
        })
    })
}

struct Watcher {
    resolver: Arc<dyn Resolver>,
    service: ServiceName,
    config: WatcherConfig,
    backoff: Backoff,
    state: State,
    hold: HoldState,
    /// What the backend has sent last: what it sends next may share much with it.
    received: SortedById<Arc<Instance>>,
    /// What the next update is made of.
    update: Update,
    /// Failed attempts since a watch was last established.
    failures: u32,
    /// When a watch that was opened after a failure counts as established: a registry that can be listed and not watched
    /// makes every attempt a success, followed by an error.
    established_at: Option<Instant>,
    /// What has changed in `update` since it was last sent.
    news: News,
    /// Until when changes are coalesced.
    quiet_until: Option<Instant>,
    /// Whether what was sent last has only taken instances away. The first newcomer after that is not held back: it may
    /// be all that there is, after a restart.
    has_taken: bool,
    metrics: WatchMetrics,
}

/// What has changed since an update was sent.
#[derive(Debug, Default)]
struct News {
    any: bool,
    /// There is an instance that takes calls and did not before.
    gives: bool,
    /// There was one, and it takes none any more.
    takes: bool,
}

impl News {
    fn add(&mut self, change: &Change) {
        let is_up = |instance: &Instance| instance.state() == InstanceState::Up;
        let (was_up, is_up) = match change {
            Change::Insert(instance) => (false, is_up(instance)),
            Change::Update { from, to } => (is_up(from), is_up(to)),
            Change::Remove(instance) => (is_up(instance), false),
        };
        self.any = true;
        self.gives |= !was_up && is_up;
        self.takes |= was_up && !is_up;
    }
}

/// Where snapshots come from at the moment.
enum State {
    /// An attempt is under way; it has succeeded once the first snapshot is there.
    Opening(Opening),
    Watching {
        snapshots: SnapshotStream,
        since: Instant,
    },
    /// The next attempt begins then.
    Waiting(Instant),
}

type Opening = Pin<Box<dyn Future<Output = Result<(Snapshot, SnapshotStream)>> + Send>>;

/// What happened.
enum Event {
    Opened(Snapshot, SnapshotStream),
    Snapshot(Snapshot),
    Failed(Error),
    RetryIsDue,
}

impl State {
    /// Cancel-safe: a step that was dropped is taken again.
    async fn step(&mut self) -> Event {
        match self {
            Self::Opening(opening) => match opening.await {
                Ok((snapshot, snapshots)) => Event::Opened(snapshot, snapshots),
                Err(error) => Event::Failed(error),
            },
            Self::Watching { snapshots, .. } => match Contained::new(snapshots.next()).await {
                Ok(Some(Ok(snapshot))) => Event::Snapshot(snapshot),
                Ok(Some(Err(error))) => Event::Failed(error),
                Ok(None) => Event::Failed(watch_ended()),
                Err(panic) => Event::Failed(panicked(&panic)),
            },
            Self::Waiting(until) => {
                sleep_until(*until).await;
                Event::RetryIsDue
            }
        }
    }
}

impl Watcher {
    fn new(
        resolver: Arc<dyn Resolver>,
        service: ServiceName,
        config: WatcherConfig,
        known: Option<Update>,
    ) -> Self {
        let hold = HoldState::new(config.protection);
        let metrics = WatchMetrics::new(&service);
        if known.is_some() {
            metrics.received(Source::Disk);
        }
        let known_snapshot = known.as_ref().and_then(|known| known.snapshot.as_ref());
        let received = known_snapshot.map(Snapshot::instances).cloned().unwrap_or_default();
        let not_yet = || Update::unknown(Error::new(ErrorKind::Unavailable, "not resolved yet"));
        Self {
            backoff: config.backoff.clone(),
            state: State::Waiting(Instant::now()),
            hold,
            news: News { any: known.is_some(), ..News::default() },
            received,
            update: known.unwrap_or_else(not_yet),
            failures: 0,
            established_at: None,
            quiet_until: None,
            has_taken: false,
            metrics,
            resolver,
            service,
            config,
        }
    }

    /// Takes in the older state of knowledge, so that its instances are held if the registry has lost them.
    async fn know(mut self) -> Self {
        self.hold.know(&self.received, Instant::now()).await;
        self
    }

    async fn next(&mut self) -> Update {
        loop {
            if self.news.any && (self.quiet_until.is_none() || self.has_taken && self.news.gives) {
                self.has_taken = self.news.takes && !self.news.gives;
                self.news = News::default();
                self.quiet_until = Some(after(Instant::now(), self.config.coalesce));
                return self.update.clone();
            }
            let hold_ends = self.hold.next_release();
            tokio::select! {
                biased;
                () = sleep_until_some(self.quiet_until) => self.quiet_until = None,
                () = sleep_until_some(hold_ends) => {
                    self.hold.release(Instant::now()).await;
                    self.refresh_held(false);
                }
                () = sleep_until_some(self.established_at) => self.on_established(),
                event = self.state.step() => self.apply(event).await,
            }
        }
    }

    async fn apply(&mut self, event: Event) {
        match event {
            Event::Opened(snapshot, snapshots) => {
                let now = Instant::now();
                self.metrics.opened();
                self.enter(State::Watching { snapshots, since: now });
                self.established_at = (self.failures > 0).then(|| after(now, ESTABLISHED_AFTER));
                self.on_snapshot(snapshot).await;
            }
            Event::Snapshot(snapshot) => self.on_snapshot(snapshot).await,
            Event::Failed(cause) => self.on_error(cause),
            Event::RetryIsDue => self.enter(State::Opening(self.open())),
        }
    }

    fn enter(&mut self, state: State) {
        drop_contained(std::mem::replace(&mut self.state, state));
    }

    fn open(&self) -> Opening {
        let (resolver, service) = (Arc::clone(&self.resolver), self.service.clone());
        let within = self.config.first_answer;
        Box::pin(async move {
            let attempt = async {
                let mut snapshots = resolver.watch(&service).await?;
                match snapshots.next().await {
                    Some(Ok(snapshot)) => Ok((snapshot, snapshots)),
                    Some(Err(error)) => Err(error),
                    None => Err(watch_ended()),
                }
            };
            match timeout(within, Contained::new(attempt)).await {
                Ok(Ok(opened)) => opened,
                Ok(Err(panic)) => Err(panicked(&panic)),
                Err(_) => {
                    let why = format!("no snapshot of {service} within {within:?}");
                    Err(Error::new(ErrorKind::Timeout, why).with_operation("watch"))
                }
            }
        })
    }

    /// Takes what has changed since the last snapshot into the update, so that an instance that has not changed keeps its
    /// `Arc`, and two updates share all that they have in common.
    async fn on_snapshot(&mut self, snapshot: Snapshot) {
        let now = Instant::now();
        self.metrics.received(Source::Registry);
        let before = std::mem::replace(&mut self.received, snapshot.instances().clone());
        let mut instances =
            self.update.snapshot.as_ref().map(Snapshot::instances).cloned().unwrap_or_default();
        self.hold.begin(now).await;
        for pair in snapshot.instances().merge(&before) {
            consume_budget().await;
            let Some(change) = change(pair) else { continue };
            self.news.add(&change);
            // Before any change is coalesced away.
            self.hold.observe(&change, now);
            match change {
                Change::Insert(instance) | Change::Update { to: instance, .. } => {
                    instances.insert(instance);
                }
                Change::Remove(instance) => {
                    instances.remove(instance.id());
                }
            }
        }
        before.discard().await;
        let begins_to_hold = self.hold.count(instances.len(), now).await;
        self.news.any |= self.update.snapshot.is_none() || !self.update.freshness.is_fresh();
        let mut following = Snapshot::of(snapshot.service().clone(), instances);
        if let Some(revision) = snapshot.revision() {
            following = following.with_revision(revision.clone());
        }
        self.update.snapshot = Some(following);
        self.update.freshness = Freshness::Fresh;
        self.refresh_held(begins_to_hold);
    }

    fn on_established(&mut self) {
        (self.established_at, self.failures) = (None, 0);
        tracing::info!(service = %self.service, "watch re-established");
    }

    fn on_error(&mut self, cause: Error) {
        let now = Instant::now();
        self.metrics.failed(cause.kind());
        // A watch that is lost again and again soon after it was opened keeps its backoff.
        if let State::Watching { since, .. } = self.state
            && now.duration_since(since) >= self.backoff.longest()
        {
            self.backoff.reset();
        }
        let delay = match cause.kind() {
            // Only an operator can correct these, so there is no hurry; but they are corrected, so the retries go on.
            ErrorKind::Unauthenticated | ErrorKind::PermissionDenied | ErrorKind::InvalidArgument
                if !cause.is_retryable() =>
            {
                self.backoff.longest_delay()
            }
            _ => self.backoff.next_delay(),
        };
        let (since, age, is_news) = match &self.update.freshness {
            Freshness::Stale { since, age, cause: before } => {
                (*since, *age, self.failures == 0 || before.kind() != cause.kind())
            }
            Freshness::Fresh => (now, Duration::ZERO, true),
        };
        // The freshness is sent again when its kind of cause changes, not at each attempt.
        self.news.any |= is_news;
        self.established_at = None;
        self.failures = self.failures.saturating_add(1);
        let (service, failures, why) = (&self.service, self.failures, cause.report());
        // One line for an outage, however long it lasts.
        if failures == 1 {
            tracing::warn!(%service, cause = why, "watch lost; retrying");
        } else {
            tracing::debug!(%service, cause = why, failures, ?delay, "watch still lost");
        }
        self.update.freshness = Freshness::Stale { since, age, cause };
        self.enter(State::Waiting(after(now, delay)));
    }

    fn refresh_held(&mut self, begins_to_hold: bool) {
        let held = self.hold.held().clone();
        if held.is_same(&self.update.held) || held == self.update.held {
            return;
        }
        let service = &self.service;
        let (before, now) = (self.update.held.len(), held.len());
        if begins_to_hold {
            let ids = listed(&held);
            let registered = self.update.snapshot.as_ref().map_or(0, Snapshot::len);
            tracing::warn!(%service, held = now, registered, ids, "instances removed in bulk; called over open connections only");
        } else if held.is_empty() {
            tracing::info!(%service, released = before, "no instance held any more");
        } else {
            tracing::debug!(%service, held = now, released = before - now, "instances released");
        }
        self.update.held = held;
        self.news.any = true;
    }
}

/// The ids for a log line: the first ten.
fn listed(instances: &SortedById<Arc<Instance>>) -> String {
    let mut text =
        instances.iter().take(10).map(|instance| instance.id().as_str()).collect::<Vec<_>>().join(", ");
    if let Some(more) = instances.len().checked_sub(10).filter(|more| *more > 0) {
        text.push_str(&format!(" and {more} more"));
    }
    text
}

fn watch_ended() -> Error {
    Error::new(ErrorKind::Unavailable, "the registry ended the watch").with_operation("watch")
}

fn panicked(panic: &str) -> Error {
    Error::panicked(panic).with_operation("watch")
}

async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
