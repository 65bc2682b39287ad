//! hither's channel, and what it can have beside its defaults.

use std::net::SocketAddr;

use clap::ValueEnum;
use hither_core::{Discovery, Instance, StaticRegistry};
use hither_tonic::{
    ChannelBuilder, ClientTls, DiscoveryChannel, HedgingPolicy, MethodConfig, OutlierDetection, PeakEwma,
    RetryPolicy, RoundRobin, Sticky,
};

use super::Setup;
use crate::{Result, tls};

/// A policy, or something that a channel does for each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Feature {
    /// The policy `RoundRobin` in place of `LeastRequest`.
    RoundRobin,
    /// The policy `Sticky`.
    Sticky,
    /// The policy `PeakEwma`.
    PeakEwma,
    /// Instances of different weights.
    Weights,
    /// Outlier detection.
    Outliers,
    /// Retries of calls that have failed, of which there are none.
    Retries,
    /// Hedging of the slowest calls.
    Hedging,
}

/// Connects, and returns when calls can be made.
pub(super) async fn connect(setup: &Setup<'_>, features: &[Feature]) -> Result<DiscoveryChannel> {
    let instances = setup.servers.iter().enumerate().map(|(at, server)| instance(at, server, features));
    let discovery = Discovery::new(StaticRegistry::new(instances.collect::<Result<Vec<_>>>()?));
    let mut builder = DiscoveryChannel::builder(&discovery, "bench");
    if let Some(tls) = setup.tls {
        builder = builder.tls(ClientTls::from_file(tls.certificate()).with_server_name(tls::NAME));
    }
    let builder = features.iter().fold(builder, |builder, feature| feature.add_to(builder));
    Ok(builder.connect().await?)
}

fn instance(at: usize, server: &SocketAddr, features: &[Feature]) -> Result<Instance> {
    let instance = Instance::new(server.to_string().parse()?);
    if features.contains(&Feature::Weights) {
        return Ok(instance.with_weight(1 + u32::try_from(at % 3)?));
    }
    Ok(instance)
}

impl Feature {
    fn add_to(self, builder: ChannelBuilder) -> ChannelBuilder {
        match self {
            Self::RoundRobin => builder.policy(RoundRobin::default()),
            Self::Sticky => builder.policy(Sticky::default()),
            Self::PeakEwma => builder.policy(PeakEwma::default()),
            // Of the instances.
            Self::Weights => builder,
            Self::Outliers => builder.outlier_detection(OutlierDetection::default()),
            Self::Retries => builder.method("", MethodConfig::default().with_retry(RetryPolicy::default())),
            Self::Hedging => {
                let hedging = HedgingPolicy::after_percentile(0.99);
                builder.method("", MethodConfig::default().with_hedging(hedging))
            }
        }
    }
}
