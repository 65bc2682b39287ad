//! The two algorithms of gRFC A50, over what an interval has counted for each instance.

use super::config::{FailurePercentage, SuccessRate};
use crate::client::outcomes::Counts;

/// The outliers among instances, by their index, and the share of their calls that has succeeded. The worst comes first, for
/// only some may be ejected.
pub(super) type Outliers = Vec<(usize, f64)>;

/// Returns those whose success rate is below `mean - stdev * factor` of all that have enough calls.
pub(super) fn by_success_rate(config: &SuccessRate, counts: &[Counts]) -> Outliers {
    let Some(rates) = rates(counts, config.request_volume, config.minimum_hosts) else {
        return Outliers::new();
    };
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    let required = mean - variance.sqrt() * config.stdev_factor;
    worst_first(rates, |rate| rate < required)
}

/// Returns those of which a larger share of calls has failed than the threshold.
pub(super) fn by_failure_percentage(config: &FailurePercentage, counts: &[Counts]) -> Outliers {
    let Some(rates) = rates(counts, config.request_volume, config.minimum_hosts) else {
        return Outliers::new();
    };
    worst_first(rates, |rate| (1.0 - rate) * 100.0 > f64::from(config.threshold))
}

/// The success rates of those that have enough calls, if they are enough.
fn rates(counts: &[Counts], request_volume: u32, minimum_hosts: u32) -> Option<Outliers> {
    let enough = |counts: &Counts| counts.total() > 0 && counts.total() >= u64::from(request_volume);
    let rates: Outliers = counts
        .iter()
        .enumerate()
        .filter(|(_, counts)| enough(counts))
        .map(|(index, counts)| (index, counts.success_rate()))
        .collect();
    (!rates.is_empty() && rates.len() >= minimum_hosts as usize).then_some(rates)
}

fn worst_first(mut rates: Outliers, is_outlier: impl Fn(f64) -> bool) -> Outliers {
    rates.retain(|(_, rate)| is_outlier(*rate));
    rates.sort_by(|(_, a), (_, b)| a.total_cmp(b));
    rates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(succeeded: u64, failed: u64) -> Counts {
        Counts { succeeded, failed }
    }

    fn indexes(outliers: &[(usize, f64)]) -> Vec<usize> {
        outliers.iter().map(|(index, _)| *index).collect()
    }

    /// The settings of grpc-go's tests of this algorithm.
    fn small() -> SuccessRate {
        SuccessRate::default().with_minimum_hosts(3).with_request_volume(3).with_stdev_factor(0.5)
    }

    #[test]
    fn instances_without_a_failure_are_no_outliers() {
        let counts = [of(5, 0); 3];
        assert_eq!(by_success_rate(&small(), &counts), []);
        let config = FailurePercentage::default().with_minimum_hosts(3).with_request_volume(3);
        assert_eq!(by_failure_percentage(&config, &counts), []);
    }

    #[test]
    fn the_one_that_fails_is_an_outlier() {
        let counts = [of(5, 0), of(5, 0), of(0, 5)];
        assert_eq!(by_success_rate(&small(), &counts), [(2, 0.0)]);
        let config =
            FailurePercentage::default().with_minimum_hosts(3).with_request_volume(3).with_threshold(50);
        assert_eq!(by_failure_percentage(&config, &counts), [(2, 0.0)]);
    }

    /// A50's defaults: with rates of 1, 1, 1, 1 and r the mean is (4 + r) / 5 and the deviation 2 (1 - r) / 5, so r is below
    /// mean - 1.9 stdev = (4 + r) / 5 - 0.76 (1 - r) for every r < 1; with 2.0 it is equal, and no outlier.
    #[test]
    fn the_threshold_is_the_mean_less_the_standard_deviation_times_the_factor() {
        let counts = [of(100, 0), of(100, 0), of(100, 0), of(100, 0), of(50, 50)];
        let config = SuccessRate::default();
        assert_eq!(by_success_rate(&config, &counts), [(4, 0.5)]);
        assert_eq!(by_success_rate(&config.with_stdev_factor(2.01), &counts), []);
        // Of ten alike ones only what is beyond the deviation: rates 0.91 to 1.00, mean 0.955, deviation 0.0287.
        let config = SuccessRate::default().with_stdev_factor(1.5);
        let counts: Vec<_> = (0..10).map(|failed| of(100 - failed, failed)).collect();
        assert_eq!(indexes(&by_success_rate(&config, &counts)), [9]);
    }

    #[test]
    fn what_has_too_few_calls_counts_for_nothing() {
        let config = SuccessRate::default();
        let mut counts = vec![of(100, 0), of(100, 0), of(100, 0), of(50, 50), of(99, 0)];
        assert_eq!(by_success_rate(&config, &counts), [], "four have enough calls");
        counts.push(of(100, 0));
        assert_eq!(by_success_rate(&config, &counts), [(3, 0.5)]);
        let config = FailurePercentage::default();
        let mut counts = vec![of(50, 0), of(50, 0), of(0, 50), of(49, 0), of(49, 0)];
        assert_eq!(by_failure_percentage(&config, &counts), []);
        counts.extend([of(50, 0), of(50, 0)]);
        assert_eq!(by_failure_percentage(&config, &counts), [(2, 0.0)]);
    }

    #[test]
    fn the_threshold_of_failures_has_to_be_exceeded_and_the_worst_comes_first() {
        let config = FailurePercentage::default();
        let counts = [of(15, 85), of(14, 86), of(0, 100), of(100, 0), of(100, 0)];
        assert_eq!(indexes(&by_failure_percentage(&config, &counts)), [2, 1]);
    }

    #[test]
    fn no_calls_at_all_are_no_outliers() {
        let config = SuccessRate::default().with_minimum_hosts(0).with_request_volume(0);
        assert_eq!(by_success_rate(&config, &[of(0, 0); 3]), []);
        assert_eq!(by_success_rate(&config, &[]), []);
        let config = config.with_minimum_hosts(3);
        let config = config.with_stdev_factor(0.5);
        assert_eq!(by_success_rate(&config, &[of(0, 0), of(0, 0), of(0, 5)]), [], "one has calls");
    }
}
