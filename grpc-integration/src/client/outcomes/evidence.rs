//! Whether one instance does worse than the others, or all fail alike.

use super::counts::Counts;

/// How improbable it must be that chance alone makes an instance fail as much as it does: once in a million.
const CHANCE: f64 = 1e-6;

/// Returns whether an instance fails so much more than the others that chance does not explain it.
///
/// If its calls failed with the probability `q` of the others' calls, then of `n` of them a share of `p > q` or more would
/// fail with a probability of `exp(-n * KL(p, q))` at most (Chernoff's bound, where KL is the divergence
/// `p ln(p/q) + (1-p) ln((1-p)/(1-q))`). For a run of failures that is `q^n`. `q` is estimated by Jeffreys' rule, so that few
/// calls of the others prove little.
pub(crate) fn is_clearly_worse(own: Counts, others: Counts) -> bool {
    // Without them there is no telling whether it is the instance or the call.
    if others.succeeded == 0 || own.failed == 0 {
        return false;
    }
    let p = own.failed as f64 / own.total() as f64;
    let q = (others.failed as f64 + 0.5) / (others.total() as f64 + 1.0);
    if p <= q {
        return false;
    }
    let succeeded = if own.succeeded == 0 { 0.0 } else { (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln() };
    let divergence = p * (p / q).ln() + succeeded;
    own.total() as f64 * divergence >= -CHANCE.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(succeeded: u64, failed: u64) -> Counts {
        Counts { succeeded, failed }
    }

    /// How many failures in a row it takes, while the others have these counts.
    fn run(others: Counts) -> Option<u64> {
        (1..1000).find(|failed| is_clearly_worse(of(0, *failed), others))
    }

    #[test]
    fn the_more_the_others_fail_the_longer_a_run_of_failures_has_to_be() {
        let shares = [(1000, 0), (990, 10), (900, 100), (800, 200), (500, 500), (100, 900), (0, 1000)];
        let runs = shares.map(|(succeeded, failed)| run(of(succeeded, failed)));
        // ln(10^-6) / ln(q), rounded up.
        assert_eq!(runs, [Some(2), Some(4), Some(7), Some(9), Some(20), Some(131), None]);
    }

    #[test]
    fn few_calls_of_the_others_prove_little() {
        assert_eq!(
            [0, 1, 5, 8, 10, 100].map(|calls| run(of(calls, 0))),
            [None, Some(10), Some(6), Some(5), Some(5), Some(3)]
        );
    }

    #[test]
    fn one_that_fails_less_is_not_worse() {
        assert!(!is_clearly_worse(of(990, 10), of(500, 500)));
        assert!(!is_clearly_worse(of(500, 500), of(10, 990)));
    }

    #[test]
    fn a_small_difference_needs_many_calls() {
        // One in a hundred, where the others have one in a thousand.
        let of_hundred = |calls: u64| of(calls - calls / 100, calls / 100);
        assert!(!is_clearly_worse(of_hundred(500), of(999_000, 1000)));
        assert!(is_clearly_worse(of_hundred(2000), of(999_000, 1000)));
        // Half as much again is noise.
        assert!(!is_clearly_worse(of(985, 15), of(9900, 100)));
        assert!(!is_clearly_worse(of(990, 10), of(9900, 100)));
    }

    /// The bound, against the distribution: instances that are all alike.
    #[test]
    fn equals_are_not_told_apart() {
        let mut random = fastrand::Rng::with_seed(1);
        for share in [1, 10, 50, 90] {
            for _ in 0..20_000 {
                let mut draw = |calls: u64| {
                    let failed = (0..calls).filter(|_| random.u32(0..100) < share).count() as u64;
                    of(calls - failed, failed)
                };
                let (own, others) = (draw(40), draw(200));
                assert!(!is_clearly_worse(own, others), "{share} %: {own:?} of {others:?}");
            }
        }
    }
}
