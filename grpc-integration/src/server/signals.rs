//! What ends a server: the first signal starts the graceful shutdown, the second forces the end.

use std::fmt;
use std::io;
use std::pin::Pin;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;

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
        Ok(Self(Box::pin(signals)))
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

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signals")
    }
}
