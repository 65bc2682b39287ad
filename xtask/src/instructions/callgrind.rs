//! Runs of `hither-bench count` under callgrind, and what is read from its profiles.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::command::Step;
use crate::error::Error;
use crate::tools;

/// Calls of the shorter of two runs.
const CALLS: u32 = 2000;

/// Instructions are collected inside of this function alone: it makes the calls, on connections that exist.
const CALLED: &str = "hither_bench::count::counted*";

/// The same for changes of a service: it makes the changes, when all instances are connected.
const CHANGED: &str = "hither_bench::change::counted*";

/// Changes that are counted. One differs from the next by some per cent.
const CHANGES: u32 = 30;

/// Functions of the C library that allocate.
const ALLOCATORS: [&str; 5] = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"];

/// The cost of one call.
#[derive(Debug)]
pub(super) struct Counts {
    pub(super) instructions: f64,
    pub(super) allocations: f64,
}

/// Counts what a call costs.
///
/// Callgrind counts how often functions are called from the start of the program on, so a run of half the length is
/// subtracted.
pub(super) fn count(root: &Path, valgrind: &Path, channel: &str, flags: &[String]) -> Result<Counts, Error> {
    let half = parse(&run(root, valgrind, channel, flags, CALLS)?)?;
    let whole = parse(&run(root, valgrind, channel, flags, 2 * CALLS)?)?;
    Ok(Counts {
        instructions: whole.instructions / f64::from(2 * CALLS),
        allocations: (whole.allocations - half.allocations) / f64::from(CALLS),
    })
}

/// Counts the instructions of a change of a service, as the mean of one change of each kind.
pub(super) fn count_change(root: &Path, valgrind: &Path, instances: u32) -> Result<f64, Error> {
    let (instances, changes) = (instances.to_string(), CHANGES.to_string());
    let arguments = ["change", "--count", "--instances", &instances, "--changes", &changes];
    let profile =
        collect(root, valgrind, CHANGED, &format!("change.{instances}"), arguments.map(str::to_owned))?;
    // Of each kind: an instance is changed, removed and added.
    Ok(parse(&profile)?.instructions / f64::from(3 * CHANGES))
}

/// Prints which functions have how many of the instructions of a call.
pub(super) fn profile(root: &Path, channel: &str, flags: &[String]) -> Result<(), Error> {
    let valgrind = tools::valgrind(root)?;
    super::build(root, &[])?;
    let profile = run(root, &valgrind, channel, flags, CALLS)?;
    let calls = f64::from(CALLS);
    let own = own_instructions(&read(&profile)?);
    let total = own.iter().map(|(_, instructions)| instructions).sum::<f64>();
    println!("{:8.0}        all, per call", total / calls);
    for (function, instructions) in own {
        if instructions / calls < 1.0 {
            break;
        }
        println!("{:8.0} {:5.1} % {function}", instructions / calls, 100.0 * instructions / total);
    }
    println!("\nThe callers and lines: callgrind_annotate --tree=both {}", profile.display());
    Ok(())
}

/// Makes calls, and returns the file of the profile.
fn run(root: &Path, valgrind: &Path, channel: &str, flags: &[String], calls: u32) -> Result<PathBuf, Error> {
    let arguments = ["count", "--channel", channel, "--calls", &calls.to_string()].map(str::to_owned);
    let arguments = arguments.into_iter().chain(flags.iter().cloned());
    collect(root, valgrind, CALLED, &format!("{channel}{}.{calls}", flags.concat()), arguments)
}

/// Runs `hither-bench`, collects inside of one function, and returns the file of the profile.
fn collect(
    root: &Path,
    valgrind: &Path,
    function: &str,
    name: &str,
    arguments: impl IntoIterator<Item = String>,
) -> Result<PathBuf, Error> {
    let folder = root.join("target/instructions");
    fs::create_dir_all(&folder).map_err(|error| Error::io("create", &folder, &error))?;
    let file = folder.join(name);
    // A run that fails leaves the file of the one before.
    let _ = fs::remove_file(&file);
    Step::new(valgrind, root)
        .args(["--tool=callgrind".to_owned(), format!("--toggle-collect={function}")])
        .args([format!("--callgrind-out-file={}", file.display())])
        .args([root.join("target/release/hither-bench")])
        .args(arguments)
        .output()?;
    Ok(file)
}

