//! Outlier detection (gRFC A50): instances that fail more than the others are left out for a while.

mod admitted;
mod config;
mod detector;
mod ejection;
mod log;
mod rates;
#[cfg(test)]
mod tests;

pub use config::{FailurePercentage, OutlierDetection, SuccessRate};
pub(crate) use detector::Outliers;
