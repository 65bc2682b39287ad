//! One call, to the end of its response.

use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use tonic::Code;
use tracing::Span;

use super::attempt::AttemptTelemetry;
use super::spans;
use crate::client::metrics::{CallAttempts, CallMetrics, ChannelMetrics};
use crate::client::ready_instance::ReadyInstance;
use crate::client::transport::{Connection, RequestBody};

/// What is seen of one call. Dropped before it has [ended](Self::ended), the call was cancelled.
#[derive(Debug)]
pub(crate) struct CallTelemetry {
    span: Option<Arc<Span>>,
    metrics: CallMetrics,
    is_over: bool,
}

/// What the attempts of a call have in common.
#[derive(Debug)]
pub(crate) struct CallContext {
    span: Option<Arc<Span>>,
    attempts: CallAttempts,
}

impl CallTelemetry {
    /// A call of `path` is made, by the present span.
    pub(crate) fn begin(
        metrics: &ChannelMetrics,
        service: &str,
        path: &str,
        extensions: &Extensions,
    ) -> Self {
        Self {
            span: spans::call(service, path).map(Arc::new),
            metrics: metrics.call(extensions),
            is_over: false,
        }
    }

    pub(crate) fn context(&self) -> CallContext {
        CallContext { span: self.span.clone(), attempts: self.metrics.attempts() }
    }

    /// The call has ended; what comes first counts.
    pub(crate) fn ended(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_over, true) {
            if let Some(span) = self.span.take() {
                spans::ended(&span, code);
            }
            self.metrics.ended(code);
        }
    }
}

impl Drop for CallTelemetry {
    fn drop(&mut self) {
        self.ended(Code::Cancelled);
    }
}

impl CallContext {
    /// No attempt was in flight for so long, between two of them.
    pub(crate) fn idled(&self, delay: Duration) {
        self.attempts.idled(delay);
    }

    /// An attempt is sent to an instance. `previous`: how many a policy has made before.
    pub(crate) fn attempt(
        &self,
        path: &str,
        instance: &ReadyInstance,
        connection: &Connection,
        body: &mut RequestBody,
        (previous, is_hedged): (u32, bool),
    ) -> AttemptTelemetry {
        let span = self.span.as_ref();
        let span =
            span.map(|call| spans::attempt(call, path, instance.instance().id(), connection.address()));
        AttemptTelemetry::new(span, self.attempts.attempt(body, previous, is_hedged))
    }
}
