//! The simulator of fleets: against what is known of queues, and against itself.

#[allow(dead_code, reason = "one of the tables is enough here")]
#[path = "../../benches/simulation/table.rs"]
mod table;

use std::sync::LazyLock;
use std::time::Duration;

use tonic::Code;

use crate::fleet::{self, CHANNELS, Call, Experiment, Fault, Fleet, Load, Outcomes, Work, make};

const SEED: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(3600);

/// Poisson arrivals at one server of one slot, with exponential times of service: M/M/1, at half of its capacity.
static QUEUE: LazyLock<(Vec<Call>, Outcomes)> = LazyLock::new(|| {
    let work = Work::Exponential { mean: 100.0 };
    let calls = Load::utilising(0.5, 1, work, 1).draw(Duration::from_secs(4000), SEED);
    let outcomes = fleet::run(SEED, async {
        let fleet = Fleet::start(1, 1, |_, instance| instance).await;
        let channels = fleet.channels(1, |channel, _| channel).await;
        make(&channels, &calls, PATIENCE).await
    });
    (calls, outcomes)
});

/// A call begins when it has arrived and the one before has ended (Lindley's recursion).
#[test]
fn each_call_of_a_queue_takes_exactly_its_work_and_what_it_waits_for() {
    let (calls, outcomes) = &*QUEUE;
    let mut free_at = Duration::ZERO;
    for (call, outcome) in calls.iter().zip(outcomes.all()) {
        free_at = free_at.max(call.at) + Duration::from_millis(call.work);
        assert_eq!((outcome.took, outcome.code), (free_at - call.at, Code::Ok), "{call:?}");
    }
}

/// At a utilisation u and a mean time of service s, the time of a call is exponential with the mean s / (1 - u). With 20,000
/// calls, which depend on each other, the standard error is 2 % of the mean and 5 % of the 99th percentile.
#[test]
fn a_queue_has_the_times_of_m_m_1() {
    let (calls, outcomes) = &*QUEUE;
    assert!((19_300..20_700).contains(&calls.len()), "{}", calls.len());
    let (mean, p99) = (outcomes.mean().as_secs_f64(), outcomes.quantile(0.99).as_secs_f64());
    assert!((mean - 0.2).abs() < 0.1 * 0.2, "{mean}");
    assert!((p99 - 0.2 * 100.0_f64.ln()).abs() < 0.25 * 0.2 * 100.0_f64.ln(), "{p99}");
}

/// Whatever is random in a channel is drawn from generators that can be seeded, and nothing depends on the order of a hash map.
#[test]
fn the_same_seed_makes_the_same_table() {
    let faults = vec![(0..1, Fault::Slow(10)), (1..2, Fault::Failing)];
    let third = Duration::from_secs(1);
    let small = Experiment { servers: 8, channels: 2, faults, third, ..Experiment::degraded_zone() };
    let table = table::degraded_zone(&small);
    assert_eq!(table, table::degraded_zone(&small));
    assert_eq!(table.lines().count(), 2 + CHANNELS.len());
    assert_ne!(table, table::degraded_zone(&Experiment { seed: 2, ..small }));
}
