//! One attempt of a call.

use tokio::time::Instant;
use tonic::Code;
use tracing::Span;

use super::spans;
use crate::client::metrics::AttemptMetrics;

/// What is seen of one attempt. The default is that of one that was not sent.
#[derive(Debug, Default)]
pub(crate) struct AttemptTelemetry {
    /// In a box, since nearly always there is none.
    span: Option<Box<Span>>,
    metrics: AttemptMetrics,
}

impl AttemptTelemetry {
    pub(super) fn new(span: Option<Span>, metrics: AttemptMetrics) -> Self {
        Self { span: span.map(Box::new), metrics }
    }

    /// Runs `f` inside of the attempt's span, if it has one.
    pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        match &self.span {
            Some(span) => span.in_scope(f),
            None => f(),
        }
    }

    /// Takes in a part of the response's body.
    pub(crate) fn received(&mut self, data: &[u8]) {
        self.metrics.received(data);
    }

    /// The attempt, which was picked then, has ended.
    pub(crate) fn ended(&mut self, code: Code, began: Instant) {
        if let Some(span) = self.span.take() {
            spans::ended(&span, code);
        }
        self.metrics.ended(code, began);
    }
}
