//! The client side: a channel over all ready instances of a service.
//!
//! Arrows: connector <- transport <- ready_instance, metrics <- balance, selection, outliers, health, status, telemetry
//! <- pool <- call <- channel <- builder. `call` uses `retry` too, which knows none of the others.

mod balance;
mod builder;
mod call;
mod call_headers;
mod capacity;
mod channel;
mod closure;
mod connector;
mod evidence;
mod failures;
mod health;
mod log_window;
pub(crate) mod metrics;
mod outcomes;
mod outliers;
mod pool;
mod ready_instance;
mod retry;
mod selection;
mod server_key;
mod status;
mod sync;
mod telemetry;
#[cfg(feature = "tls")]
mod tls;
mod transport;

pub use balance::{
    CallInfo, HashKey, InstanceWith, Lane, LaneFallback, Lanes, LeastRequest, LoadBalancingPolicy, Others,
    Outcome, PeakEwma, PerInstance, Pick, Picker, RingHash, RoundRobin, SlowStart, Sticky,
};
pub use builder::ChannelBuilder;
pub use call::{CalledInstance, ResponseFuture, WaitForReady};
pub use channel::DiscoveryChannel;
pub use connector::{BoxedIo, Connected, Connector, Destination, Io, ServiceConnector, TcpConnector};
pub use outliers::{FailurePercentage, OutlierDetection, SuccessRate};
pub use ready_instance::{Picked, ReadyInstance};
pub use retry::{HedgingPolicy, MethodConfig, RetryBudget, RetryPolicy, RetryThrottling};
pub use selection::Selection;
pub use status::{ChannelStatus, ConnectivityState, InstanceStatus};
#[cfg(feature = "tls")]
pub use tls::ClientTls;
