//! The layer of servers that measures calls.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Code;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::call::CallMetrics;
use super::methods::Methods;
use super::names;
use crate::grpc_response::{code_in, has_grpc_type};

/// A layer for tonic's servers that measures calls, with gRPC's metrics: `grpc.server.call.started`, `duration`,
/// `sent_total_compressed_message_size` and `rcvd_total_compressed_message_size` (gRFC A66). Feature `metrics`.
///
/// They go to the recorder of the `metrics` crate that is installed when the layer is made. Clones share what they have learned.
///
/// The label `grpc.method` is the method's name once it has answered a call with more than an error, of 1,000 methods at most,
/// and `other` before: a name that a client makes up would be a new time series. A call whose handler is dropped has the status `DEADLINE_EXCEEDED` if its time was up, and `CANCELLED` otherwise.
///
/// A call counts as started when it begins. Only that of a method that is not known yet counts when its response begins, or
/// it ends without one: where handlers hang from the start of the server, none are started until their callers give up.
///
/// A request whose content type is not gRPC's is no call and is not counted: pages that are served beside gRPC, health checks over
/// HTTP, and grpc-web. To count calls of grpc-web, put this layer inside of the one that translates them, which is added before it
/// (`Server::builder().layer(GrpcWebLayer::new()).layer(MetricsLayer::new())`).
///
/// ```
/// use hither_tonic::MetricsLayer;
/// use tonic::transport::Server;
///
/// # let (_reporter, greeter) = tonic_health::server::health_reporter();
/// let router = Server::builder().layer(MetricsLayer::new()).add_service(greeter);
/// ```
#[derive(Debug, Clone)]
pub struct MetricsLayer {
    methods: Arc<Methods>,
}

impl MetricsLayer {
    /// Returns the layer.
    pub fn new() -> Self {
        hither_core::metrics::describe(&names::OF_CALLS);
        Self { methods: Arc::new(Methods::new()) }
    }
}

impl Default for MetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = MetricsService<S>;

    fn layer(&self, inner: S) -> MetricsService<S> {
        MetricsService { inner, methods: Arc::clone(&self.methods) }
    }
}

/// The service that a [`MetricsLayer`] makes.
#[derive(Debug, Clone)]
pub struct MetricsService<S> {
    inner: S,
    methods: Arc<Methods>,
}

impl<S, R> Service<Request<Body>> for MetricsService<S>
where
    S: Service<Request<Body>, Response = Response<R>>,
    R: HttpBody<Data = Bytes>,
{
    type Response = Response<MetricsBody<R>>;
    type Error = S::Error;
    type Future = MetricsFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if !has_grpc_type(request.headers()) {
            return MetricsFuture { inner: self.inner.call(request), call: None };
        }
        let (call, request) = CallMetrics::begin(&self.methods, request);
        MetricsFuture { inner: self.inner.call(request), call: Some(call) }
    }
}

pin_project! {
    /// The response of a [`MetricsService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct MetricsFuture<F> {
        #[pin]
        inner: F,
        call: Option<CallMetrics>,
    }
}

impl<F, R, E> Future for MetricsFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: HttpBody<Data = Bytes>,
{
    type Output = Result<Response<MetricsBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx));
        let mut call = this.call.take();
        if let Some(call) = &mut call {
            match &response {
                Ok(response) => {
                    let status = call.responds(response);
                    // Nobody reads a body that has nothing.
                    if response.body().is_end_stream() {
                        call.ended(status.unwrap_or(Code::Unknown));
                    }
                }
                Err(_) => call.ended(Code::Unknown),
            }
        }
        Poll::Ready(response.map(|response| response.map(|inner| MetricsBody { inner, call })))
    }
}

impl<F> fmt::Debug for MetricsFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsFuture").finish_non_exhaustive()
    }
}

pin_project! {
    /// The body of a response of a [`MetricsService`].
    #[derive(Debug)]
    pub struct MetricsBody<B> {
        #[pin]
        inner: B,
        call: Option<CallMetrics>,
    }
}

impl<B: HttpBody<Data = Bytes>> HttpBody for MetricsBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let Some(call) = this.call {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        call.sent(data);
                    } else if let Some(trailers) = frame.trailers_ref() {
                        call.ended(code_in(trailers).unwrap_or(Code::Unknown));
                    }
                }
                Some(Err(_)) | None => call.ended(Code::Unknown),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
