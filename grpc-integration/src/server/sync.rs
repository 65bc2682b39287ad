//! The primitives of hand-written synchronisation, which the models in `tests/models` replace by loom's.

pub(super) use std::sync::atomic::{AtomicBool, Ordering};
pub(super) use std::sync::{Mutex, MutexGuard};

pub(super) use futures_util::task::AtomicWaker;
