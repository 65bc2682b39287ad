//! The locks of the queue, which its model in `tests/queue_model` replaces by loom's.

pub(super) use std::sync::{Mutex, MutexGuard};