fn read(file: &Path) -> Result<String, Error> {
    fs::read_to_string(file).map_err(|error| Error::io("read", file, &error))
}

fn parse(file: &Path) -> Result<Counts, Error> {
    counts(&read(file)?).ok_or_else(|| Error::new(format!("{} is no profile of callgrind", file.display())))
}

/// Reads a profile: `cfn=(7) malloc` names the function that the `calls=3 …` below it are of, and `cfn=(7)` names it again.
fn counts(profile: &str) -> Option<Counts> {
    let mut names = HashMap::new();
    let (mut allocations, mut called) = (0.0, "");
    for line in profile.lines() {
        if let Some(function) = line.strip_prefix("cfn=").or_else(|| line.strip_prefix("fn=")) {
            called = name(&mut names, function);
        } else if let Some(calls) = line.strip_prefix("calls=")
            && ALLOCATORS.contains(&called)
        {
            allocations += calls.split(' ').next()?.parse::<f64>().ok()?;
        }
    }
    let instructions = profile.lines().find_map(|line| line.strip_prefix("totals: "))?.parse().ok()?;
    (instructions > 0.0).then_some(Counts { instructions, allocations })
}

/// Returns the instructions of each function without those that it calls, in descending order.
fn own_instructions(profile: &str) -> Vec<(String, f64)> {
    let mut names = HashMap::new();
    let mut own = HashMap::<&str, f64>::new();
    let (mut function, mut is_call) = ("", false);
    for line in profile.lines() {
        if let Some(text) = line.strip_prefix("fn=") {
            function = name(&mut names, text);
        } else if let Some(text) = line.strip_prefix("cfn=") {
            name(&mut names, text);
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            // `line cost`; after `calls=` the cost is that of the function called.
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<f64>().ok()).unwrap_or_default();
            if !std::mem::take(&mut is_call) {
                *own.entry(function).or_default() += cost;
            }
        }
    }
    let mut own: Vec<_> = own.into_iter().map(|(function, cost)| (function.to_owned(), cost)).collect();
    own.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    own
}

/// Resolves `(7) malloc`, and `(7)` where it was named before.
fn name<'a>(names: &mut HashMap<&'a str, &'a str>, text: &'a str) -> &'a str {
    match text.split_once(' ') {
        Some((id, name)) => names.entry(id).insert_entry(name).get(),
        None => names.get(text).copied().unwrap_or(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = "\
events: Ir

fl=(1) a.rs
fn=(1) call
+3 100
cfn=(2) malloc
calls=3 0
* 40
cfi=(2) b.rs
cfn=(3) other
calls=9 0
-1 9
fn=(3)
* 9

fn=(2)
0 40
cfn=(4) _int_malloc
calls=1 0
* 0

fn=(5) again
cfn=(2)
calls=2 0
* 0

totals: 149
";

    #[test]
    fn calls_of_allocators_are_counted_by_name_and_by_number() {
        let counts = counts(PROFILE).unwrap();
        assert_eq!((counts.instructions, counts.allocations), (149.0, 5.0));
    }

    #[test]
    fn a_run_that_collected_nothing_is_no_profile() {
        assert!(counts("events: Ir\ntotals: 0\n").is_none());
        assert!(counts("").is_none());
    }

    #[test]
    fn instructions_of_a_function_are_its_own() {
        let own = own_instructions(PROFILE);
        assert_eq!(own, [("call".to_owned(), 100.0), ("malloc".to_owned(), 40.0), ("other".to_owned(), 9.0)]);
    }
}
