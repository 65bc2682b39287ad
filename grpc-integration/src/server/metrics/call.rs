//! The metrics of one call.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};

use super::methods::{MethodMetrics, Methods};
use crate::deadline::{GRPC_TIMEOUT, parse};
use crate::grpc_response::ResponseKind;
use crate::metrics::{MessageSizes, SentSizes};

/// Measures one call, until it has ended or is dropped.
#[derive(Debug)]
pub(super) struct CallMetrics {
    methods: Arc<Methods>,
    method: Method,
    began: Instant,
    deadline: Option<Instant>,
    received: Arc<AtomicU64>,
    sent: MessageSizes,
    is_over: bool,
}

#[derive(Debug)]
enum Method {
    Known(Arc<MethodMetrics>),
    /// There may be no such method. It is counted when its response begins.
    Unknown(String),
}

impl CallMetrics {
    /// A call has begun. Also measures what is read of its request.
    pub(super) fn begin(methods: &Arc<Methods>, request: Request<Body>) -> (Self, Request<Body>) {
        let path = request.uri().path();
        let method = match methods.known(path) {
            Some(method) => {
                method.started.increment(1);
                Method::Known(method)
            }
            None => Method::Unknown(path.to_owned()),
        };
        let (began, received) = (Instant::now(), Arc::<AtomicU64>::default());
        let timeout = request.headers().get(GRPC_TIMEOUT).and_then(parse);
        let call = Self {
            methods: Arc::clone(methods),
            method,
            began,
            deadline: timeout.and_then(|timeout| began.checked_add(timeout)),
            received: Arc::clone(&received),
            sent: MessageSizes::default(),
            is_over: false,
        };
        let request = request.map(|body| {
            if body.is_end_stream() {
                return body;
            }
            Body::new(Measured { body, sizes: SentSizes::new(received) })
        });
        (call, request)
    }

    /// Its response has begun. Returns the status if it is nothing more.
    pub(super) fn responds<B>(&mut self, response: &Response<B>) -> Option<Code> {
        let ResponseKind { is_grpc, code } = ResponseKind::of(response.status(), response.headers());
        // A page beside gRPC, as the one for what is not found, tells nothing of a method.
        self.starts(is_grpc && matches!(code, None | Some(Code::Ok)));
        code
    }

    fn starts(&mut self, is_method: bool) {
        let Method::Unknown(path) = &mut self.method else { return };
        let method = if is_method { self.methods.add(std::mem::take(path)) } else { self.methods.other() };
        method.started.increment(1);
        self.method = Method::Known(method);
    }

    pub(super) fn sent(&mut self, data: &[u8]) {
        self.sent.add(data);
    }

    /// It has ended; what comes first counts.
    #[allow(clippy::cast_precision_loss, reason = "a size that is rounded is no worse")]
    pub(super) fn ended(&mut self, code: Code) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.starts(false);
        let Method::Known(method) = &self.method else { return };
        let metrics = method.at(code);
        metrics.duration.record(self.began.elapsed());
        metrics.sent.record(self.sent.total() as f64);
        metrics.received.record(self.received.load(Ordering::Relaxed) as f64);
    }
}

impl Drop for CallMetrics {
    fn drop(&mut self) {
        // Of a call that is out of time tonic answers the caller itself.
        let is_late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        self.ended(if is_late { Code::DeadlineExceeded } else { Code::Cancelled });
    }
}

/// The body of a request, of which is measured what was read.
struct Measured {
    body: Body,
    sizes: SentSizes,
}

impl http_body::Body for Measured {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.sizes.add(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
