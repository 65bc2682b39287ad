//! When what connections are made with has changed.

use tokio::sync::watch;

/// Notifies of new certificates, with which an attempt to connect that has failed may succeed.
#[derive(Debug, Clone)]
pub(crate) struct Renewals(watch::Receiver<()>);

impl Renewals {
    /// Returns those that are sent over `changes`.
    #[cfg(any(feature = "tls", test))]
    pub(crate) fn of(changes: watch::Receiver<()>) -> Self {
        Self(changes)
    }

    /// Returns those of a channel for which nothing ever changes.
    pub(crate) fn never() -> Self {
        Self(watch::channel(()).1)
    }

    /// Ignores those so far: an attempt that begins now is made with what is new.
    pub(super) fn mark_seen(&mut self) {
        self.0.mark_unchanged();
    }

    /// Completes at the next one. Can be cancelled without loss.
    pub(super) async fn next(&mut self) {
        // Where nothing follows the files any more, none comes.
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
