//! Runs of `hither-bench count` under strace, which counts system calls.

use std::fs;
use std::path::Path;

use crate::command::Step;
use crate::error::Error;

/// Calls of the shorter of two runs.
const CALLS: u32 = 2000;

/// Counts the system calls of one call. Without its `-f` strace follows the first thread alone, which is all of the
/// client.
pub(super) fn count(root: &Path, strace: &Path, channel: &str, flags: &[String]) -> Result<f64, Error> {
    let half = run(root, strace, channel, flags, CALLS)?;
    let whole = run(root, strace, channel, flags, 2 * CALLS)?;
    Ok((whole - half) / f64::from(CALLS))
}

fn run(root: &Path, strace: &Path, channel: &str, flags: &[String], calls: u32) -> Result<f64, Error> {
    let folder = root.join("target/instructions");
    fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, &error))?;
    let file = folder.join("strace");
    Step::new(strace, root)
        .args(["-c", "-o"])
        .args([&file, &root.join("target/release/hither-bench")])
        .args(["count", "--channel", channel, "--calls", &calls.to_string()])
        .args(flags)
        .output()?;
    let summary = fs::read_to_string(&file).map_err(|error| Error::io("read", &file, &error))?;
    total(&summary).ok_or_else(|| Error::new(format!("{} is no summary of strace", file.display())))
}

/// Reads `100.00 0.05 3 4036 12 total`, whose last number, of errors, may be missing.
fn total(summary: &str) -> Option<f64> {
    let last = summary.lines().find_map(|line| line.trim_end().strip_suffix(" total"))?;
    last.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read_with_errors_and_without() {
        let head = "% time     seconds  usecs/call     calls    errors syscall\n";
        let with = format!(
            "{head} 60.00    0.030000           3      9000       500 recvfrom\n100.00    0.050000           3     13000       504 total\n"
        );
        assert_eq!(total(&with), Some(13_000.0));
        assert_eq!(total("100.00    0.050000           3     13000           total\n"), Some(13_000.0));
        assert_eq!(total(head), None);
    }
}
