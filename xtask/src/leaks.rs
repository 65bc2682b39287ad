//! What channels leave behind, at full size.

use std::path::Path;

use crate::command::Step;
use crate::error::Error;

/// Runs a release build of the tests, which makes 10,000 channels and has 100,000 instances come and go, and prints what there
/// is before and after.
pub(crate) fn run(root: &Path) -> Result<(), Error> {
    let test =
        ["test", "--release", "-p", "hither-tonic", "--all-features", "--test", "leaks", "--", "--nocapture"];
    Step::cargo(root).args(test).run()
}
