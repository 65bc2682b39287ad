//! In the registry while the server is ready.

use tokio::time::sleep;

use super::config::LifecycleConfig;
use super::registrations::Registrations;
use crate::error::Error;

impl LifecycleConfig {
    /// Keeps the server in the registry while it is ready. Returns when a required registration is not there in time.
    pub(super) async fn follow_readiness(&self, registrations: &Registrations) -> Error {
        let mut readiness = self.readiness.clone();
        let mut required = self.require_registration;
        loop {
            readiness.becomes(true).await;
            self.report_health(true).await;
            registrations.enter();
            if let Some(within) = required {
                tokio::select! {
                    biased;
                    outcome = registrations.registered(within) => match outcome {
                        Ok(()) => required = None,
                        Err(error) => return error,
                    },
                    () = readiness.becomes(false) => {}
                }
            }
            readiness.becomes(false).await;
            tracing::info!(announce_delay = ?self.announce_delay, "not ready; leaving the registry");
            self.report_health(false).await;
            // Announced, so that clients do not take a fleet whose database is down for one that the registry has lost.
            let leave = async {
                registrations.announce_draining().await;
                sleep(self.announce_delay).await;
                registrations.withdraw();
            };
            tokio::select! {
                biased;
                () = readiness.becomes(true) => {}
                () = leave => {}
            }
        }
    }
}
