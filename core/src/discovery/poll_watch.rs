//! A watch for registries that can only be asked.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use tokio::time::sleep;

use crate::{Resolver, ServiceName, Snapshot, SnapshotStream};

/// A [`watch`](Resolver::watch) made of repeated calls to [`resolve`](Resolver::resolve), for backends whose
/// registry has none.
///
/// The first answer is sent as it is, later ones when something changed; the first error ends the stream. The
/// next call comes `interval` after an answer, so a slow registry is not asked faster than it answers.
///
/// ```
/// # use std::sync::Arc;
/// # use std::time::Duration;
/// use futures_util::StreamExt;
/// use hither_core::{Instance, StaticResolver, poll_watch};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let resolver = Arc::new(StaticResolver::new([Instance::new("10.0.0.7:8001".parse()?)]));
/// let mut snapshots = poll_watch(resolver, "greeter".parse()?, None, Duration::from_secs(5));
/// assert_eq!(snapshots.next().await.expect("the first answer")?.len(), 1);
/// # Ok(())
/// # }
/// ```
pub fn poll_watch<R: Resolver + ?Sized>(
    resolver: Arc<R>,
    service: ServiceName,
    since: Option<Snapshot>,
    interval: Duration,
) -> SnapshotStream {
    let poll = Poll { resolver, service, interval, last: since, answered: false };
    Box::pin(stream::unfold(Some(poll), |poll| async move {
        let mut poll = poll?;
        loop {
            if poll.answered {
                sleep(poll.interval).await;
            }
            let snapshot = match poll.resolver.resolve(&poll.service).await {
                Ok(snapshot) => snapshot,
                Err(error) => return Some((Err(error), None)),
            };
            let (snapshot, changed) = match &poll.last {
                Some(last) => (snapshot.clone().reusing(last), !snapshot.diff(last).is_empty()),
                None => (snapshot, true),
            };
            poll.last = Some(snapshot.clone());
            let first = !std::mem::replace(&mut poll.answered, true);
            if first || changed {
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
    answered: bool,
}
