//! A server process that is stopped (SIGSTOP), whose kernel goes on to accept and to acknowledge while nothing answers; and
//! one that is killed (SIGKILL).
//!
//! The servers are this program too, started with an argument.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, unused_imports, reason = "shared with the other tests of the channel")]
#[path = "../support/mod.rs"]
mod support;

#[cfg(unix)]
mod process;

#[cfg(unix)]
fn main() {
    use libtest_mimic::{Arguments, Trial, run};

    if std::env::args().nth(1).as_deref() == Some(process::SERVE) {
        return process::serve();
    }
    let tests: [(&str, fn()); 3] = [
        (
            "calls_leave_a_stopped_process_and_return_when_it_goes_on",
            process::calls_leave_a_stopped_process_and_return_when_it_goes_on,
        ),
        (
            "calls_given_up_while_a_process_is_stopped_harm_no_others",
            process::calls_given_up_while_a_process_is_stopped_harm_no_others,
        ),
        (
            "only_the_calls_in_flight_at_a_process_fail_when_it_is_killed",
            process::only_the_calls_in_flight_at_a_process_fail_when_it_is_killed,
        ),
    ];
    let trials = tests.map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    run(&Arguments::from_args(), trials.into()).exit();
}

#[cfg(not(unix))]
fn main() {}
