//! The settings of connections.

use std::sync::Arc;
use std::time::Duration;

use super::lessons::Lessons;
use crate::client::capacity::InstanceCapacity;

/// How connections are made and kept.
#[derive(Debug, Clone)]
pub(crate) struct TransportConfig {
    /// How many bytes of one response may arrive before they are read.
    pub(crate) stream_window: u32,
    /// The maximum size of a response's headers or trailers, as HTTP/2 counts it.
    pub(crate) max_response_headers: u32,
    pub(crate) keepalive: KeepaliveConfig,
    /// Woken when a connection has capacity again.
    pub(crate) capacity: Arc<InstanceCapacity>,
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
    pub(crate) fn fork(&self, capacity: &Arc<InstanceCapacity>) -> Self {
        Self { lessons: Arc::default(), capacity: Arc::clone(capacity), ..self.clone() }
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
