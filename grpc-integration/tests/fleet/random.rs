//! The distributions that calls are drawn from.

use std::f64::consts::TAU;

use fastrand::Rng;

/// How much work a call is, in milliseconds: the time that an idle server takes for it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    Exponential { mean: f64 },
    LogNormal { median: f64, sigma: f64 },
}

impl Work {
    pub(crate) fn mean(self) -> f64 {
        match self {
            Self::Exponential { mean } => mean,
            Self::LogNormal { median, sigma } => median * (sigma * sigma / 2.0).exp(),
        }
    }

    pub(super) fn draw(self, random: &mut Rng) -> f64 {
        match self {
            Self::Exponential { mean } => exponential(mean, random),
            Self::LogNormal { median, sigma } => median * (sigma * normal(random)).exp(),
        }
    }
}

pub(super) fn exponential(mean: f64, random: &mut Rng) -> f64 {
    -mean * uniform(random).ln()
}

/// By the method of Box and Muller.
fn normal(random: &mut Rng) -> f64 {
    (-2.0 * uniform(random).ln()).sqrt() * (TAU * uniform(random)).cos()
}

/// Above 0, up to 1.
fn uniform(random: &mut Rng) -> f64 {
    1.0 - random.f64()
}
