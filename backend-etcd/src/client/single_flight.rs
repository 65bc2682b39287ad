//! Single flight: one run of an operation for all callers that wait for it at the same time.

use std::future::Future;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::Instrument;

/// One run of an operation, whose outcome all callers share.
///
/// It runs in a task of its own, which begins with the first caller and ends with the flight. So a caller that gives up
/// does not leave the operation where it stopped polling it, with deadlines that are long past when the next one comes.
pub(crate) struct Flight<T: Clone> {
    begun: Instant,
    outcome: Shared<BoxFuture<'static, Option<T>>>,
}

/// Why a caller has no outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoOutcome {
    /// There was none within the caller's time.
    Timeout,
    /// The task was aborted: the runtime of the first caller has stopped.
    Aborted,
}

impl<T: Clone + Send + Sync + 'static> Flight<T> {
    /// Prepares a run of `operation`.
    pub(crate) fn new(operation: impl Future<Output = T> + Send + 'static) -> Self {
        let outcome = async move {
            let mut task = JoinSet::new();
            task.spawn(operation.in_current_span());
            task.join_next().await?.ok()
        };
        Self { begun: Instant::now(), outcome: outcome.boxed().shared() }
    }

    /// The time since it was prepared.
    pub(crate) fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Waits for the outcome, for at most `within`. Each caller has a deadline of its own: the task runs on the runtime of the
    /// first one, which may have stopped.
    pub(crate) fn join(&self, within: Duration) -> impl Future<Output = Result<T, NoOutcome>> + use<T> {
        let outcome = self.outcome.clone();
        async move {
            match timeout(within, outcome).await {
                Ok(outcome) => outcome.ok_or(NoOutcome::Aborted),
                Err(_) => Err(NoOutcome::Timeout),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn callers_share_one_run() {
        let runs = Arc::new(AtomicUsize::new(0));
        let (release, released) = oneshot::channel::<()>();
        let counted = Arc::clone(&runs);
        let flight = Flight::new(async move {
            let _ = released.await;
            counted.fetch_add(1, Ordering::Relaxed)
        });
        let callers = [(); 3].map(|()| flight.join(Duration::from_secs(1)));
        release.send(()).unwrap();
        assert_eq!(futures_util::future::join_all(callers).await, [Ok(0), Ok(0), Ok(0)]);
        assert_eq!(flight.join(Duration::from_secs(1)).await, Ok(0), "the outcome stays");
        assert_eq!(runs.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_goes_on_when_its_first_caller_gives_up() {
        let flight = Flight::new(async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            7
        });
        assert_eq!(flight.join(Duration::from_secs(1)).await, Err(NoOutcome::Timeout));
        assert_eq!(flight.join(Duration::from_millis(1500)).await, Ok(7), "it was half done");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_ends_with_its_flight() {
        let (alive, ended) = oneshot::channel::<()>();
        let flight = Flight::new(async move {
            std::future::pending::<()>().await;
            drop(alive);
        });
        assert_eq!(flight.join(Duration::from_secs(1)).await, Err(NoOutcome::Timeout));
        drop(flight);
        assert!(ended.await.is_err());
    }

    #[test]
    fn a_run_on_a_runtime_that_is_gone_is_aborted() {
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let flight = Flight::new(std::future::pending::<()>());
        let first = runtime();
        let late = first.block_on(async { flight.join(Duration::from_millis(1)).await });
        assert_eq!(late, Err(NoOutcome::Timeout));
        drop(first);
        let second = runtime().block_on(async { flight.join(Duration::from_secs(10)).await });
        assert_eq!(second, Err(NoOutcome::Aborted));
    }
}
