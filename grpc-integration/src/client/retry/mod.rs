//! Which calls are sent again, when, and what bounds that: settings and arithmetic. The calls themselves are in
//! `call/retrying.rs` and `call/hedging.rs`.

mod budget;
mod codes;
mod hedging_policy;
mod latencies;
mod limits;
mod method_config;
mod method_latencies;
mod methods;
mod pushback;
mod retry_policy;
mod throttling;

pub use budget::RetryBudget;
pub(crate) use hedging_policy::Hedging;
pub use hedging_policy::HedgingPolicy;
pub(crate) use limits::{Limits, Withdrawal};
pub use method_config::MethodConfig;
pub(crate) use methods::{Methods, MethodsConfig, Policy};
pub(crate) use pushback::Pushback;
pub(crate) use retry_policy::Retry;
pub use retry_policy::RetryPolicy;
pub use throttling::RetryThrottling;
