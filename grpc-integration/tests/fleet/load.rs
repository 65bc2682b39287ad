//! The load: calls that come whether those before are answered or not (an open loop).

use std::time::Duration;

use fastrand::Rng;

use super::random::{Work, exponential};

/// Poisson arrivals.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) calls_per_second: f64,
    pub(crate) work: Work,
    /// The channels among which the calls are divided.
    pub(crate) callers: usize,
}

/// A call to come. Its times are whole milliseconds, as those of Tokio's timers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Since the beginning.
    pub(crate) at: Duration,
    pub(crate) work: u64,
    pub(crate) caller: usize,
}

impl Load {
    /// Returns the load that keeps so many slots busy for this share of the time, if all are used alike.
    pub(crate) fn utilising(share: f64, slots: usize, work: Work, callers: usize) -> Self {
        Self { calls_per_second: share * slots as f64 * 1000.0 / work.mean(), work, callers }
    }

    /// Draws the calls of so much time.
    pub(crate) fn draw(&self, time: Duration, seed: u64) -> Vec<Call> {
        let mut random = Rng::with_seed(seed);
        let (mut calls, mut at) = (Vec::new(), 0.0);
        loop {
            at += exponential(1.0 / self.calls_per_second, &mut random);
            if at >= time.as_secs_f64() {
                return calls;
            }
            calls.push(Call {
                at: Duration::from_millis((at * 1000.0) as u64),
                work: self.work.draw(&mut random).round() as u64,
                caller: random.usize(..self.callers),
            });
        }
    }
}
