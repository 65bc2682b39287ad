//! What a channel shows of itself.

mod channel;
mod connectivity;
mod instance;
mod known;

pub use channel::ChannelStatus;
pub use connectivity::ConnectivityState;
pub(crate) use connectivity::{Connectivity, Observed};
pub use instance::InstanceStatus;
pub(crate) use known::{Known, Subject};
