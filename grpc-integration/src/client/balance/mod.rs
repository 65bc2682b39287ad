//! Load balancing: which of the ready instances a call goes to.

mod contained;
mod least_request;
mod policy;
mod random;
mod round_robin;
mod sticky;
mod weighted;

pub(crate) use contained::{Policy, PolicyPicker};
pub use least_request::LeastRequest;
pub use policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
pub use round_robin::RoundRobin;
pub use sticky::Sticky;
