//! One row a fault, on the standard output: `cargo xtask faults` makes a table of them.

use std::io::Write;
use std::time::Duration;

/// How it went.
#[derive(Debug)]
pub(crate) struct Row {
    /// Until the registration was back, or had rightly ended.
    pub(crate) registered: Option<Duration>,
    /// Until the view was right.
    pub(crate) right: Duration,
    /// Whether the lease was kept; `None` where the registration has ended.
    pub(crate) kept: Option<bool>,
}

/// `fault: <what> | <registered> | <right> | <wrong in between> | <lease kept>`
pub(crate) fn write(fault: &str, row: &Row, wrong: Option<&String>) {
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let registered = row.registered.map_or("-".to_owned(), seconds);
    let wrong = if wrong.is_some() { "YES" } else { "no" };
    let kept = match row.kept {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    pass_on(&format!("fault: {fault} | {registered} | {} | {wrong} | {kept}", seconds(row.right)));
}

/// Not `println!`, which the test harness would take away.
pub(crate) fn pass_on(row: &str) {
    let _ = std::io::stdout().lock().write_all(format!("{row}\n").as_bytes());
}
