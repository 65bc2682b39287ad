//! What each policy does beside a server that is slow, fails, flaps or is frozen: of whole fleets, in virtual time.

use crate::SECOND;
use crate::fleet::{
    Experiment, Fault, LEAST_REQUEST, LEAST_REQUEST_OUTLIERS, PEAK_EWMA, RETRIES, ROUND_ROBIN,
    ROUND_ROBIN_OUTLIERS, Work,
};

/// One bad server of ten, for ten seconds. Of some 800 calls then, the standard error of a share of a tenth is 1 %.
fn beside(fault: Fault) -> Experiment {
    let work = Work::LogNormal { median: 100.0, sigma: 0.6 };
    Experiment { third: 10 * SECOND, work, ..Experiment::bad_server(fault) }
}

#[test]
fn a_server_that_is_20_times_slower_gets_a_fraction_of_its_share_where_load_or_latency_counts() {
    let experiment = Experiment { third: 10 * SECOND, ..Experiment::bad_server(Fault::Slow(20)) };
    let [blind, by_load, by_latency] = [ROUND_ROBIN, LEAST_REQUEST, PEAK_EWMA].map(|policy| {
        let found = experiment.run(policy);
        (found.share, found.calls.during(experiment.middle()).quantile(0.99))
    });
    assert!((0.099..0.101).contains(&blind.0), "{blind:?}");
    for (share, p99) in [by_load, by_latency] {
        assert!(share < 0.03, "{share}");
        assert!(p99 < blind.1 / 2, "{p99:?} and {blind:?}");
    }
    assert!(by_latency.1 < by_load.1, "{by_latency:?} and {by_load:?}");
}

/// Of a server that fails at once nothing is in flight, and it has the least latency, so it looks idle.
#[test]
fn a_server_that_fails_at_once_gets_no_more_than_its_share_of_two_three_and_ten() {
    for servers in [2, 3, 10] {
        // Latencies are forgotten more slowly than failures: their decay is 10 s.
        for (policy, regained) in [(LEAST_REQUEST, 0.7), (PEAK_EWMA, 0.2)] {
            // Those that are well can carry everything.
            let experiment = Experiment { servers, utilisation: 0.4, ..beside(Fault::Failing) };
            let found = experiment.run(policy);
            let fair = 1.0 / servers as f64;
            assert!(found.share < 1.1 * fair, "{} of {servers}", found.share);
            let after = found.calls.during(2 * experiment.third + 5 * SECOND..3 * experiment.third);
            assert_eq!(after.failed(), 0.0);
            assert!(after.share(0) > regained * fair, "it is called again: {} of {servers}", after.share(0));
        }
    }
}

/// Nor is any ejected.
#[test]
fn where_all_servers_fail_nothing_shifts() {
    for servers in [2, 3, 10] {
        for policy in [LEAST_REQUEST, LEAST_REQUEST_OUTLIERS, ROUND_ROBIN_OUTLIERS, PEAK_EWMA] {
            let faults = vec![(0..servers, Fault::Failing)];
            let experiment = Experiment { servers, faults, ..beside(Fault::Failing) };
            let failing = experiment.run(policy).calls.during(experiment.middle());
            let (calls, fair) = (failing.all().len() as f64, 1.0 / servers as f64);
            // Five standard errors of a random choice.
            let margin = 5.0 * (fair * (1.0 - fair) / calls).sqrt();
            for server in 0..servers {
                let share = failing.share(server);
                assert!((share - fair).abs() < margin, "{share} of {servers}, {margin}");
            }
        }
    }
}

#[test]
fn a_server_that_flaps_is_called_less_while_it_fails_and_again_when_it_does_not() {
    let flapping = Experiment { third: 30 * SECOND, ..beside(Fault::Flapping(5 * SECOND)) };
    let run = |policy| flapping.run(policy).calls.during(flapping.middle());
    let blind = run(ROUND_ROBIN);
    // It fails for half of the time.
    assert!((0.04..0.06).contains(&blind.failed()), "{}", blind.failed());
    let by_load = run(LEAST_REQUEST);
    assert!(
        by_load.share(0) - by_load.failed() > 0.005,
        "of its calls some were answered: {}",
        by_load.share(0)
    );
    for (seeing, most) in [(by_load, 0.7), (run(PEAK_EWMA), 0.7), (run(ROUND_ROBIN_OUTLIERS), 0.2)] {
        assert!(seeing.failed() < most * blind.failed(), "{} and {}", seeing.failed(), blind.failed());
    }
}

/// Nothing but time tells that a server is frozen. Its calls miss their deadline, of 5 s, until keep-alive closes its
/// connections: after 10 to 15 s of silence and 10 s more.
#[test]
fn a_frozen_server_keeps_its_share_at_most_until_keep_alive_ends_it() {
    let experiment = Experiment { third: 30 * SECOND, ..beside(Fault::Frozen) };
    for (policy, least, most) in [
        (ROUND_ROBIN, 0.08, 0.101),
        (LEAST_REQUEST, 0.001, 0.03),
        (PEAK_EWMA, 0.001, 0.03),
        (ROUND_ROBIN_OUTLIERS, 0.04, 0.101),
    ] {
        let calls = experiment.run(policy).calls;
        let frozen = experiment.third;
        let undetected = calls.during(frozen..frozen + 10 * SECOND);
        assert!((least..most).contains(&undetected.failed()), "{}", undetected.failed());
        assert_eq!(calls.during(frozen + 25 * SECOND..3 * experiment.third).failed(), 0.0);
    }
}

/// What has failed was not processed, so it can be sent elsewhere. The budget allows a retry for every fifth call.
#[test]
fn with_retries_one_bad_server_of_ten_fails_no_call() {
    for fault in [Fault::Failing, Fault::Flapping(2 * SECOND)] {
        let found = beside(fault).run(RETRIES);
        assert_eq!(found.calls.failed(), 0.0, "{fault:?}");
    }
}
