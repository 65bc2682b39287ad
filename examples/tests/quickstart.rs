//! `cargo quickstart`, as a newcomer sees it.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::process::Command;
use std::time::Duration;

use tokio::time::Instant;

#[test]
fn the_quickstart_ends_by_itself_and_no_call_fails_in_its_graceful_part() {
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_quickstart")).output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let last = said.lines().last().unwrap();
    assert!(last.contains(": 0 failed calls while servers joined and left gracefully"), "{last}");
    for name in ["ada", "ben", "cleo", "dora"] {
        assert!(said.contains(&format!("{name} ")), "{name} is not told of in {said}");
    }
}
