//! The ejections of one instance: a state machine that is given the time.

use std::time::Duration;

use tokio::time::Instant;

use super::config::OutlierDetection;
use crate::client::outcomes::Trial;

/// How long a probe may be in flight until it counts as a success: a stream may last for days. Longer than a server that is
/// frozen goes unnoticed by keep-alive. And how long probes may be given up until the instance is ejected again.
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
    /// Tried by one call at a time.
    Probing(Probing),
}

/// What the last sweep has seen of a trial. Times are those of intervals, however much later a sweep comes: while the whole
/// process is stopped nothing can be answered.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probing {
    /// The number of the probe that was in flight, and for how long it has been since that was seen first.
    probe: Option<(u64, Duration)>,
    /// The number of the latest one that was given up.
    given_up: Option<u64>,
    /// For how long it was tried, without the intervals in which it got no call, or the others failed too. `None` before the
    /// first of them.
    tried_for: Option<Duration>,
}

/// What the end of an interval brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swept {
    Nothing,
    /// The ejection is over: it is to be tried.
    Tried,
    /// The trial is over without a verdict, and the server has responded.
    Back,
    /// The trial is over, and the server has responded to no probe for as long as its caller has waited.
    Unanswered,
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

    /// It is called like the others.
    pub(super) fn admit(&mut self) {
        self.stage = Stage::In;
    }

    /// Whether it is being tried, and has got no call since the last sweep.
    pub(super) fn is_idle(&self, trial: Option<Trial>) -> bool {
        match (self.stage, trial) {
            (Stage::Probing(probing), Some(trial)) => trial.probe.is_none() && !probing.is_given_up(&trial),
            _ => false,
        }
    }

    /// The end of an interval. `trial`: what is known of it if it is being tried, unless a probe has decided.
    pub(super) fn sweep(&mut self, now: Instant, interval: Duration, trial: Option<Trial>) -> Swept {
        match &mut self.stage {
            Stage::In => {
                self.multiplier = self.multiplier.saturating_sub(1);
                Swept::Nothing
            }
            Stage::Ejected { until } if *until <= now => {
                self.stage = Stage::Probing(Probing::default());
                Swept::Tried
            }
            Stage::Ejected { .. } => Swept::Nothing,
            Stage::Probing(probing) => trial.map_or(Swept::Nothing, |trial| probing.sweep(interval, &trial)),
        }
    }
}

impl Probing {
    /// Whether a probe was given up since the last sweep.
    fn is_given_up(&self, trial: &Trial) -> bool {
        trial.given_up > self.given_up
    }

