//! The metrics of one call, and of one attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;
use tonic::Code;

use super::methods::MethodMetrics;
use crate::client::transport::{MessageSizes, RequestBody, SentSizes};

/// Measures one call, from when it was made.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    method: Arc<MethodMetrics>,
    began: Instant,
}

/// The method of a call, for its attempts.
#[derive(Debug, Clone)]
pub(crate) struct MethodHandle(Arc<MethodMetrics>);

impl CallMetrics {
    pub(super) fn new(method: Arc<MethodMetrics>) -> Self {
        Self { method, began: Instant::now() }
    }

    pub(crate) fn method(&self) -> MethodHandle {
        MethodHandle(Arc::clone(&self.method))
    }

    /// The call has ended. Called once.
    pub(crate) fn ended(&self, code: Code) {
        self.method.at(code).call_duration.record(self.began.elapsed());
    }
}

/// Measures one attempt. The default measures nothing.
#[derive(Debug, Default)]
pub(crate) struct AttemptMetrics(Option<Measured>);

#[derive(Debug)]
struct Measured {
    method: Arc<MethodMetrics>,
    sent: Sent,
    received: MessageSizes,
}

#[derive(Debug)]
enum Sent {
    Complete(u64),
    Streamed(Arc<AtomicU64>),
}

impl MethodHandle {
    /// Begins to measure an attempt that sends this body.
    pub(crate) fn attempt(&self, body: &mut RequestBody) -> AttemptMetrics {
        self.0.started.increment(1);
        let sent = match body {
            RequestBody::Complete(data) => {
                let mut sizes = MessageSizes::default();
                sizes.add(data);
                Sent::Complete(sizes.total())
            }
            RequestBody::Streamed(body) => {
                let total = Arc::<AtomicU64>::default();
                body.measure(SentSizes::new(Arc::clone(&total)));
                Sent::Streamed(total)
            }
        };
        let method = Arc::clone(&self.0);
        AttemptMetrics(Some(Measured { method, sent, received: MessageSizes::default() }))
    }
}

impl AttemptMetrics {
    /// Takes in a part of the response's body.
    pub(crate) fn received(&mut self, data: &[u8]) {
        if let Some(measured) = &mut self.0 {
            measured.received.add(data);
        }
    }

    /// The attempt has ended. What is not sent by then does not count.
    #[allow(clippy::cast_precision_loss, reason = "a size that is rounded is no worse")]
    pub(crate) fn ended(&mut self, code: Code, began: Instant) {
        let Some(Measured { method, sent, received }) = self.0.take() else { return };
        let sent = match sent {
            Sent::Complete(size) => size,
            Sent::Streamed(total) => total.load(Ordering::Relaxed),
        };
        let metrics = method.at(code);
        metrics.attempt_duration.record(began.elapsed());
        metrics.sent.record(sent as f64);
        metrics.received.record(received.total() as f64);
    }
}
