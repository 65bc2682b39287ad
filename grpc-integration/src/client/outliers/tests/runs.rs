//! Which runs of failures the channel's task is notified of.

use std::sync::Arc;

use crate::client::outcomes::{Admission, AllOutcomes, Counts, Outcomes, Standing};

const NONE: [u64; 0] = [];

fn instances(count: u64, consecutive: u32) -> (Arc<AllOutcomes>, Vec<Outcomes>) {
    let all = Arc::new(AllOutcomes::new(Some(consecutive)));
    let outcomes = (0..count).map(|number| Outcomes::new(number, &all)).collect();
    (all, outcomes)
}

/// Calls each of them so often in turn. Returns those of which the channel was notified.
fn call(
    all: &AllOutcomes,
    instances: &[Outcomes],
    rounds: u64,
    mut fails: impl FnMut(u64) -> bool,
) -> Vec<u64> {
    for _ in 0..rounds {
        for (number, instance) in (0..).zip(instances) {
            instance.record(fails(number), Admission::Call);
        }
    }
    all.take()
}

#[test]
fn the_fifth_failure_in_a_row_is_notified_of_once() {
    let (all, instances) = instances(3, 5);
    assert_eq!(call(&all, &instances, 4, |number| number == 1), NONE);
    assert_eq!(call(&all, &instances, 100, |number| number == 1), [1]);
    assert!(instances[1].run().is_some());
    instances[1].looked_at();
    assert_eq!(call(&all, &instances, 1, |number| number == 1), [1]);
}

#[test]
fn of_two_it_takes_one_failure_more() {
    let (all, instances) = instances(2, 5);
    assert_eq!(call(&all, &instances, 5, |number| number == 0), NONE);
    assert_eq!(call(&all, &instances, 1, |number| number == 0), [0]);
}

#[test]
fn what_fails_everywhere_is_notified_of_nowhere() {
    for count in [1, 2, 3, 10] {
        let (all, instances) = instances(count, 5);
        assert_eq!(call(&all, &instances, 1000, |_| false), NONE);
        assert_eq!(call(&all, &instances, 1000, |_| true), NONE, "{count} instances");
    }
}

#[test]
fn half_of_all_calls_may_fail_everywhere() {
    let mut random = fastrand::Rng::with_seed(1);
    for count in [2, 3, 10] {
        let (all, instances) = instances(count, 5);
        call(&all, &instances, 100, |_| false);
        for _ in 0..20 {
            call(&all, &instances, 500, |_| random.bool());
            for instance in &instances {
                instance.sweep();
            }
            all.sweep();
        }
        // A million calls would bring about some such runs.
        assert_eq!(call(&all, &instances, 500, |_| random.bool()), NONE, "{count} instances");
    }
}

#[test]
fn a_success_begins_anew() {
    let (all, instances) = instances(3, 5);
    let mut calls = 0;
    let fails = |number| {
        calls += 1;
        number == 1 && calls % 15 != 2
    };
    assert_eq!(call(&all, &instances, 100, fails), NONE);
    assert_eq!(instances[1].sweep(), Counts { succeeded: 20, failed: 80 });
    assert_eq!(instances[1].sweep(), Counts::default());
}

#[test]
fn the_others_are_counted_over_two_intervals() {
    let (all, instances) = instances(3, 5);
    for (round, expected) in [(100, 200), (10, 220), (1, 22), (0, 2)] {
        call(&all, &instances, round, |_| false);
        assert_eq!(instances[0].others(), Counts { succeeded: expected, failed: 0 });
        assert_eq!(instances[0].sweep().succeeded, round);
        for instance in &instances[1..] {
            instance.sweep();
        }
        all.sweep();
    }
}

/// By chance, or because the failures come and go.
#[test]
fn what_has_been_failing_everywhere_until_a_moment_ago_is_notified_of_nowhere() {
    let (all, instances) = instances(3, 5);
    call(&all, &instances, 100, |_| true);
    call(&all, &instances, 10, |_| false);
    assert_eq!(call(&all, &instances, 20, |number| number == 1), NONE);
    for _ in 0..2 {
        for instance in &instances {
            instance.sweep();
        }
        all.sweep();
    }
    assert_eq!(call(&all, &instances, 20, |number| number == 1), [1]);
}

/// Of calls that were in flight.
#[test]
fn failures_of_an_instance_that_is_ejected_are_notified_of_no_more() {
    let (all, instances) = instances(3, 5);
    for standing in [Standing::Ejected, Standing::Probing] {
        instances[1].probation().set(standing);
        assert_eq!(call(&all, &instances, 100, |number| number == 1), NONE);
    }
}
