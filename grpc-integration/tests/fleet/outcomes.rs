//! What became of the calls.

use std::ops::Range;
use std::time::Duration;

use tonic::Code;

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// When it was made, since the beginning.
    pub(crate) at: Duration,
    /// The number of the channel.
    pub(crate) caller: usize,
    pub(crate) took: Duration,
    pub(crate) code: Code,
    /// The number of the server that was called last.
    pub(crate) server: Option<usize>,
}

/// In the order in which the calls were made.
#[derive(Debug, Clone)]
pub(crate) struct Outcomes {
    all: Vec<Outcome>,
    /// What the calls took that were answered, in ascending order.
    answered: Vec<Duration>,
}

impl Outcomes {
    pub(super) fn new(all: Vec<Outcome>) -> Self {
        let answered = all.iter().filter(|outcome| outcome.code == Code::Ok);
        let mut answered: Vec<_> = answered.map(|outcome| outcome.took).collect();
        answered.sort_unstable();
        Self { all, answered }
    }

    pub(crate) fn all(&self) -> &[Outcome] {
        &self.all
    }

    /// Returns those of the calls that were made in this time.
    pub(crate) fn during(&self, time: Range<Duration>) -> Self {
        Self::new(self.all.iter().filter(|outcome| time.contains(&outcome.at)).copied().collect())
    }

    /// Returns those of the calls that were made over these channels.
    pub(crate) fn of(&self, callers: Range<usize>) -> Self {
        Self::new(self.all.iter().filter(|outcome| callers.contains(&outcome.caller)).copied().collect())
    }

    /// Returns the time that this share of the answered calls did not exceed.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.answered.len() as f64).ceil() as usize;
        self.answered.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    /// Returns the mean time of the answered calls.
    pub(crate) fn mean(&self) -> Duration {
        let total: Duration = self.answered.iter().sum();
        total / u32::try_from(self.answered.len().max(1)).unwrap()
    }

    /// Returns the share of the calls whose last attempt was at this server.
    pub(crate) fn share(&self, server: usize) -> f64 {
        let at_server = self.all.iter().filter(|outcome| outcome.server == Some(server)).count();
        at_server as f64 / self.all.len().max(1) as f64
    }

    /// Returns the share of the calls that failed.
    pub(crate) fn failed(&self) -> f64 {
        1.0 - self.answered.len() as f64 / self.all.len().max(1) as f64
    }
}
