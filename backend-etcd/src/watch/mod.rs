//! Watching: list at a revision, watch from there, and never go silently deaf.

pub(crate) mod listing;
pub(crate) mod position;
pub(crate) mod view;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::PbEvent;
use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use futures_util::stream::try_unfold;
use hither_core::{Error, Result, ServiceName, Snapshot, SnapshotStream};
use tokio::time::{Instant, timeout_at};

use crate::client::endpoints::Checkout;
use crate::client::error::Failure;
use crate::context::Context;
use listing::{self as list, prefix_end};
use view::View;

/// A progress request has no number, and etcd drops it without a word while it still reads history for the watch.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Watches `service`: one attempt, which ends at its first error.
pub(crate) async fn open(
    context: Arc<Context>,
    service: &ServiceName,
    since: Option<Snapshot>,
) -> Result<SnapshotStream> {
    let checkout = context.connection().await?;
    let prefix = context.codec.service_prefix(service);
    // A listing says at once what the history since that snapshot would say in the end, and cannot be of another
    // history. etcd would have to read all that was written since, by whomever.
    let mut view = list::service(&context, &checkout, service).await?;
    if let Some(since) = since.filter(|since| since.service() == service) {
        let mut known = View::of(&since);
        known.replace_with(view);
        view = known;
    }
    let watch = EtcdWatch::open(context, checkout, service.clone(), prefix, view).await?;
    Ok(Box::pin(try_unfold(watch, |mut watch| async move {
        match watch.next().await {
            Ok(snapshot) => Ok(Some((snapshot, watch))),
            Err(error) => Err(error.with_operation("watch")),
        }
    })))
}

/// A watch that is open.
struct EtcdWatch {
    context: Arc<Context>,
    checkout: Checkout,
    stream: WatchStream,
    service: ServiceName,
    prefix: String,
    view: View,
    /// The first snapshot, until it was taken.
    first: Option<Snapshot>,
    /// The pieces so far of a response that comes in several.
    pieces: Vec<PbEvent>,
    /// When to ask whether etcd is still there.
    ask_at: Instant,
    /// Since when it has not answered that.
    asked: Option<Instant>,
    /// Something was missed, and nothing heard since.
    missed: bool,
    resync_at: Instant,
}

