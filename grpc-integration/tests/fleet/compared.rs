//! The channels that are compared.

use hither_tonic::{ChannelBuilder, LeastRequest, OutlierDetection, RoundRobin};

/// What is special about the channels of a row. Their policies need no seed: see `run`.
pub(super) type Configure = fn(ChannelBuilder) -> ChannelBuilder;

pub(crate) static CHANNELS: &[(&str, Configure)] = &[
    ("`RoundRobin`", |channel| channel.policy(RoundRobin::default())),
    ("`LeastRequest` (default)", |channel| channel.policy(LeastRequest::default())),
    ("`RoundRobin`, outlier detection", |channel| {
        channel.policy(RoundRobin::default()).outlier_detection(OutlierDetection::default())
    }),
    ("`LeastRequest`, outlier detection", |channel| channel.outlier_detection(OutlierDetection::default())),
];
