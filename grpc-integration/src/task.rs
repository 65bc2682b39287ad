//! A task that ends with its owner.

use tokio::task::AbortHandle;

/// A spawned task. Dropping it aborts the task.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(task).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs code of the program that may panic; returns the message of the panic.
#[cfg(feature = "client")]
pub(crate) fn contain<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    // What may be left inconsistent is dropped by the caller, or was the program's own.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(code)).map_err(|panic| {
        let text =
            panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
        text.unwrap_or("no message").to_owned()
    })
}
