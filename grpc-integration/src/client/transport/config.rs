//! The settings of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::client::capacity::CapacityWaiters;

/// How connections are made and kept.
#[derive(Debug, Clone)]
pub(crate) struct TransportConfig {
    /// How many bytes of one response may arrive before they are read.
    pub(crate) stream_window: u32,
    /// The maximum size of a response's headers or trailers, as HTTP/2 counts it.
    pub(crate) max_response_headers: u32,
    pub(crate) keepalive: KeepaliveConfig,
    /// Woken when a connection has capacity again.
    pub(crate) capacity: Arc<CapacityWaiters>,
    /// What the peer has refused on earlier connections to the same instance.
    pub(crate) lessons: Arc<Lessons>,
}

impl Default for TransportConfig {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            stream_window: 1024 * 1024,
            // As grpc-go.
            max_response_headers: 16 * 1024 * 1024,
            keepalive: KeepaliveConfig {
                interval: Some(seconds(10)),
                timeout: seconds(10),
                while_idle: false,
            },
            capacity: Arc::default(),
            lessons: Arc::default(),
        }
    }
}

impl TransportConfig {
    /// Returns the settings for the connections of another instance.
    pub(crate) fn fork(&self) -> Self {
        Self { lessons: Arc::default(), ..self.clone() }
    }
}

/// When a silent peer is pinged (gRFC A8).
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeepaliveConfig {
    /// After how long a silence; `None`: never.
    pub(crate) interval: Option<Duration>,
    /// How long the answer may take.
    pub(crate) timeout: Duration,
    /// Also while no call is in flight.
    pub(crate) while_idle: bool,
}

/// What the peer of one instance has refused on earlier connections.
#[derive(Debug, Default)]
pub(crate) struct Lessons {
    /// How often it has closed a connection for too many pings.
    pings: AtomicU32,
    /// How often it has closed one with ENHANCE_YOUR_CALM for anything else.
    calm: AtomicU32,
}

impl Lessons {
    /// An interval or a pause is doubled so many times at most.
    const MOST: u32 = 4;

    pub(super) fn on_too_many_pings(&self) {
        self.pings.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some((n + 1).min(Self::MOST))).ok();
    }

    pub(super) fn on_enhance_your_calm(&self) {
        self.calm.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| Some((n + 1).min(Self::MOST))).ok();
    }

    /// Returns the factor by which the interval of pings has grown.
    pub(super) fn ping_factor(&self) -> u32 {
        1 << self.pings.load(Ordering::Relaxed)
    }

    /// Returns the factor by which streams are reset more slowly.
    pub(super) fn calm_factor(&self) -> u32 {
        1 << self.calm.load(Ordering::Relaxed)
    }
}
