//! The channels that are compared.

use hither_tonic::{
    ChannelBuilder, HedgingPolicy, LeastRequest, MethodConfig, OutlierDetection, PeakEwma, RetryPolicy,
    RingHash, RoundRobin, Selection,
};

use super::experiment::zone;

/// Makes the channels of a row what they are. The number is a channel's own, for seeds: so that a row follows from nothing but
/// its policy, and not from how many random numbers others have drawn.
pub(super) type Configure = fn(ChannelBuilder, u64) -> ChannelBuilder;

pub(crate) const ROUND_ROBIN: Configure =
    |channel, seed| channel.policy(RoundRobin::default().with_seed(seed));
pub(crate) const LEAST_REQUEST: Configure =
    |channel, seed| channel.policy(LeastRequest::default().with_seed(seed));
pub(crate) const PEAK_EWMA: Configure = |channel, seed| channel.policy(PeakEwma::default().with_seed(seed));
pub(crate) const ROUND_ROBIN_OUTLIERS: Configure =
    |channel, seed| ROUND_ROBIN(channel, seed).outlier_detection(outliers(seed));
pub(crate) const LEAST_REQUEST_OUTLIERS: Configure =
    |channel, seed| LEAST_REQUEST(channel, seed).outlier_detection(outliers(seed));
pub(crate) const PEAK_EWMA_OUTLIERS: Configure =
    |channel, seed| PEAK_EWMA(channel, seed).outlier_detection(outliers(seed));
pub(crate) const RETRIES: Configure = |channel, seed| {
    let retrying = MethodConfig::default().with_retry(RetryPolicy::default());
    LEAST_REQUEST(channel, seed).method("", retrying)
};
pub(crate) const HEDGING: Configure = |channel, seed| {
    let hedging = MethodConfig::default().with_hedging(HedgingPolicy::after_percentile(0.95));
    LEAST_REQUEST(channel, seed).method("", hedging)
};
pub(crate) const ALL: Configure = |channel, seed| {
    let hedging = MethodConfig::default().with_hedging(HedgingPolicy::after_percentile(0.95));
    PEAK_EWMA_OUTLIERS(channel, seed).method("", hedging)
};

pub(crate) const RING_HASH: Configure = |channel, seed| channel.policy(RingHash::default().with_seed(seed));
pub(crate) const BOUNDED_RING_HASH: Configure =
    |channel, seed| channel.policy(RingHash::default().with_seed(seed).with_balance_factor(125));
/// The channels are numbered as their zones.
pub(crate) const LEAST_REQUEST_ZONE: Configure = |channel, seed| in_zone(LEAST_REQUEST(channel, seed), seed);
const LEAST_REQUEST_OUTLIERS_ZONE: Configure =
    |channel, seed| in_zone(LEAST_REQUEST_OUTLIERS(channel, seed), seed);
const PEAK_EWMA_OUTLIERS_ZONE: Configure = |channel, seed| in_zone(PEAK_EWMA_OUTLIERS(channel, seed), seed);

fn in_zone(channel: ChannelBuilder, seed: u64) -> ChannelBuilder {
    channel.selection(Selection::default().prefer_zone(zone(seed as usize)))
}

/// The rows of the table of two speeds.
pub(crate) static POLICIES: &[(&str, Configure)] = &[
    ("`RoundRobin`", ROUND_ROBIN),
    ("`LeastRequest`, the default", LEAST_REQUEST),
    ("`PeakEwma`", PEAK_EWMA),
    ("`RingHash`, a key per call", RING_HASH),
    ("`RingHash`, a key per call, balance factor 125 %", BOUNDED_RING_HASH),
];

/// The rows of the table of zones.
pub(crate) static IN_ZONES: &[(&str, Configure)] = &[
    ("`LeastRequest`", LEAST_REQUEST),
    ("`LeastRequest`, outlier detection", LEAST_REQUEST_OUTLIERS),
    ("`LeastRequest`, own zone", LEAST_REQUEST_ZONE),
    ("`LeastRequest`, own zone, outlier detection", LEAST_REQUEST_OUTLIERS_ZONE),
    ("`PeakEwma`, own zone, outlier detection", PEAK_EWMA_OUTLIERS_ZONE),
];

/// The rows of the tables of bad servers.
pub(crate) static CHANNELS: &[(&str, Configure)] = &[
    ("`RoundRobin`", ROUND_ROBIN),
    ("`LeastRequest`, the default", LEAST_REQUEST),
    ("`PeakEwma`", PEAK_EWMA),
    ("`RingHash`, a key per call", RING_HASH),
    ("`RingHash`, a key per call, balance factor 125 %", BOUNDED_RING_HASH),
    ("`RoundRobin`, outlier detection", ROUND_ROBIN_OUTLIERS),
    ("`LeastRequest`, outlier detection", LEAST_REQUEST_OUTLIERS),
    ("`PeakEwma`, outlier detection", PEAK_EWMA_OUTLIERS),
    ("`LeastRequest`, retries", RETRIES),
    ("`LeastRequest`, hedging", HEDGING),
    ("`PeakEwma`, outlier detection, hedging", ALL),
];

fn outliers(seed: u64) -> OutlierDetection {
    OutlierDetection::default().with_seed(seed)
}
