//! What each policy and each feature costs per call.

use std::path::Path;

use super::callgrind::{self, Counts};
use crate::error::Error;

/// The servers of each column, with 16 callers.
const SERVERS: [&str; 2] = ["3", "100"];

/// Names, and the flags of `hither-bench count`. Each row is compared with the first.
const ROWS: [(&str, &[&str]); 17] = [
    ("`LeastRequest`, the default", &[]),
    ("weights that differ", &["--with", "weights"]),
    ("`RoundRobin`", &["--with", "round-robin"]),
    ("`RoundRobin`, weights that differ", &["--with", "round-robin,weights"]),
    ("`PeakEwma`", &["--with", "peak-ewma"]),
    ("`RingHash`", &["--with", "ring-hash"]),
    ("`RingHash`, bounded loads", &["--with", "bounded-ring-hash"]),
    ("`Lanes`, an untagged call", &["--with", "lanes"]),
    ("tiers, of which the first is ready", &["--with", "tiers"]),
    ("outlier detection", &["--with", "outliers"]),
    ("retries, of which none is needed", &["--with", "retries"]),
    ("hedging of the slowest 1 %", &["--with", "hedging"]),
    ("deadlines inherited, of which there are none", &["--with", "inherit-deadline"]),
    ("`propagate`, a header", &["--with", "propagate"]),
    ("a subscriber of INFO", &["--with", "logs"]),
    ("a subscriber of the calls' spans", &["--with", "spans"]),
    ("the method's name, as from generated code", NAMED),
];

const NAMED: &[&str] = &["--with", "named"];

/// The same of a build with feature `metrics`, whose labels have the method's name.
const METRICS: [(&str, &[&str]); 2] = [
    ("`metrics` and the name, no recorder", NAMED),
    ("`metrics` and the name, Prometheus", &["--with", "named,prometheus"]),
];

/// Prints a table.
pub(super) fn table(root: &Path, valgrind: &Path) -> Result<(), Error> {
    println!("\nInstructions and allocations per call, more than with the default:\n");
    println!("| | 3 servers | more | allocations | 100 servers | more | allocations |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    super::build(root, &[])?;
    let base = columns(root, valgrind, &[])?;
    for (name, flags) in ROWS {
        let counts = if flags.is_empty() { None } else { Some(columns(root, valgrind, flags)?) };
        println!("{}", row(name, counts.as_ref().unwrap_or(&base), &base));
    }
    super::build(root, &["--features", "metrics"])?;
    for (name, flags) in METRICS {
        println!("{}", row(name, &columns(root, valgrind, flags)?, &base));
    }
    // What is run next is without.
    super::build(root, &[])
}

fn columns(root: &Path, valgrind: &Path, with: &[&str]) -> Result<[Counts; 2], Error> {
    let count = |servers: &str| {
        let flags = ["--servers", servers, "--callers", "16"].into_iter().chain(with.iter().copied());
        callgrind::count(root, valgrind, "hither", &flags.map(str::to_owned).collect::<Vec<_>>())
    };
    Ok([count(SERVERS[0])?, count(SERVERS[1])?])
}

fn row(name: &str, counts: &[Counts; 2], base: &[Counts; 2]) -> String {
    let cells = counts.iter().zip(base).map(|(counts, base)| {
        let more = counts.instructions - base.instructions;
        format!(" {:.0} | {more:+.0} | {:.1} |", counts.instructions, counts.allocations)
    });
    format!("| {name} |{}", cells.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_what_is_more_than_the_default() {
        let counts = |instructions, allocations| Counts { instructions, allocations };
        let base = [counts(41_000.0, 23.0), counts(45_000.0, 23.0)];
        let more = [counts(41_100.4, 24.0), counts(44_900.0, 23.0)];
        assert_eq!(row("x", &more, &base), "| x | 41100 | +100 | 24.0 | 44900 | -100 | 23.0 |");
    }
}
