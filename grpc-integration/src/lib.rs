//! hither-tonic
#![forbid(unsafe_code)]

mod balance;
mod builder;
mod call;
mod channel;
mod lifecycle;
mod pool;
mod transport;

pub use balance::{
    CallInfo, Endpoint, LeastRequest, LoadBalancingPolicy, Outcome, Pick, PickFirst, Picker, RoundRobin,
};
pub use builder::ChannelBuilder;
pub use call::WaitForReady;
pub use channel::{DiscoveryChannel, ResponseFuture};
pub use lifecycle::{Connection, Incoming, Lifecycle, LifecycleBuilder, LifecycleError, Shutdown};
pub use transport::{BoxedIo, Connector, Io, TcpConnector};
