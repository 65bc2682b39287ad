//! The deadline itself.

use std::time::Duration;

use tokio::task::futures::TaskLocalFuture;
use tokio::time::Instant;

tokio::task_local! {
    /// Of the call that this task is serving.
    static SERVED: CallDeadline;
}

/// When the caller of the call that is being served stops waiting: what a
/// [`DeadlineLayer`](https://docs.rs/hither-tonic/latest/hither_tonic/struct.DeadlineLayer.html) makes of the caller's
/// `grpc-timeout`, as the request arrives.
///
/// Calls that a handler makes on a channel with
/// [`inherit_deadline`](https://docs.rs/hither-tonic/latest/hither_tonic/struct.ChannelBuilder.html#method.inherit_deadline)
/// end by it. A handler finds it by [`current`](Self::current), and among the extensions of its request. A task that
/// it spawns has none until it is given one, because such a task outlives the call:
///
/// ```
/// use hither_tonic::CallDeadline;
/// use tonic::{Request, Response, Status};
///
/// async fn handler(request: Request<String>) -> Result<Response<String>, Status> {
///     let calls = async { /* calls on channels */ };
///     match request.extensions().get::<CallDeadline>() {
///         Some(deadline) => tokio::spawn(deadline.scope(calls)),
///         None => tokio::spawn(calls),
///     };
///     Ok(Response::new(String::new()))
/// }
/// ```
///
/// For a client that inherits nothing, such as one of tonic's own channels:
/// `request.set_timeout(deadline.left())`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallDeadline(Instant);

impl CallDeadline {
    /// Returns a deadline at `instant`, for work that did not begin with a call.
    pub fn new(instant: Instant) -> Self {
        Self(instant)
    }

    /// Returns the deadline of the call that this task is serving, or that it was given by [`scope`](Self::scope); `None`
    /// if there is none.
    pub fn current() -> Option<Self> {
        SERVED.try_with(|deadline| *deadline).ok()
    }

    /// Returns when it is.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// Returns the time that is left: zero once it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Returns a future in which this is the [`current`](Self::current) deadline. It does not end the future.
    ///
    /// # Cancellation
    /// That of the future.
    pub fn scope<F: Future>(self, future: F) -> TaskLocalFuture<Self, F> {
        SERVED.scope(self, future)
    }

    /// Runs `code` with this as the current deadline.
    #[cfg(feature = "server")]
    pub(super) fn within<T>(self, code: impl FnOnce() -> T) -> T {
        SERVED.sync_scope(self, code)
    }
}
