//! Code of the program that is called by a task of ours: a panic ends where it is called.
//!
//! For the packages of this workspace, and no part of the public interface.

use std::any::Any;
use std::fmt;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs code of the program; returns the message of a panic.
///
/// What the panic may have left inconsistent is the program's own, or is dropped by the caller.
#[inline]
pub fn contain<T>(code: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(code)).map_err(text_of)
}

/// Drops a value of the program.
pub fn drop_contained<T>(value: T) {
    // The panic hook has reported it, and nothing depends on what it was to release.
    let _ = contain(|| drop(value));
}

/// A future of the program: a panic of it ends it with the panic's message, and one while it is dropped is contained too.
pub struct Contained<F: Future>(Option<Pin<Box<F>>>);

impl<F: Future> Contained<F> {
    /// Returns the future. It is polled only when this is.
    pub fn new(future: F) -> Self {
        Self(Some(Box::pin(future)))
    }
}

impl<F: Future> Future for Contained<F> {
    type Output = Result<F::Output, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(future) = &mut self.0 else { return Poll::Pending };
        let ended = match contain(|| future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(output)) => Ok(output),
            Err(panic) => Err(panic),
        };
        drop_contained(self.0.take());
        Poll::Ready(ended)
    }
}

impl<F: Future> Drop for Contained<F> {
    fn drop(&mut self) {
        drop_contained(self.0.take());
    }
}

impl<F: Future> fmt::Debug for Contained<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Contained")
    }
}

#[cold]
fn text_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message").to_owned();
    // What the program panicked with may panic in its turn when it is dropped: that is not dropped any more.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        let _ = ManuallyDrop::new(again);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;

    use super::*;

    struct PanicsWhenDropped;

    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic_any(Self);
        }
    }

    #[test]
    fn a_panic_whose_payload_panics_is_contained() {
        assert_eq!(contain(|| panic_any(PanicsWhenDropped)), Err::<(), _>("no message".to_owned()));
    }
}
