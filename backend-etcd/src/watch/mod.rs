//! Watching: a listing, and the changes since, without going stale in silence.

pub(crate) mod listing;
mod liveness;
pub(crate) mod view;

use std::sync::Arc;

use futures_util::stream::try_unfold;
use hither_core::{Result, ServiceName, Snapshot, SnapshotStream};
use tokio::time::{Instant, timeout_at};

use crate::client::{Checkout, Failure, WatchStream};
use crate::context::Context;
use liveness::{Due, Liveness};
use view::View;

/// Watches `service`: one attempt, which ends at its first error.
///
/// It begins with a listing and does not resume. That gives at once what the history since an earlier snapshot would give in
/// the end, and cannot be of another history; and etcd would have to read everything that was written since, by anyone.
pub(crate) async fn open(context: Arc<Context>, service: &ServiceName) -> Result<SnapshotStream> {
    let checkout = context.checkout().await?;
    let prefix = context.codec.service_prefix(service);
    let view = listing::service(&context, &checkout, service, None).await?;
    let watch = EtcdWatch { context, checkout, service: service.clone(), prefix, view, phase: Phase::Listed };
    Ok(Box::pin(try_unfold(watch, |mut watch| async move {
        match watch.next().await {
            Ok(snapshot) => Ok(Some((snapshot, watch))),
            Err(failure) => Err(failure.error.with_operation("watch")),
        }
    })))
}

/// A watch of one service.
struct EtcdWatch {
    context: Arc<Context>,
    checkout: Checkout,
    service: ServiceName,
    prefix: String,
    view: View,
    phase: Phase,
}

enum Phase {
    /// The listing has not been yielded yet.
    Listed,
    /// It has. Only now the watch is created: where etcd answers ranges but no watches (etcd-io/etcd#15402, #18879), a new
    /// client has the instances all the same, and an old one takes up what has changed.
    Creating,
    Following(Box<WatchStream>, Liveness),
}

impl EtcdWatch {
    async fn next(&mut self) -> Result<Snapshot, Failure> {
        loop {
            match &mut self.phase {
                Phase::Listed => {
                    self.phase = Phase::Creating;
                    return Ok(self.view.snapshot());
                }
                Phase::Creating => {
                    // From the revision of the view, not from the next one: until something is written anywhere, the next
                    // one lies in the future, and of such a watch newer etcds answer no progress requests.
                    let stream = self.checkout.watch(&self.prefix, self.view.position()).await?;
                    let config = &self.context.config;
                    let (probe, timeout) = (config.probe_interval(), config.request_timeout());
                    let resync = config.jittered_resync_interval();
                    let liveness = Liveness::new(Instant::now(), probe, timeout, resync);
                    self.phase = Phase::Following(Box::new(stream), liveness);
                }
                Phase::Following(stream, liveness) => {
                    let has_changed = match timeout_at(liveness.wake_at(), stream.next()).await {
                        Ok(events) => {
                            let events = events?;
                            liveness.received(Instant::now());
                            self.view.apply(&self.context, self.prefix.as_bytes(), &events).await
                        }
                        Err(_) => self.tick().await?,
                    };
                    if has_changed {
                        return Ok(self.view.snapshot());
                    }
                }
            }
        }
    }

    /// Does what is due although nothing was received, and returns whether the view has changed.
    async fn tick(&mut self) -> Result<bool, Failure> {
        let Phase::Following(stream, liveness) = &mut self.phase else { return Ok(false) };
        let config = &self.context.config;
        let due = liveness.due(Instant::now());
        match due {
            Due::Nothing => Ok(false),
            Due::Probe => {
                self.checkout.linearizable_read(&self.prefix, config.probe_interval()).await?;
                stream.request_progress().await?;
                liveness.probed(Instant::now());
                Ok(false)
            }
            Due::Compare | Due::CompareUnanswered => {
                let since = Some(self.view.position());
                let listed = listing::service(&self.context, &self.checkout, &self.service, since).await?;
                let now = Instant::now();
                // Events on their way from before the listing are echoes, and recognised as such.
                let has_changed = self.view.replace_with(&listed).await;
                match due {
                    Due::Compare => liveness.compared(now, config.jittered_resync_interval()),
                    _ => liveness.missed(now, has_changed),
                }
                Ok(has_changed)
            }
            Due::Lost => Err(stream.lost()),
        }
    }
}
