//! What ends a server: the first signal starts the graceful shutdown, the second forces the end.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::Instant;

/// How soon after the first signal another one is taken for its copy. Wrappers such as GNU `timeout` signal their child and
/// then its process group, and both signals reach the server.
const COPY_WITHIN: Duration = Duration::from_secs(1);

/// Signals in the order in which they arrive.
pub(super) struct Signals(Pin<Box<dyn Stream<Item = ()> + Send>>);

impl Signals {
    /// SIGTERM and Ctrl-C; where there is no SIGTERM, Ctrl-C.
    pub(super) fn of_the_process() -> io::Result<Self> {
        #[cfg(unix)]
        let signals = {
            use tokio::signal::unix::{SignalKind, signal};
            let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            stream::unfold((terminate, interrupt), |(mut terminate, mut interrupt)| async {
                let more = tokio::select! {
                    more = terminate.recv() => more,
                    more = interrupt.recv() => more,
                };
                more.map(|()| ((), (terminate, interrupt)))
            })
        };
        #[cfg(not(unix))]
        let signals =
            stream::unfold((), |()| async { tokio::signal::ctrl_c().await.ok().map(|()| ((), ())) });
        Ok(Self(Box::pin(without_copies(signals))))
    }

    /// `first`, and only after that `second`.
    pub(super) fn of(
        first: impl Future<Output = ()> + Send + 'static,
        second: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self(Box::pin(stream::once(first).chain(stream::once(second))))
    }

    /// Waits for the next signal; for ever, when there are no more.
    ///
    /// # Cancellation
    /// Safe: no signal is lost.
    pub(super) async fn next(&mut self) {
        if self.0.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

/// Drops the signals that follow the first one within [`COPY_WITHIN`].
fn without_copies(signals: impl Stream<Item = ()> + Send + 'static) -> impl Stream<Item = ()> + Send {
    let mut first = None;
    signals.filter(move |()| {
        let is_copy = first.is_some_and(|first: Instant| first.elapsed() < COPY_WITHIN);
        first.get_or_insert_with(Instant::now);
        if is_copy {
            tracing::info!(within = ?COPY_WITHIN, "repeated signal ignored");
        }
        std::future::ready(!is_copy)
    })
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signals")
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_copy_of_the_first_signal_is_no_second_one() {
        let began = Instant::now();
        let at = stream::iter([0, 3, 999, 1001, 1002]).then(move |at| async move {
            sleep((began + Duration::from_millis(at)) - Instant::now()).await;
        });
        let passed: Vec<_> = without_copies(at).map(|()| began.elapsed().as_millis()).collect().await;
        assert_eq!(passed, [0, 1001, 1002]);
    }
}
