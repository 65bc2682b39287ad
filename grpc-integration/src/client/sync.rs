//! The primitives of hand-written synchronisation, which the models in `tests/models` replace by loom's.

pub(super) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
pub(super) use std::sync::{Mutex, MutexGuard};

pub(super) use arc_swap::ArcSwap;
pub(super) use tokio::sync::futures::Notified;
pub(super) use tokio::sync::{Notify, Semaphore, SemaphorePermit};
