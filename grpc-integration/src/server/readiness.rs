//! Whether the server is ready.

use tokio::sync::watch;

/// The program's readiness signal. Without one a server is always ready.
#[derive(Debug, Clone, Default)]
pub(super) struct Readiness(Option<watch::Receiver<bool>>);

impl Readiness {
    pub(super) fn new(signal: watch::Receiver<bool>) -> Self {
        Self(Some(signal))
    }

    pub(super) fn is_ready(&self) -> bool {
        self.0.as_ref().is_none_or(|signal| *signal.borrow())
    }

    /// Waits until the server is ready, or is not; for ever, if the sender is gone.
    pub(super) async fn becomes(&mut self, ready: bool) {
        let is_so = match &mut self.0 {
            Some(signal) => signal.wait_for(|now| *now == ready).await.is_ok(),
            None => ready,
        };
        if !is_so {
            std::future::pending::<()>().await;
        }
    }
}
