//! `cargo quickstart`.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

#[test]
fn the_quickstart_ends_and_no_call_fails_in_its_graceful_part() {
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart")).output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}");
    let last = printed.lines().last().unwrap();
    assert!(last.contains(": 0 failed calls while servers joined and left gracefully"), "{last}");
    for name in ["ada", "ben", "cleo", "dora"] {
        assert!(printed.contains(&format!("{name} ")), "{name} is not in {printed}");
    }
}