    fn sweep(&mut self, interval: Duration, trial: &Trial) -> Swept {
        let is_given_up = self.is_given_up(trial);
        let is_tried = is_given_up || trial.probe.is_some();
        // Where the others fail too, it may be the calls.
        let is_evidence = is_tried && (trial.has_responded || trial.do_others_succeed);
        if is_evidence {
            // What it was tried for before the first sweep that sees it may be a moment.
            self.tried_for =
                Some(self.tried_for.map_or(Duration::ZERO, |time| time.saturating_add(interval)));
        }
        if let Some((known, time)) = &mut self.probe
            && trial.probe == Some(*known)
        {
            *time = time.saturating_add(interval);
            // Its caller is waiting: nothing is decided against it.
            return if *time >= PATIENCE { Swept::Back } else { Swept::Nothing };
        }
        self.probe = trial.probe.map(|probe| (probe, Duration::ZERO));
        self.given_up = trial.given_up;
        if !is_given_up || !is_evidence || self.tried_for.is_none_or(|time| time < PATIENCE) {
            Swept::Nothing
        } else if trial.has_responded {
            Swept::Back
        } else {
            Swept::Unanswered
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Swept::{Back, Nothing, Tried, Unanswered};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const INTERVAL: Duration = Duration::from_secs(10);

    fn config() -> OutlierDetection {
        OutlierDetection::default()
    }

    #[tokio::test(start_paused = true)]
    async fn each_ejection_is_longer_up_to_the_maximum_and_each_clean_interval_takes_one_away() {
        let (mut ejection, now) = (Ejection::default(), Instant::now());
        let mut eject = |clean: usize| {
            ejection.admit();
            for _ in 0..clean {
                ejection.sweep(now, INTERVAL, None);
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
        let sweep = |ejection: &mut Ejection, seconds| {
            ejection.sweep(now + seconds * SECOND, INTERVAL, Some(Trial::default()))
        };
        ejection.eject(now, &config());
        assert_eq!(sweep(&mut ejection, 29), Nothing);
        assert_eq!(sweep(&mut ejection, 30), Tried);
        assert_eq!(sweep(&mut ejection, 1000), Nothing, "it waits for a call");
        assert_eq!(ejection.eject(now, &config()).as_secs(), 60);
    }

    /// What the sweeps bring after the one with which the trial begins.
    fn swept(trials: impl IntoIterator<Item = Trial>) -> Vec<Swept> {
        let (mut ejection, mut now) = (Ejection::default(), Instant::now());
        ejection.eject(now, &config());
        now += 30 * SECOND;
        assert_eq!(ejection.sweep(now, INTERVAL, None), Tried);
        let sweep = |trial| {
            now += INTERVAL;
            ejection.sweep(now, INTERVAL, Some(trial))
        };
        trials.into_iter().map(sweep).collect()
    }

    /// Of those before it, the latest was given up.
    fn in_flight(probe: u64) -> Trial {
        let given_up = (probe > 1).then(|| probe - 1);
        Trial { probe: Some(probe), given_up, do_others_succeed: true, ..Trial::default() }
    }

    fn given_up(probe: u64) -> Trial {
        Trial { probe: None, ..in_flight(probe + 1) }
    }

    fn responded(trial: Trial) -> Trial {
        Trial { has_responded: true, ..trial }
    }

    fn beside_failures(trial: Trial) -> Trial {
        Trial { do_others_succeed: false, ..trial }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_lasts_counts_as_a_success() {
        for change in [|trial| trial, responded, beside_failures] {
            let swept = swept([1, 1, 3, 3, 3, 3].map(in_flight).map(change));
            assert_eq!(swept, [Nothing, Nothing, Nothing, Nothing, Nothing, Back]);
        }
    }

    /// While the process was stopped, no answer was read either.
    #[tokio::test(start_paused = true)]
    async fn a_sweep_that_comes_late_counts_as_one_interval() {
        for trial in [in_flight, given_up] {
            let (mut ejection, now) = (Ejection::default(), Instant::now());
            ejection.eject(now, &config());
            ejection.sweep(now + 30 * SECOND, INTERVAL, None);
            ejection.sweep(now + 40 * SECOND, INTERVAL, Some(trial(1)));
            let late = if trial(1).probe.is_some() { 1 } else { 2 };
            assert_eq!(ejection.sweep(now + 1000 * SECOND, INTERVAL, Some(trial(late))), Nothing);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_probes_are_given_up_for_half_a_minute_it_is_ejected_again() {
        for trial in [given_up, in_flight] {
            let swept = swept([2, 3, 4, 5].map(trial));
            assert_eq!(swept, [Nothing, Nothing, Nothing, Unanswered]);
        }
        // Each is waited for for longer than an interval.
        assert_eq!(swept([1, 1, 1, 2].map(in_flight)), [Nothing, Nothing, Nothing, Unanswered]);
        let swept = swept([1, 1, 2, 2, 3].map(in_flight));
        assert_eq!(swept, [Nothing, Nothing, Nothing, Nothing, Unanswered]);
    }

    /// The time without calls does not count, nor does that in which the others' fail as well.
    #[tokio::test(start_paused = true)]
    async fn what_is_no_evidence_ejects_none() {
        let idle = || [given_up(4); 20];
        let trials = [given_up(2), given_up(3), given_up(4)].into_iter().chain(idle()).chain([given_up(5)]);
        let swept_idle = swept(trials);
        assert_eq!(swept_idle[..23], [Nothing; 23]);
        assert_eq!(swept_idle[23], Unanswered);
        // Nor does what one of these intervals ends with.
        let ends = [beside_failures(in_flight(3)), beside_failures(given_up(4)), given_up(5)];
        let swept_ends = swept([1, 1, 2, 2].map(in_flight).into_iter().chain(ends));
        assert_eq!((&swept_ends[..6], swept_ends[6]), (&[Nothing; 6][..], Unanswered));
        let failures = (2..50).map(given_up).map(beside_failures);
        assert_eq!(swept(failures.clone()), [Nothing; 48]);
        let swept_last = swept((2..5).map(given_up).chain(failures.skip(3)).chain([given_up(50)]));
        assert_eq!((&swept_last[..48], swept_last[48]), (&[Nothing; 48][..], Unanswered));
    }

    #[tokio::test(start_paused = true)]
    async fn probes_that_were_not_sent_decide_nothing() {
        let unsent = |probe| Trial { given_up: None, ..in_flight(probe) };
        assert_eq!(swept([1, 1, 1, 2, 3, 4].map(unsent)), [Nothing; 6]);
    }

    /// Their callers may want no more than the first messages of a stream.
    #[tokio::test(start_paused = true)]
    async fn when_probes_are_given_up_that_had_a_response_it_is_back() {
        let trials = [given_up(2), given_up(3), responded(given_up(4)), responded(given_up(5))];
        assert_eq!(swept(trials), [Nothing, Nothing, Nothing, Back]);
        let trials = [2, 3, 4, 5].map(given_up).map(responded).map(beside_failures);
        assert_eq!(swept(trials), [Nothing, Nothing, Nothing, Back]);
    }
}
