//! Load balancing: which of the ready instances a call goes to.

mod contained;
mod lanes;
mod least_request;
mod others;
mod peak_ewma;
mod per_instance;
mod policy;
mod random;
mod ring_hash;
mod round_robin;
#[cfg(test)]
mod shares;
mod slow_start;
mod sticky;
mod two_choices;
mod weighted;

pub(crate) use contained::{Policy, PolicyPicker};
pub use lanes::{Lane, LaneFallback, Lanes};
pub use least_request::LeastRequest;
pub use others::Others;
pub(crate) use others::PATIENCE;
pub use peak_ewma::PeakEwma;
pub use per_instance::{InstanceWith, PerInstance};
pub use policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
pub use ring_hash::{HashKey, RingHash};
pub use round_robin::RoundRobin;
pub use slow_start::SlowStart;
pub use sticky::Sticky;
