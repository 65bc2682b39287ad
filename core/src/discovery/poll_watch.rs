//! A watch for registries without one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::time::sleep;

use crate::{Resolver, ServiceName, Snapshot, SnapshotStream};

/// Returns a [`watch`](Resolver::watch) made of repeated calls to [`resolve`](Resolver::resolve), for backends whose
/// registry has no watch of its own.
///
/// The first snapshot is sent as it is, later ones when they differ; the first error ends the stream. The
/// next call begins `interval` after an answer, so a slow registry is not called faster than it answers.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// use futures_util::StreamExt;
/// use hither_core::{Instance, StaticRegistry, poll_watch};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let resolver = Arc::new(StaticRegistry::new([Instance::new("10.0.0.7:8001".parse()?)]));
/// let mut snapshots = poll_watch(resolver, "greeter".parse()?, Duration::from_secs(5));
/// assert_eq!(snapshots.next().await.expect("the first answer")?.len(), 1);
/// # Ok(())
/// # }
/// ```
pub fn poll_watch<R: Resolver + ?Sized>(
    resolver: Arc<R>,
    service: ServiceName,
    interval: Duration,
) -> SnapshotStream {
    let poll = Poll { resolver, service, interval, last: None };
    Box::pin(stream::unfold(Some(poll), |poll| async move {
        let mut poll = poll?;
        loop {
            if poll.last.is_some() {
                sleep(poll.interval).await;
            }
            let snapshot = match poll.resolver.resolve(&poll.service).await {
                Ok(snapshot) => snapshot,
                Err(error) => return Some((Err(error), None)),
            };
            let is_new = poll.last.as_ref().is_none_or(|last| snapshot.instances() != last.instances());
            poll.last = Some(snapshot.clone());
            if is_new {
                return Some((Ok(snapshot), Some(poll)));
            }
        }
    }))
}

struct Poll<R: ?Sized> {
    resolver: Arc<R>,
    service: ServiceName,
    interval: Duration,
    last: Option<Snapshot>,
}
