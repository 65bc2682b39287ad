//! What takes too long for every change.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::tiers::ci;
use crate::{bench, faults, instructions, leaks};

/// `ci`, then the faults three times more, the leak tests at full size, and the benchmarks.
pub(crate) fn run(root: &Path) -> Result<(), Error> {
    ci::run(root)?;
    faults::run(root, &[], 3)?;
    leaks::run(root)?;
    Step::cargo(root).args(["bench", "-p", "hither-etcd"]).run()?;
    instructions::run(root, &[])?;
    bench::run(root, &[])
}
