//! The table of the simulation in BENCHMARKS.md.

use std::fs;
use std::path::Path;

use crate::command::Step;
use crate::error::Error;

const FILE: &str = "BENCHMARKS.md";

/// The lines before and after the table.
const MARKERS: (&str, &str) =
    ("<!-- Begin: cargo xtask simulation -->\n", "<!-- End: cargo xtask simulation -->\n");

/// Runs the simulation, and writes its table into the file.
pub(crate) fn run(root: &Path) -> Result<(), Error> {
    let (old, new) = documents(root)?;
    if old == new {
        return Ok(());
    }
    let file = root.join(FILE);
    fs::write(&file, new).map_err(|error| Error::io("write", &file, &error))
}

/// Checks that the file has the table that the simulation makes: time is virtual in it, so it does not depend on the machine.
pub(crate) fn check(root: &Path) -> Result<(), Error> {
    let (old, new) = documents(root)?;
    if old == new {
        return Ok(());
    }
    Err(Error::new(format!(
        "the simulation's table in {FILE} is not that of this code: `cargo xtask simulation`"
    )))
}

/// Returns the file as it is, and as it is to be.
fn documents(root: &Path) -> Result<(String, String), Error> {
    let file = root.join(FILE);
    let old = fs::read_to_string(&file).map_err(|error| Error::io("read", &file, &error))?;
    let bench = ["bench", "--quiet", "-p", "hither-tonic", "--all-features", "--bench", "simulation"];
    eprintln!("==> cargo {}", bench.join(" "));
    let table = Step::cargo(root).args(bench).output()?;
    print!("{table}");
    let new = replaced(&old, &table)
        .ok_or_else(|| Error::new(format!("{FILE} has no place for the simulation's table")))?;
    Ok((old, new))
}

/// Replaces what is between the markers.
fn replaced(document: &str, table: &str) -> Option<String> {
    let (before, rest) = document.split_once(MARKERS.0)?;
    let (_, after) = rest.split_once(MARKERS.1)?;
    Some(format!("{before}{}\n{table}\n{}{after}", MARKERS.0, MARKERS.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_replaced_and_nothing_else() {
        let document = |table: &str| format!("# A\n\n{}\n{table}\n{}\ntext\n", MARKERS.0, MARKERS.1);
        assert_eq!(replaced(&document("| old |\n"), "| new |\n"), Some(document("| new |\n")));
        assert_eq!(replaced("# A\n", "| new |\n"), None);
    }
}
