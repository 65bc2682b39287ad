//! What a call costs, in what noise cannot touch: instructions and allocations, counted by callgrind, of tonic's own
//! channel and of hither's; and what a change of a service costs.

mod callgrind;
mod change;
mod features;
mod strace;

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::tools;
use callgrind::Counts;

/// What is measured, and how much hither's channel may cost there.
#[derive(Debug)]
struct Case {
    servers: &'static str,
    callers: &'static str,
    deadline: bool,
    /// The most instructions, as a multiple of those of tonic's channel.
    ratio: f64,
    /// The most allocations.
    allocations: f64,
}

/// All bounds are here. The packages that are measured are one codegen unit each, so that a count changes by what is changed and
/// not by how functions happen to be inlined. What is left is tonic's own: how often it looks at a socket depends on how fast
/// the server is, which has moved a ratio by half a per cent from build to build and from machine to machine. Each bound is about
/// 1 % above what is reached, and what exceeds it is measured once more: it is over its bound if it is both times. Some of a
/// hundred connections make their buffers larger while the calls are counted.
static CASES: [Case; 6] = [
    Case::new("3", "1", 0.706, 22.1),
    Case::new("3", "16", 0.727, 22.1),
    Case::new("3", "16", 0.746, 26.1).with_deadline(),
    Case::new("100", "1", 0.709, 22.5),
    Case::new("100", "16", 0.782, 22.5),
    Case::new("100", "16", 0.802, 26.5).with_deadline(),
];

/// Prints a table of all cases, and checks their bounds; then what each feature costs. With arguments it prints the
/// latter alone, or a profile.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<(), Error> {
    match arguments {
        [only] if only == "features" => features::table(root, &tools::valgrind(root)?),
        [] => {
            table(root)?;
            features::table(root, &tools::valgrind(root)?)?;
            system_calls(root)
        }
        [channel, flags @ ..] => callgrind::profile(root, channel, flags),
    }
}

/// Checks the bounds, on a system that has valgrind.
pub(crate) fn check(root: &Path) -> Result<(), Error> {
    if cfg!(target_os = "linux") { table(root) } else { Ok(()) }
}

fn table(root: &Path) -> Result<(), Error> {
    let valgrind = tools::valgrind(root)?;
    build(root, &[])?;
    println!("Instructions and allocations per call:\n");
    println!("| servers | callers | deadline | tonic | hither | ratio | allocations, tonic | hither |");
    println!("|---:|---:|---|---:|---:|---:|---:|---:|");
    let mut exceeded = Vec::new();
    for case in &CASES {
        let measure = || -> Result<Vec<String>, Error> {
            let direct = callgrind::count(root, &valgrind, "direct", &case.flags())?;
            let hither = callgrind::count(root, &valgrind, "hither", &case.flags())?;
            println!("{}", case.row(&direct, &hither));
            Ok(case.exceeded(&direct, &hither))
        };
        exceeded.extend(over_twice(measure)?);
    }
    exceeded.extend(change::check(root, &valgrind).err().map(|error| error.to_string()));
    if exceeded.is_empty() { Ok(()) } else { Err(Error::new(exceeded.join("\n"))) }
}

/// Returns what is over its bound, in words: what was so by the first measurement is measured again.
fn over_twice(mut measure: impl FnMut() -> Result<Vec<String>, Error>) -> Result<Vec<String>, Error> {
    if measure()?.is_empty() { Ok(Vec::new()) } else { measure() }
}

/// Prints how often a call enters the kernel. Nothing is bounded here: the figures depend on how fast the server is.
fn system_calls(root: &Path) -> Result<(), Error> {
    let strace = tools::strace(root)?;
    println!("\nSystem calls per call:\n\n| servers | callers | deadline | tonic | hither |");
    println!("|---:|---:|---|---:|---:|");
    for case in &CASES {
        let direct = strace::count(root, &strace, "direct", &case.flags())?;
        let hither = strace::count(root, &strace, "hither", &case.flags())?;
        println!("| {} | {direct:.2} | {hither:.2} |", case.place());
    }
    Ok(())
}

/// Builds the program that makes the calls.
fn build(root: &Path, features: &[&str]) -> Result<(), Error> {
    Step::cargo(root).args(["build", "--quiet", "--release", "-p", "hither-bench"]).args(features).run()
}

impl Case {
    const fn new(servers: &'static str, callers: &'static str, ratio: f64, allocations: f64) -> Self {
        Self { servers, callers, deadline: false, ratio, allocations }
    }

    const fn with_deadline(self) -> Self {
        Self { deadline: true, ..self }
    }

    /// Returns the flags of `hither-bench count`.
    fn flags(&self) -> Vec<String> {
        let flags = ["--servers", self.servers, "--callers", self.callers];
        flags.into_iter().chain(self.deadline.then_some("--deadline")).map(str::to_owned).collect()
    }

    /// Returns the first columns of a row.
    fn place(&self) -> String {
        format!("{} | {} | {}", self.servers, self.callers, if self.deadline { "yes" } else { "no" })
    }

    fn row(&self, direct: &Counts, hither: &Counts) -> String {
        format!(
            "| {} | {:.0} | {:.0} | {:.3} | {:.1} | {:.1} |",
            self.place(),
            direct.instructions,
            hither.instructions,
            hither.instructions / direct.instructions,
            direct.allocations,
            hither.allocations,
        )
    }

    /// Returns what is over its bound, in words.
    fn exceeded(&self, direct: &Counts, hither: &Counts) -> Vec<String> {
        let ratio = hither.instructions / direct.instructions;
        let measured = [
            ("the instructions", ratio, self.ratio),
            ("the allocations", hither.allocations, self.allocations),
        ];
        let over = measured.into_iter().filter(|(_, value, most)| value > most);
        let deadline = if self.deadline { " and a deadline" } else { "" };
        let place = format!("{} servers, {} callers{deadline}", self.servers, self.callers);
        over.map(|(what, value, most)| {
            format!("{what} of a call are {value:.3} with {place}, and at most {most}")
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_its_bound_once_and_not_again_is_not_over_it() {
        let of = |over: &[usize]| {
            let mut runs = 0;
            let outcome = over_twice(|| {
                runs += 1;
                Ok(if over.contains(&runs) { vec![format!("over in run {runs}")] } else { Vec::new() })
            });
            (outcome.unwrap(), runs)
        };
        assert_eq!(of(&[]), (vec![], 1));
        assert_eq!(of(&[1]), (vec![], 2));
        assert_eq!(of(&[1, 2]), (vec!["over in run 2".to_owned()], 2));
    }

    #[test]
    fn what_is_over_its_bound_is_named() {
        let case = Case::new("3", "16", 0.72, 24.0).with_deadline();
        let direct = Counts { instructions: 1000.0, allocations: 34.0 };
        let within = Counts { instructions: 720.0, allocations: 24.0 };
        assert_eq!(case.exceeded(&direct, &within), [""; 0]);
        let over = Counts { instructions: 721.0, allocations: 24.5 };
        assert_eq!(
            case.exceeded(&direct, &over),
            [
                "the instructions of a call are 0.721 with 3 servers, 16 callers and a deadline, and at most 0.72",
                "the allocations of a call are 24.500 with 3 servers, 16 callers and a deadline, and at most 24",
            ]
        );
    }
}
