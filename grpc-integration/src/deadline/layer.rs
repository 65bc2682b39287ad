//! The layer of servers that takes note of the deadline of each call.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use super::call_deadline::CallDeadline;
use super::timeout::{GRPC_TIMEOUT, parse};

/// A layer for tonic's servers, by which the calls that a handler makes can end when its own caller stops waiting.
///
/// It reads the `grpc-timeout` of each request when that arrives. From then on the deadline is [`CallDeadline::current`] on
/// the task of the handler, to the end of the response's stream, and in the extensions of the request; channels with
/// `ChannelBuilder::inherit_deadline` heed it. A request without `grpc-timeout`, or with one that is malformed, has none.
///
/// It ends nothing: tonic itself drops a handler whose time is up before the response has begun, and one whose caller has
/// gone. The calls that the handler was making are dropped, and so cancelled, with it.
///
/// ```
/// use std::time::Duration;
/// use hither_core::Discovery;
/// use hither_tonic::{DeadlineLayer, DiscoveryChannel};
/// use tonic::transport::Server;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let discovery = Discovery::new(hither_memory::MemoryRegistry::new());
/// # let (_reporter, greeter) = tonic_health::server::health_reporter();
/// // What the handlers call: done 50 ms before the answer is due.
/// let channel = DiscoveryChannel::builder(&discovery, "bank")
///     .inherit_deadline(Duration::from_millis(50))
///     .connect_lazy()?;
/// let router = Server::builder().layer(DeadlineLayer::new()).add_service(greeter);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct DeadlineLayer {
    _private: (),
}

impl DeadlineLayer {
    /// Returns the layer.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService { inner }
    }
}

/// The service that a [`DeadlineLayer`] makes.
#[derive(Debug, Clone)]
pub struct DeadlineService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<DeadlineBody<R>>;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let deadline = deadline_of(request.headers());
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        DeadlineFuture { inner: within(deadline, || self.inner.call(request)), deadline }
    }
}

/// Beyond the range of the clock there is no deadline.
fn deadline_of(headers: &HeaderMap) -> Option<CallDeadline> {
    let timeout = headers.get(GRPC_TIMEOUT).and_then(parse)?;
    Instant::now().checked_add(timeout).map(CallDeadline::new)
}

fn within<T>(deadline: Option<CallDeadline>, code: impl FnOnce() -> T) -> T {
    match deadline {
        Some(deadline) => deadline.within(code),
        None => code(),
    }
}

pin_project! {
    /// The response of a [`DeadlineService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct DeadlineFuture<F> {
        #[pin]
        inner: F,
        deadline: Option<CallDeadline>,
    }
}

impl<F, R, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<DeadlineBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let deadline = *this.deadline;
        let response = ready!(within(deadline, || this.inner.poll(cx)));
        Poll::Ready(response.map(|response| response.map(|inner| DeadlineBody { inner, deadline })))
    }
}

impl<F> fmt::Debug for DeadlineFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadlineFuture").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of a response of a [`DeadlineService`]: a stream may make calls too.
    #[derive(Debug)]
    pub struct DeadlineBody<B> {
        #[pin]
        inner: B,
        deadline: Option<CallDeadline>,
    }
}

impl<B: Body> Body for DeadlineBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        within(*this.deadline, || this.inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
