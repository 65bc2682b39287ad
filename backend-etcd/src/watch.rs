//! Watching: list at a revision, follow from there, and never go silently deaf.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{PbEvent, PbTxnOpResponse};
use etcd_client::{GetOptions, Txn, TxnOp, WatchOptions, WatchResponse, WatchStream};
use futures_util::stream::try_unfold;
use hither_core::{Error, Result, ServiceName, Snapshot, SnapshotStream};
use tokio::time::{Instant, timeout_at};

use crate::error::{Failure, Reason};
use crate::list::{self, prefix_end};
use crate::pool::Lent;
use crate::registry::Shared;
use crate::view::{Mark, View};

/// A progress request has no number, and etcd drops it without a word while it still reads history for the watch.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Watches `service`: one attempt, which ends at its first error.
pub(crate) async fn open(
    shared: Arc<Shared>,
    service: &ServiceName,
    since: Option<Snapshot>,
) -> Result<SnapshotStream> {
    let lent = shared.connection().await?;
    let prefix = shared.format.service_prefix(service);
    let since = since.filter(|since| since.service() == service);
    let start = match &since {
        Some(since) => resume(&lent, &prefix, since).await?,
        None => None,
    };
    let start = match start {
        Some(start) => start,
        None => {
            let listed = list::service(&shared, &lent, service).await?;
            Start { view: reusing(since.as_ref(), listed), catch_up: None }
        }
    };
    let follow = Follow::open(shared, lent, service.clone(), prefix, start).await?;
    Ok(Box::pin(try_unfold(follow, |mut follow| async move {
        match follow.next().await {
            Ok(snapshot) => Ok(Some((snapshot, follow))),
            Err(error) => Err(error.with_operation("watch")),
        }
    })))
}

/// From where to follow.
struct Start {
    view: View,
    /// The view is older than etcd: up to this revision, events are still to be applied before it is the present.
    catch_up: Option<i64>,
}

fn reusing(since: Option<&Snapshot>, listed: View) -> View {
    let Some(since) = since else { return listed };
    let mut view = View::resumed(since, None);
    view.become_listed(listed);
    view
}

/// Takes up where `since` stands, if etcd still has the history that it is part of.
///
/// `None` when a listing is needed: because of a compaction, an etcd that was wiped, restored or replaced, or one
/// so old that a watch cannot know when it has caught up.
async fn resume(lent: &Lent, prefix: &str, since: &Snapshot) -> Result<Option<Start>> {
    let Some(mark) = Mark::of(since) else { return Ok(None) };
    let Some(witness) = &mark.witness else { return Ok(None) };
    let then = || GetOptions::new().with_revision(mark.revision);
    let of_service = || then().with_range(prefix_end(prefix.as_bytes()));
    let newer = of_service().with_min_mod_revision(witness.mod_revision + 1).with_keys_only().with_limit(1);
    let looks = Txn::new().and_then([
        TxnOp::get(format!("{prefix}{}", witness.suffix), Some(then())),
        TxnOp::get(prefix, Some(of_service().with_count_only())),
        TxnOp::get(prefix, Some(newer)),
    ]);
    let answer = match lent.call(lent.connection().kv().txn(looks)).await {
        Ok(answer) => answer,
        Err(failure) if failure.reason == Reason::RevisionUnknown => return Ok(None),
        Err(failure) => return Err(failure.error),
    };
    let Some(header) = answer.header() else { return Ok(None) };
    let mut looked = answer.0.responses.iter().filter_map(|response| match &response.response {
        Some(PbTxnOpResponse::ResponseRange(range)) => Some(range),
        _ => None,
    });
    let (Some(stood), Some(counted), Some(newer)) = (looked.next(), looked.next(), looked.next()) else {
        return Ok(None);
    };
    let stood = stood.kvs.first().map(|kv| (kv.mod_revision, kv.lease));
    let is_ours = header.cluster_id() == mark.cluster
        && stood == Some((witness.mod_revision, witness.lease))
        && counted.count == mark.count
        && newer.kvs.is_empty();
    if !is_ours {
        return Ok(None);
    }
    let view = View::resumed(since, Some(&mark));
    if header.revision() == mark.revision {
        return Ok(Some(Start { view, catch_up: None }));
    }
    if lent.connection().version().orders_progress() {
        return Ok(Some(Start { view, catch_up: Some(header.revision()) }));
    }
    Ok(None)
}

/// A watch that is open.
struct Follow {
    shared: Arc<Shared>,
    lent: Lent,
    stream: WatchStream,
    service: ServiceName,
    prefix: String,
    view: View,
    /// The first snapshot, until it was taken.
    first: Option<Snapshot>,
    catch_up: Option<i64>,
    /// The pieces so far of a response that comes in several.
    pieces: Vec<PbEvent>,
    /// When to ask whether etcd is still there.
    ask_at: Instant,
    /// Since when it has not answered that.
    asked: Option<Instant>,
    resync_at: Instant,
}

