//! The ejections of one instance: a state machine that is given the time.

use std::time::Duration;

use tokio::time::Instant;

use super::config::OutlierDetection;

/// How long a probe may be in flight until it counts as a success: a stream may last for days. Longer than a server that is
/// frozen goes unnoticed by keep-alive.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the instance is, and how often of late it has been ejected.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    stage: Stage,
    multiplier: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    #[default]
    In,
    Ejected {
        until: Instant,
    },
    /// Tried by one call at a time. `probe`: the number of the one that was in flight, and when that was seen first.
    Probing {
        probe: Option<(u64, Instant)>,
    },
}

impl Ejection {
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Ejects it; returns for how long.
    pub(super) fn eject(&mut self, now: Instant, config: &OutlierDetection) -> Duration {
        self.multiplier = self.multiplier.saturating_add(1);
        let base = config.base_ejection_time;
        let most = config.max_ejection_time.max(base);
        let time = base.saturating_mul(self.multiplier).min(most);
        self.stage = Stage::Ejected { until: now + time };
        time
    }

    /// A probe has succeeded.
    pub(super) fn admit(&mut self) {
        self.stage = Stage::In;
    }

    /// The end of an interval. `probe`: the number of the probe in flight. Returns whether the stage has changed.
    pub(super) fn sweep(&mut self, now: Instant, probe: Option<u64>) -> bool {
        match &mut self.stage {
            Stage::In => {
                self.multiplier = self.multiplier.saturating_sub(1);
                false
            }
            Stage::Ejected { until } if *until <= now => {
                self.stage = Stage::Probing { probe: None };
                true
            }
            Stage::Ejected { .. } => false,
            Stage::Probing { probe: seen } => {
                *seen = match (*seen, probe) {
                    (Some((known, since)), Some(probe)) if known == probe => {
                        if now - since >= PATIENCE {
                            self.stage = Stage::In;
                            return true;
                        }
                        return false;
                    }
                    (_, probe) => probe.map(|probe| (probe, now)),
                };
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> OutlierDetection {
        OutlierDetection::default()
    }

    #[tokio::test(start_paused = true)]
    async fn each_ejection_is_longer_up_to_the_maximum_and_each_clean_interval_takes_one_away() {
        let (mut ejection, now) = (Ejection::default(), Instant::now());
        let mut eject = |clean: usize| {
            ejection.admit();
            for _ in 0..clean {
                ejection.sweep(now, None);
            }
            ejection.eject(now, &config()).as_secs()
        };
        let times = [0, 0, 0, 1, 2, 5].map(&mut eject);
        assert_eq!(times, [30, 60, 90, 90, 60, 30]);
        let times = [0; 12].map(&mut eject);
        assert_eq!(times[8..], [300, 300, 300, 300]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_base_time_beyond_the_maximum_is_the_maximum() {
        let (mut ejection, now) = (Ejection::default(), Instant::now());
        let config = config().with_base_ejection_time(400 * SECOND);
        assert_eq!([0; 2].map(|_| ejection.eject(now, &config).as_secs()), [400, 400]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejection_ends_with_the_first_sweep_after_its_time_and_counts_as_no_clean_interval() {
        let (mut ejection, now) = (Ejection::default(), Instant::now());
        ejection.eject(now, &config());
        assert!(!ejection.sweep(now + 29 * SECOND, None));
        assert!(ejection.sweep(now + 30 * SECOND, None));
        assert_eq!(ejection.stage(), Stage::Probing { probe: None });
        assert!(!ejection.sweep(now + 1000 * SECOND, None), "it waits for a call");
        assert_eq!(ejection.eject(now, &config()).as_secs(), 60);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_lasts_counts_as_a_success() {
        let (mut ejection, now) = (Ejection::default(), Instant::now());
        ejection.eject(now, &config());
        let sweeps = [(30, None), (40, Some(1)), (50, Some(1)), (60, Some(2)), (80, Some(2))];
        for (seconds, probe) in sweeps {
            ejection.sweep(now + seconds * SECOND, probe);
            assert_ne!(ejection.stage(), Stage::In);
        }
        assert!(ejection.sweep(now + 90 * SECOND, Some(2)));
        assert_eq!(ejection.stage(), Stage::In);
    }
}
