//! The channels that are compared.

use hither_tonic::{ChannelBuilder, LeastRequest, RoundRobin};

/// What is special about the channels of a row. Their policies need no seed: see `run`.
pub(super) type Configure = fn(ChannelBuilder) -> ChannelBuilder;

pub(crate) static CHANNELS: &[(&str, Configure)] = &[
    ("`RoundRobin`", |channel| channel.policy(RoundRobin::default())),
    ("`LeastRequest` (default)", |channel| channel.policy(LeastRequest::default())),
];
