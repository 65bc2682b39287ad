//! What statuses are made of, kept up by the pool.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hither_core::{HasId, InstanceId, SortedById, Update};
use tokio::time::Instant;

use super::connectivity::Observed;
use crate::client::ready_instance::ReadyInstance;
use crate::client::server_key::ServerKeys;

/// What a pool knows.
///
/// A status copies it, which costs the same however much it is, and evaluates the copy in the task that has asked. For a pool
/// that is not asked this is one list more to keep up with those servers that come and go.
#[derive(Debug)]
pub(crate) struct Known(Mutex<Knowledge>);

#[derive(Debug, Clone)]
pub(crate) struct Knowledge {
    /// Since when the channel is in its state.
    pub(crate) since: Instant,
    /// The latest update of the registry; `None` before the first.
    pub(crate) update: Option<Update>,
    pub(crate) server_keys: ServerKeys,
    /// The subchannels, by the ids of their instances.
    pub(crate) subjects: SortedById<Subject>,
}

/// A subchannel, as far as it is seen.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) instance: ReadyInstance,
    pub(crate) observed: Arc<Observed>,
    /// `None`: it is about to shut down.
    pub(crate) tier: Option<u32>,
}

impl HasId for Subject {
    fn id(&self) -> &InstanceId {
        self.instance.id()
    }
}

impl Default for Known {
    fn default() -> Self {
        let knowledge = Knowledge {
            since: Instant::now(),
            update: None,
            server_keys: ServerKeys::default(),
            subjects: SortedById::new(),
        };
        Self(Mutex::new(knowledge))
    }
}

impl Known {
    pub(crate) fn now(&self) -> Knowledge {
        self.lock().clone()
    }

    /// Before there is any instance.
    pub(crate) fn set_server_keys(&self, server_keys: ServerKeys) {
        self.lock().server_keys = server_keys;
    }

    /// The channel has changed its state.
    pub(crate) fn set_since(&self, since: Instant) {
        self.lock().since = since;
    }

    pub(crate) fn set_update(&self, update: Update) {
        let before = self.lock().update.replace(update);
        drop(before);
    }

    /// There is a new subchannel, or one is described anew.
    pub(crate) fn insert(&self, subject: Subject) {
        let before = self.lock().subjects.insert(subject);
        drop(before);
    }

    /// A subchannel is gone, or goes by another id now.
    pub(crate) fn remove(&self, instance: &ReadyInstance) {
        let mut known = self.lock();
        // The id may be that of another server since.
        if known.subjects.get(instance.id()).is_some_and(|subject| subject.instance == *instance) {
            let removed = known.subjects.remove(instance.id());
            drop(known);
            drop(removed);
        }
    }

    /// The pool is gone.
    pub(crate) fn clear(&self) {
        let mut known = self.lock();
        let before = (known.update.take(), std::mem::take(&mut known.subjects));
        drop(known);
        drop(before);
    }

    fn lock(&self) -> MutexGuard<'_, Knowledge> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
