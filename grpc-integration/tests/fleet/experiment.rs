//! An experiment: a fleet, of which a part does badly for a while.

use std::ops::Range;
use std::time::Duration;

use futures_util::future::join_all;
use hither_core::Instance;
use hither_tonic::ChannelBuilder;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Condition, Fleet, Load, Outcomes, Work, make, run};

/// The fast servers of the third table, and as many that are slow.
pub(crate) const FAST: usize = 10;
/// The servers of each zone of the fourth table.
const ZONE: usize = 10;

/// The name of a zone, by its number.
pub(super) fn zone(number: usize) -> String {
    format!("zone {number}")
}

/// Servers under a load that they have room for, and what is wrong with some of them.
#[derive(Debug, Clone)]
pub(crate) struct Experiment {
    pub(crate) servers: usize,
    /// How many calls a server works on at a time.
    pub(crate) slots: usize,
    /// What the registry has of each, by its number.
    pub(crate) describe: fn(usize, Instance) -> Instance,
    /// These need twice as long as the others, all the time.
    pub(crate) half_as_fast: Range<usize>,
    /// In the middle third.
    pub(crate) faults: Vec<(Range<usize>, Fault)>,
    pub(crate) channels: usize,
    pub(crate) utilisation: f64,
    pub(crate) work: Work,
    pub(crate) deadline: Duration,
    pub(crate) third: Duration,
    pub(crate) seed: u64,
}

/// What is wrong with a server.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It takes so many times as long for a call.
    Slow(u32),
    /// It fails each call at once.
    Failing,
    /// It fails each call at once for so long, then does well for so long, and so on.
    Flapping(Duration),
    /// It answers nothing, as a process that was stopped.
    Frozen,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) calls: Outcomes,
    /// The part of the attempts in the middle third that arrived at the bad servers.
    pub(crate) share: f64,
}

impl Experiment {
    /// What the first table is about: a fifth of the fleet is a zone that degrades.
    pub(crate) fn degraded_zone() -> Self {
        Self {
            servers: 50,
            slots: 2,
            describe: |_, instance| instance,
            half_as_fast: 0..0,
            faults: vec![(0..8, Fault::Slow(10)), (8..10, Fault::Failing)],
            channels: 4,
            utilisation: 0.7,
            // A call in a hundred takes four times the median.
            work: Work::LogNormal { median: 50.0, sigma: 0.6 },
            deadline: Duration::from_secs(5),
            third: Duration::from_secs(30),
            seed: 1,
        }
    }

    /// What the second table is about: one server of ten is bad.
    pub(crate) fn bad_server(fault: Fault) -> Self {
        Self {
            servers: 10,
            faults: vec![(0..1, fault)],
            channels: 2,
            utilisation: 0.5,
            ..Self::degraded_zone()
        }
    }

    /// What the third table is about: the second half of the fleet is half as fast as the first, which the registry's weights
    /// tell or not.
    pub(crate) fn two_speeds(weighted: bool) -> Self {
        let describe: fn(usize, Instance) -> Instance = if weighted {
            |at, instance| instance.with_weight(if at < FAST { 2 } else { 1 })
        } else {
            |_, instance| instance
        };
        Self {
            describe,
            half_as_fast: FAST..2 * FAST,
            servers: 2 * FAST,
            faults: Vec::new(),
            channels: 2,
            ..Self::degraded_zone()
        }
    }

    /// What the fourth table is about: as the first, but with callers in each of five zones.
    pub(crate) fn zones() -> Self {
        let describe = |at, instance: Instance| instance.with_zone(zone(at / ZONE));
        Self { describe, channels: 5, ..Self::degraded_zone() }
    }

    /// Runs it with channels that are as `configure` has them.
    pub(crate) fn run(&self, configure: impl Fn(ChannelBuilder, u64) -> ChannelBuilder) -> Finding {
        let slots = self.servers * self.slots - self.half_as_fast.len() * self.slots / 2;
        let load = Load::utilising(self.utilisation, slots, self.work, self.channels);
        let calls = load.draw(3 * self.third, self.seed);
        run(self.seed, async {
            let fleet = Fleet::start(self.servers, self.slots, self.describe).await;
            for server in &fleet.servers()[self.half_as_fast.clone()] {
                server.set(Condition::Slow(2));
            }
            let channels = fleet.channels(self.channels, configure).await;
            let (calls, share) = tokio::join!(make(&channels, &calls, self.deadline), self.disturb(&fleet));
            Finding { calls, share }
        })
    }

    /// Returns when the middle third is, since the first call may come.
    pub(crate) fn middle(&self) -> Range<Duration> {
        self.third..2 * self.third
    }

    async fn disturb(&self, fleet: &Fleet) -> f64 {
        let arrived = || {
            let arrived = fleet.arrived();
            let bad = self.faults.iter().flat_map(|(servers, _)| &arrived[servers.clone()]);
            (bad.sum::<usize>() as f64, arrived.iter().sum::<usize>() as f64)
        };
        sleep(self.third).await;
        let (bad_before, before) = arrived();
        let until = Instant::now() + self.third;
        let faults = self.faults.iter().flat_map(|(servers, fault)| servers.clone().map(|at| (at, *fault)));
        join_all(faults.map(|(at, fault)| fault.last(fleet, at, until))).await;
        let (bad, all) = arrived();
        (bad - bad_before) / (all - before)
    }
}

impl Fault {
    async fn last(self, fleet: &Fleet, at: usize, until: Instant) {
        let server = &fleet.servers()[at];
        match self {
            Self::Slow(times) => server.set(Condition::Slow(times)),
            Self::Failing => server.set(Condition::Failing),
            Self::Frozen => fleet.serving()[at].host().freeze(),
            Self::Flapping(after) => {
                for condition in [Condition::Failing, Condition::Well].into_iter().cycle() {
                    server.set(condition);
                    if Instant::now() + after >= until {
                        break;
                    }
                    sleep(after).await;
                }
            }
        }
        sleep_until(until).await;
        server.set(Condition::Well);
        fleet.serving()[at].host().thaw();
    }
}
