//! A simulation of each policy in a fleet with a degraded zone, beside one bad server, and with servers of two speeds; and of
//! channels that prefer a zone: `cargo xtask simulation`, or `cargo bench -p hither-tonic --bench simulation`.
//!
//! It is in virtual time and every choice is seeded, so the table is the same on each machine and in each run.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a bench that cannot go on ends")]

#[allow(dead_code, reason = "the tests of the channel need more of it")]
#[path = "../../tests/fleet/mod.rs"]
mod fleet;
mod table;

use std::time::Duration;

use fleet::{Experiment, Fault};

fn main() {
    let flapping = Fault::Flapping(Duration::from_secs(5));
    println!("{}", table::degraded_zone(&Experiment::degraded_zone()));
    println!(
        "{}",
        table::bad_server(
            &[Fault::Slow(20), Fault::Failing, flapping, Fault::Frozen].map(Experiment::bad_server)
        )
    );
    println!("{}", table::two_speeds(&[false, true].map(Experiment::two_speeds)));
    print!("{}", table::zones(&Experiment::zones()));
}