impl EtcdWatch {
    async fn open(
        context: Arc<Context>,
        checkout: Checkout,
        service: ServiceName,
        prefix: String,
        view: View,
    ) -> Result<Self> {
        // From the revision that the view has, not from the next one: as long as nothing is written anywhere, the next
        // one lies in the future, and of such a watch newer etcds answer no progress requests.
        let options = WatchOptions::new()
            .with_range(prefix_end(prefix.as_bytes()))
            .with_start_revision(view.revision())
            .with_fragment();
        let mut client = checkout.connection().watch();
        let opened = async {
            let mut stream = checkout.call(client.watch(prefix.as_str(), Some(options))).await?;
            let created = checkout.call(stream.message()).await?;
            Ok((stream, created))
        };
        let (stream, created) = opened.await.map_err(|failure: Failure| failure.error)?;
        let now = Instant::now();
        let watch = Self {
            first: Some(view.snapshot()),
            ask_at: now + context.config.probe_interval(),
            asked: None,
            missed: false,
            resync_at: now + context.config.jittered_resync_interval(),
            pieces: Vec::new(),
            context,
            checkout,
            stream,
            service,
            prefix,
            view,
        };
        let Some(created) = created else { return Err(watch.ended()) };
        watch.check(&created)?;
        // Asked for the future, etcd waits for it without a word: as after a restart with older data, or none.
        if created.header().is_some_and(|header| header.revision() < watch.view.revision()) {
            return Err(watch.another_past());
        }
        Ok(watch)
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
                    let failure = Failure::of(error, self.checkout.connection().endpoint());
                    return Err(self.checkout.failed(failure).error);
                }
                Err(_) => self.tick().await?,
            };
            if news {
                return Ok(self.view.snapshot());
            }
        }
    }

    /// Takes a response in, and says whether there is something to tell.
    fn hear(&mut self, response: WatchResponse) -> Result<bool> {
        self.check(&response)?;
        self.heard();
        let response = response.0;
        self.pieces.extend(response.events);
        if response.fragment {
            return Ok(false);
        }
        let events = std::mem::take(&mut self.pieces);
        Ok(self.view.apply(&self.context, self.prefix.as_bytes(), &events))
    }

    /// Refuses a response that ends the watch, or that comes from another etcd than the view.
    fn check(&self, response: &WatchResponse) -> Result<()> {
        let connection = self.checkout.connection();
        // Before `created`: a watch that is refused is both.
        if response.canceled() {
            let (reason, compacted) = (response.cancel_reason(), response.compact_revision());
            let failure = Failure::of_cancelled_watch(reason, compacted, connection.endpoint());
            return Err(self.checkout.failed(failure).error);
        }
        match response.header() {
            Some(header) if header.cluster_id() == self.view.cluster() => Ok(()),
            Some(_) => Err(self.another_past()),
            None => Err(self.checkout.failed(connection.nonsense("a watch response without a header")).error),
        }
    }

    fn heard(&mut self) {
        self.missed = false;
        self.ask_later();
    }

    fn ask_later(&mut self) {
        (self.ask_at, self.asked) = (Instant::now() + self.context.config.probe_interval(), None);
    }

    /// When to believe that there is no answer. Who was not asked has not failed to answer: a watch that nobody polled for
    /// long, or whose whole process stood still, has to ask first.
    fn lost_at(&self) -> Option<Instant> {
        self.asked.map(|asked| asked + self.context.config.request_timeout())
    }

    /// Does what is due though nothing is heard, and says whether there is something to tell.
    async fn tick(&mut self) -> Result<bool> {
        let now = Instant::now();
        let (probe_interval, within) =
            (self.context.config.probe_interval(), self.context.config.request_timeout());
        if self.lost_at().is_some_and(|lost_at| lost_at <= now) {
            return self.unanswered().await;
        } else if self.ask_at <= now {
            let confirmed = self.checkout.connection().confirms(&self.prefix, probe_interval, within).await;
            confirmed.map_err(|failure| self.checkout.failed(failure).error)?;
            // Only queued: what counts is that something is heard.
            self.checkout.call(self.stream.request_progress()).await.map_err(|failure| failure.error)?;
            let now = Instant::now();
            self.ask_at = now + ASK_AGAIN;
            self.asked.get_or_insert(now);
        }
        if self.resync_at <= now {
            self.resync_at = now + self.context.config.jittered_resync_interval();
            return self.resync().await;
        }
        Ok(false)
    }

    /// The member lives, but does not say that this watch does. Some versions may never say that of one on which there was no
    /// event yet (etcd-io/etcd#17507). So a listing says whether anything was missed; and a watch that has missed something,
    /// and is silent still when it was asked again, is lost.
    async fn unanswered(&mut self) -> Result<bool> {
        if self.missed {
            let endpoint = self.checkout.connection().endpoint();
            let failure = Failure::timeout(endpoint, self.context.config.request_timeout());
            return Err(self.checkout.failed(failure).error);
        }
        self.missed = self.resync().await?;
        self.ask_later();
        Ok(self.missed)
    }

    /// Compares the view with a listing.
    async fn resync(&mut self) -> Result<bool> {
        let listed = list::service(&self.context, &self.checkout, &self.service).await?;
        if listed.cluster() != self.view.cluster() || listed.revision() < self.view.revision() {
            return Err(self.another_past());
        }
        // What is on its way from before it is an echo, and known as one.
        Ok(self.view.replace_with(listed))
    }

    fn another_past(&self) -> Error {
        let endpoint = self.checkout.connection().endpoint();
        self.checkout.failed(Failure::unavailable(endpoint, "its data is not what it was")).error
    }

    fn ended(&self) -> Error {
        let endpoint = self.checkout.connection().endpoint();
        self.checkout.failed(Failure::unavailable(endpoint, "it ended the watch")).error
    }
}
