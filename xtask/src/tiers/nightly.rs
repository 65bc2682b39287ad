//! What takes too long for every change.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;
use crate::faults;
use crate::tiers::ci;

/// `ci`, then the faults three times more, and the benchmarks.
pub(crate) fn run(root: &Path) -> Result<(), Error> {
    ci::run(root)?;
    faults::run(root, &[], 3)?;
    Step::cargo(root).args(["bench", "-p", "hither-etcd"]).run()
}
