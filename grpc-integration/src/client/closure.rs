//! Closures of the program over instances: a panic ends where the closure is called.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use hither_core::Instance;
use hither_core::contain::{contain, drop_contained};

type Call<T> = dyn Fn(&Instance) -> T + Send + Sync;

/// A closure of the program. Its first panic is logged: one that panics may do so for each instance.
pub(crate) struct Closure<T> {
    /// `None` while it is dropped.
    call: Option<Box<Call<T>>>,
    step: &'static str,
    /// What is logged of a panic.
    message: &'static str,
    has_panicked: AtomicBool,
}

impl<T> Closure<T> {
    pub(crate) fn new(
        (step, message): (&'static str, &'static str),
        call: impl Fn(&Instance) -> T + Send + Sync + 'static,
    ) -> Self {
        Self { call: Some(Box::new(call)), step, message, has_panicked: AtomicBool::new(false) }
    }

    /// Returns what the closure returns for an instance, or `otherwise` if it panics.
    pub(crate) fn call(&self, instance: &Instance, otherwise: T) -> T {
        let Some(call) = &self.call else { return otherwise };
        contain(|| call(instance)).unwrap_or_else(|panic| {
            if !self.has_panicked.swap(true, Ordering::Relaxed) {
                let (step, instance) = (self.step, instance.id());
                tracing::error!(step, %instance, cause = panic, "{}", self.message);
            }
            otherwise
        })
    }
}

impl<T> Drop for Closure<T> {
    fn drop(&mut self) {
        drop_contained(self.call.take());
    }
}

impl<T> fmt::Debug for Closure<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.step)
    }
}
