//! What each policy does beside a server that is slow, fails, flaps or is frozen: of whole fleets, in virtual time.

use std::time::Duration;

use hither_tonic::{ChannelBuilder, LeastRequest, RoundRobin};

use crate::SECOND;
use crate::fleet::{Experiment, Fault, Finding, Work};

type Configure = fn(ChannelBuilder) -> ChannelBuilder;

const ROUND_ROBIN: Configure = |channel| channel.policy(RoundRobin::default());
const LEAST_REQUEST: Configure = |channel| channel.policy(LeastRequest::default());

/// One bad server of ten, for ten seconds. Of some 800 calls then, the standard error of a share of a tenth is 1 %.
fn beside(fault: Fault) -> Experiment {
    let work = Work::LogNormal { median: 100.0, sigma: 0.6 };
    Experiment { third: 10 * SECOND, work, ..Experiment::bad_server(fault) }
}

fn p99(experiment: &Experiment, outcome: &Finding) -> Duration {
    outcome.calls.during(experiment.middle()).quantile(0.99)
}

#[test]
fn a_server_that_is_20_times_slower_gets_a_fraction_of_its_share_where_load_counts() {
    let experiment = beside(Fault::Slow(20));
    let [blind, seeing] = [ROUND_ROBIN, LEAST_REQUEST].map(|policy| experiment.run(policy));
    assert!((0.099..0.101).contains(&blind.share), "{}", blind.share);
    assert!(seeing.share < 0.03, "{}", seeing.share);
    let (blind, seeing) = (p99(&experiment, &blind), p99(&experiment, &seeing));
    assert!(seeing < blind / 2, "{seeing:?} and {blind:?}");
}

/// Of a server that fails at once nothing is in flight, so it looks idle.
#[test]
fn a_server_that_fails_at_once_gets_no_more_than_its_share_of_two_three_and_ten() {
    for servers in [2, 3, 10] {
        // Those that are well can carry everything.
        let experiment = Experiment { servers, utilisation: 0.4, ..beside(Fault::Failing) };
        let outcome = experiment.run(LEAST_REQUEST);
        let fair = 1.0 / servers as f64;
        assert!(outcome.share < 1.1 * fair, "{} of {servers}", outcome.share);
        let after = outcome.calls.during(2 * experiment.third + 5 * SECOND..3 * experiment.third);
        assert_eq!(after.failed(), 0.0);
        assert!(after.share(0) > 0.7 * fair, "it is called again: {} of {servers}", after.share(0));
    }
}

#[test]
fn where_all_servers_fail_nothing_shifts() {
    for servers in [2, 3, 10] {
        let experiment =
            Experiment { servers, faults: vec![(0..servers, Fault::Failing)], ..beside(Fault::Failing) };
        let outcome = experiment.run(LEAST_REQUEST);
        let failing = outcome.calls.during(experiment.middle());
        let (calls, fair) = (failing.all().len() as f64, 1.0 / servers as f64);
        // Five standard errors of a random choice.
        let margin = 5.0 * (fair * (1.0 - fair) / calls).sqrt();
        for server in 0..servers {
            let share = failing.share(server);
            assert!((share - fair).abs() < margin, "{share} of {servers}, {margin}");
        }
    }
}

#[test]
fn a_server_that_flaps_is_called_less_while_it_fails_and_again_when_it_does_not() {
    let flapping = Experiment { third: 30 * SECOND, ..beside(Fault::Flapping(5 * SECOND)) };
    let [blind, seeing] = [ROUND_ROBIN, LEAST_REQUEST].map(|policy| {
        let outcome = flapping.run(policy);
        outcome.calls.during(flapping.middle())
    });
    // It fails for half of the time.
    assert!((0.04..0.06).contains(&blind.failed()), "{}", blind.failed());
    assert!(seeing.failed() < blind.failed() / 2.0, "{}", seeing.failed());
    let answered = seeing.share(0) - seeing.failed();
    assert!(answered > 0.005, "{answered}");
}

/// Nothing but time tells that a server is frozen. Its calls miss their deadline, of 5 s, until keep-alive closes its
/// connections: after 10 to 15 s of silence and 10 s more.
#[test]
fn a_frozen_server_keeps_its_share_at_most_until_keep_alive_ends_it() {
    let experiment = Experiment { third: 30 * SECOND, ..beside(Fault::Frozen) };
    for (policy, least, most) in [(ROUND_ROBIN, 0.08, 0.101), (LEAST_REQUEST, 0.001, 0.03)] {
        let calls = experiment.run(policy).calls;
        let frozen = experiment.third;
        let undetected = calls.during(frozen..frozen + 10 * SECOND);
        assert!((least..most).contains(&undetected.failed()), "{}", undetected.failed());
        assert_eq!(calls.during(frozen + 25 * SECOND..3 * experiment.third).failed(), 0.0);
    }
}
