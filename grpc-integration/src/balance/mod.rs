//! Which of the ready instances a call goes to.

mod endpoint;
mod least_request;
mod pick_first;
mod policy;
mod random;
mod room;
mod round_robin;

pub use endpoint::Endpoint;
pub(crate) use endpoint::Reserved;
pub use least_request::LeastRequest;
pub use pick_first::PickFirst;
pub use policy::{CallInfo, LoadBalancingPolicy, Outcome, Pick, Picker};
pub(crate) use room::Room;
pub use round_robin::RoundRobin;
