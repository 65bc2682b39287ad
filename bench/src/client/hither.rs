//! hither's channel, and what it can have beside its defaults.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use clap::ValueEnum;
use hither_core::{Discovery, Instance, StaticRegistry};
use hither_tonic::{
    ChannelBuilder, ClientTls, DiscoveryChannel, HedgingPolicy, Lanes, LeastRequest, MethodConfig,
    OutlierDetection, PeakEwma, RetryPolicy, RingHash, RoundRobin, Selection, Sticky,
};
use http::HeaderValue;

#[cfg(feature = "metrics")]
use hither_tonic::metrics::LATENCY_BUCKETS;
#[cfg(feature = "metrics")]
use metrics_exporter_prometheus::PrometheusBuilder;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::Setup;
use crate::{Result, tls};

/// The context of a trace, as W3C's recommendation writes it.
const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A policy, or something that a channel does for each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Feature {
    /// The policy `RoundRobin` in place of `LeastRequest`.
    RoundRobin,
    /// The policy `Sticky`.
    Sticky,
    /// The policy `PeakEwma`.
    PeakEwma,
    /// The policy `RingHash`, for calls without a key.
    RingHash,
    /// The policy `RingHash` with bounded loads, for calls without a key.
    BoundedRingHash,
    /// The policy `Lanes`, of which there is one.
    Lanes,
    /// Tiers, of which the first is ready.
    Tiers,
    /// Deadlines of the calls that are served, of which there are none.
    InheritDeadline,
    /// A function that adds a header to each attempt.
    Propagate,
    /// Instances of different weights.
    Weights,
    /// Outlier detection.
    Outliers,
    /// Retries of calls that have failed, of which there are none.
    Retries,
    /// Hedging of the slowest calls.
    Hedging,
    /// The name of its method for each call, as generated code gives it.
    Named,
    /// A recorder that Prometheus reads, for a build with feature `metrics`.
    #[cfg(feature = "metrics")]
    Prometheus,
    /// A subscriber of tracing's for all that is INFO.
    Logs,
    /// A subscriber of tracing's for the spans of calls.
    Spans,
}

/// Connects, and returns when calls can be made.
pub(super) async fn connect(setup: &Setup<'_>, features: &[Feature]) -> Result<DiscoveryChannel> {
    for feature in features {
        feature.install()?;
    }
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
    /// Installs what the process has one of.
    fn install(self) -> Result<()> {
        match self {
            #[cfg(feature = "metrics")]
            Self::Prometheus => {
                let builder = PrometheusBuilder::new().set_buckets(&LATENCY_BUCKETS)?;
                builder.install_recorder()?;
            }
            Self::Logs => subscribe(Targets::new().with_default(Level::INFO))?,
            Self::Spans => subscribe(Targets::new().with_target("hither_tonic::call", Level::DEBUG))?,
            _ => {}
        }
        Ok(())
    }

    fn add_to(self, builder: ChannelBuilder) -> ChannelBuilder {
        match self {
            Self::RoundRobin => builder.policy(RoundRobin::default()),
            Self::Sticky => builder.policy(Sticky::default()),
            Self::PeakEwma => builder.policy(PeakEwma::default()),
            Self::RingHash => builder.policy(RingHash::default()),
            Self::BoundedRingHash => builder.policy(RingHash::default().with_balance_factor(150)),
            Self::Lanes => builder.policy(Lanes::by_metadata("lane", LeastRequest::default)),
            Self::Tiers => builder.selection(Selection::default().tiers(|_| 0)),
            Self::InheritDeadline => builder.inherit_deadline(Duration::from_millis(50)),
            Self::Propagate => builder.propagate(|headers| {
                headers.insert("traceparent", HeaderValue::from_static(TRACE));
            }),
            Self::Weights | Self::Named | Self::Logs | Self::Spans => builder,
            #[cfg(feature = "metrics")]
            Self::Prometheus => builder,
            Self::Outliers => builder.outlier_detection(OutlierDetection::default()),
            Self::Retries => builder.method("", MethodConfig::default().with_retry(RetryPolicy::default())),
            Self::Hedging => {
                let hedging = HedgingPolicy::after_percentile(0.99);
                builder.method("", MethodConfig::default().with_hedging(hedging))
            }
        }
    }
}

/// Formats what passes the filter, and writes it nowhere.
fn subscribe(filter: Targets) -> Result<()> {
    let layer = fmt::layer().with_writer(io::sink).with_filter(filter);
    Ok(tracing_subscriber::registry().with(layer).try_init()?)
}
