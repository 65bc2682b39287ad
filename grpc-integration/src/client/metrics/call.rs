//! The metrics of one call, and of one attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use super::methods::MethodMetrics;
use crate::client::transport::RequestBody;
use crate::metrics::{MessageSizes, SentSizes};

/// Measures one call, from when it was made.
#[derive(Debug)]
pub(crate) struct CallMetrics {
    method: Arc<MethodMetrics>,
    began: Instant,
}

/// The attempts of one call. How many there were is recorded when it is dropped.
#[derive(Debug)]
pub(crate) struct CallAttempts {
    method: Arc<MethodMetrics>,
    sent: AtomicU32,
    /// Those that a policy has made, beside the first.
    repeated: AtomicU32,
    is_hedged: AtomicBool,
    /// For how many microseconds none was in flight, between two of them.
    idle: AtomicU64,
}

impl CallMetrics {
    pub(super) fn new(method: Arc<MethodMetrics>) -> Self {
        Self { method, began: Instant::now() }
    }

    pub(crate) fn attempts(&self) -> CallAttempts {
        CallAttempts {
            method: Arc::clone(&self.method),
            sent: AtomicU32::new(0),
            repeated: AtomicU32::new(0),
            is_hedged: AtomicBool::new(false),
            idle: AtomicU64::new(0),
        }
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

impl CallAttempts {
    /// None was in flight for so long, between two of them.
    pub(crate) fn idled(&self, delay: Duration) {
        self.idle.fetch_add(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Begins to measure an attempt that sends this body. `previous`: how many a policy has made before.
    pub(crate) fn attempt(&self, body: &mut RequestBody, previous: u32, is_hedged: bool) -> AttemptMetrics {
        self.method.started.increment(1);
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.repeated.fetch_max(previous, Ordering::Relaxed);
        self.is_hedged.store(is_hedged, Ordering::Relaxed);
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
        let method = Arc::clone(&self.method);
        AttemptMetrics(Some(Measured { method, sent, received: MessageSizes::default() }))
    }
}

impl Drop for CallAttempts {
    fn drop(&mut self) {
        let (sent, repeated) = (*self.sent.get_mut(), *self.repeated.get_mut());
        if sent < 2 {
            return;
        }
        let retries = self.method.retries();
        match (repeated, *self.is_hedged.get_mut()) {
            (0, _) => {}
            (hedges, true) => retries.hedges.record(hedges),
            (repeated, false) => retries.retries.record(repeated),
        }
        // Of a hedged call another attempt may have been in flight.
        if !*self.is_hedged.get_mut() {
            retries.delay.record(Duration::from_micros(*self.idle.get_mut()));
        }
        if let Some(transparent @ 1..) = (sent - 1).checked_sub(repeated) {
            retries.transparent.record(transparent);
        }
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
