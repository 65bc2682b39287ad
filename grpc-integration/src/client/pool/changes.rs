//! Which subchannels have changed: the pool looks at those, and not at all of them.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::client::server_key::ServerKey;

/// The servers whose subchannels have changed since the pool has looked.
#[derive(Debug, Default)]
pub(super) struct Changes {
    keys: Mutex<Vec<ServerKey>>,
    notify: Notify,
}

impl Changes {
    /// Waits for a change. Completes at once if there was one since the last time.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }

    /// Returns the servers that have changed; one more than once if it has changed again.
    pub(super) fn take(&self) -> Vec<ServerKey> {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Notifies the pool of changes of one server's subchannel.
#[derive(Debug)]
pub(super) struct Notifier {
    pub(super) key: ServerKey,
    pub(super) changes: Arc<Changes>,
}

impl Notifier {
    pub(super) fn notify(&self) {
        self.changes.keys.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&self.key));
        self.changes.notify.notify_one();
    }
}
