//! What a change of a service costs, as the service grows.

use std::path::Path;

use super::callgrind;
use crate::error::Error;

/// The instances of the services that are compared.
const SIZES: [u32; 2] = [1000, 10_000];

/// How much more a change may cost in the larger service. What does not depend on the size is 1, what grows with it is 10;
/// a change copies parts of lists whose length grows with the square root.
const MOST: f64 = 3.0;

/// Prints the instructions of a change, and checks how they grow.
pub(super) fn check(root: &Path, valgrind: &Path) -> Result<(), Error> {
    println!("\nInstructions per change of a service:\n");
    println!("| instances | instructions |");
    println!("|---:|---:|");
    let mut counts = [0.0; 2];
    for (size, count) in SIZES.iter().zip(&mut counts) {
        *count = callgrind::count_change(root, valgrind, *size)?;
        println!("| {size} | {count:.0} |");
    }
    exceeded(counts[0], counts[1]).map_or(Ok(()), |why| Err(Error::new(why)))
}

fn exceeded(small: f64, large: f64) -> Option<String> {
    let growth = large / small;
    (growth > MOST).then(|| {
        format!(
            "a change of a service costs {growth:.1} times more with {} instances than with {}, and at most {MOST}",
            SIZES[1], SIZES[0]
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_that_grows_with_the_service_is_over_the_bound() {
        assert_eq!(exceeded(100.0, 300.0), None);
        assert_eq!(
            exceeded(100.0, 1000.0).unwrap(),
            "a change of a service costs 10.0 times more with 10000 instances than with 1000, and at most 3"
        );
    }
}