impl Follow {
    async fn open(
        shared: Arc<Shared>,
        lent: Lent,
        service: ServiceName,
        prefix: String,
        start: Start,
    ) -> Result<Self> {
        let Start { view, catch_up } = start;
        // From the revision that the view has, not from the next one: as long as nothing is written anywhere, the next
        // one lies in the future, and of such a watch newer etcds answer no progress requests.
        let options = WatchOptions::new()
            .with_range(prefix_end(prefix.as_bytes()))
            .with_start_revision(view.revision())
            .with_fragment();
        let mut client = lent.connection().watch();
        let opened = async {
            let mut stream = lent.call(client.watch(prefix.as_str(), Some(options))).await?;
            let created = lent.call(stream.message()).await?;
            Ok((stream, created))
        };
        let (stream, created) = opened.await.map_err(|failure: Failure| failure.error)?;
        let now = Instant::now();
        // Who is catching up asks at once how far etcd is.
        let ask_at = if catch_up.is_some() { now } else { now + shared.options.probe_interval() };
        let follow = Self {
            first: catch_up.is_none().then(|| view.snapshot()),
            ask_at,
            asked: None,
            resync_at: now + shared.options.jittered_resync_interval(),
            pieces: Vec::new(),
            shared,
            lent,
            stream,
            service,
            prefix,
            view,
            catch_up,
        };
        let Some(created) = created else { return Err(follow.ended()) };
        follow.check(&created)?;
        // Asked for the future, etcd waits for it without a word: as after a restart with older data, or none.
        if created.header().is_some_and(|header| header.revision() < follow.view.revision()) {
            return Err(follow.another_past());
        }
        Ok(follow)
    }

    async fn next(&mut self) -> Result<Snapshot> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        loop {
            let wake = self.ask_at.min(self.resync_at).min(self.lost_at().unwrap_or(self.ask_at));
            let news = match timeout_at(wake, self.stream.message()).await {
                Ok(Ok(Some(response))) => self.hear(response)?,
                Ok(Ok(None)) => return Err(self.ended()),
                Ok(Err(error)) => {
                    let failure = Failure::of(error, self.lent.connection().endpoint());
                    return Err(self.lent.failed(failure).error);
                }
                Err(_) => self.tick().await?,
            };
            if news && self.catch_up.is_none() {
                return Ok(self.view.snapshot());
            }
        }
    }

    /// Takes a response in, and says whether there is something to tell.
    fn hear(&mut self, response: WatchResponse) -> Result<bool> {
        self.check(&response)?;
        let revision = response.header().map_or(0, |header| header.revision());
        let response = response.0;
        if response.events.is_empty() {
            // How far etcd is. That all events up to there have been delivered is true only of the versions that
            // are trusted with it: see `Version::orders_progress`.
            let caught_up = self.catch_up.take_if(|until| revision >= *until && self.pieces.is_empty());
            self.heard();
            return Ok(caught_up.is_some());
        }
        self.heard();
        self.pieces.extend(response.events);
        if response.fragment {
            return Ok(false);
        }
        let events = std::mem::take(&mut self.pieces);
        Ok(self.view.apply(&self.shared, self.prefix.as_bytes(), &events))
    }

    /// Refuses a response that ends the watch, or that comes from another etcd than the view.
    fn check(&self, response: &WatchResponse) -> Result<()> {
        let connection = self.lent.connection();
        // Before `created`: a watch that is refused is both.
        if response.canceled() {
            let (reason, compacted) = (response.cancel_reason(), response.compact_revision());
            let failure = Failure::of_cancelled_watch(reason, compacted, connection.endpoint());
            return Err(self.lent.failed(failure).error);
        }
        match response.header() {
            Some(header) if header.cluster_id() == self.view.cluster() => Ok(()),
            Some(_) => Err(self.another_past()),
            None => Err(self.lent.failed(connection.nonsense("a watch response without a header")).error),
        }
    }

    fn heard(&mut self) {
        let silence = if self.catch_up.is_some() { ASK_AGAIN } else { self.shared.options.probe_interval() };
        (self.ask_at, self.asked) = (Instant::now() + silence, None);
    }

    /// When to believe that nobody is there. Who was not asked has not failed to answer: a watch that nobody polled for
    /// long, or whose whole process stood still, has to ask first.
    fn lost_at(&self) -> Option<Instant> {
        self.asked.map(|asked| asked + self.shared.options.request_timeout())
    }

    /// Does what is due though nothing is heard, and says whether there is something to tell.
    async fn tick(&mut self) -> Result<bool> {
        let now = Instant::now();
        if self.lost_at().is_some_and(|lost_at| lost_at <= now) {
            self.unanswered().await?;
        } else if self.ask_at <= now {
            // Only queued: what counts is that something is heard.
            self.lent.call(self.stream.request_progress()).await.map_err(|failure| failure.error)?;
            self.ask_at = now + ASK_AGAIN;
            self.asked.get_or_insert(now);
        }
        if self.resync_at <= now {
            self.resync_at = now + self.shared.options.jittered_resync_interval();
            return self.resync().await;
        }
        Ok(false)
    }

    /// No probe had an answer: the watch is lost, unless this is a version that may give none.
    async fn unanswered(&mut self) -> Result<()> {
        let connection = self.lent.connection();
        if connection.version().answers_progress() {
            let within = self.shared.options.request_timeout();
            let failure = Failure::timeout(connection.endpoint(), within);
            return Err(self.lent.failed(failure).error);
        }
        let alive = connection.is_alive(self.shared.options.request_timeout()).await;
        alive.map_err(|failure| self.lent.failed(failure).error)?;
        self.heard();
        Ok(())
    }

    /// Compares the view with a listing.
    async fn resync(&mut self) -> Result<bool> {
        let listed = list::service(&self.shared, &self.lent, &self.service).await?;
        if listed.cluster() != self.view.cluster() || listed.revision() < self.view.revision() {
            return Err(self.another_past());
        }
        let changed = self.view.become_listed(listed);
        // A listing is the present. What is on its way from before it is an echo, and known as one.
        Ok(changed | self.catch_up.take().is_some())
    }

    fn another_past(&self) -> Error {
        let endpoint = self.lent.connection().endpoint();
        self.lent.failed(Failure::unavailable(endpoint, "its data is not what it was")).error
    }

    fn ended(&self) -> Error {
        let endpoint = self.lent.connection().endpoint();
        self.lent.failed(Failure::unavailable(endpoint, "it ended the watch")).error
    }
}
