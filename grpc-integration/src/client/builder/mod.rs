//! The builder of a channel.

mod calls;
mod connect;
mod instances;
mod transport;
mod ways;

use std::sync::Arc;
use std::time::Duration;

use hither_core::{Address, Backoff, Discovery, ServiceName};
use http::uri::Authority;

use super::balance::{LeastRequest, Policy, SlowStart};
use super::connector::{Connector, TcpConnector};
use super::outliers::OutlierDetection;
use super::retry::MethodsConfig;
use super::selection::Selection;
use super::telemetry::Propagation;
use super::transport::TransportConfig;
use crate::error::Result;

/// Builds a [`DiscoveryChannel`](crate::DiscoveryChannel): made by its [`builder`](crate::DiscoveryChannel::builder) or
/// [`for_target`](crate::DiscoveryChannel::for_target), and finished by [`connect`](Self::connect) or
/// [`connect_lazy`](Self::connect_lazy), which return invalid settings as errors.
#[derive(Debug)]
#[must_use = "nothing happens until it is connected"]
pub struct ChannelBuilder {
    discovery: Discovery,
    service: Result<ServiceName>,
    policy: Policy,
    selection: Selection,
    connector: Arc<dyn Connector>,
    authority: Option<Result<Authority>>,
    #[cfg(feature = "tls")]
    tls: Option<crate::client::tls::ClientTls>,
    /// The addresses that the target lists. The authority of a call is then the one that it is sent to, unless one was
    /// set.
    listed: Option<Vec<Address>>,
    target: Option<String>,
    default_timeout: Option<Duration>,
    inherit_deadline: Option<Duration>,
    wait_for_ready: bool,
    propagation: Option<Propagation>,
    methods: MethodsConfig,
    connect_timeout: Duration,
    ready_timeout: Duration,
    max_connections: usize,
    outlier_detection: Option<OutlierDetection>,
    slow_start: Option<SlowStart>,
    health_check: Option<String>,
    backoff: Backoff,
    transport: TransportConfig,
}

impl ChannelBuilder {
    fn new(discovery: Discovery, service: Result<ServiceName>) -> Self {
        Self {
            discovery,
            service,
            policy: Policy::new(LeastRequest::default()),
            selection: Selection::default(),
            connector: Arc::new(TcpConnector::default()),
            authority: None,
            #[cfg(feature = "tls")]
            tls: None,
            listed: None,
            target: None,
            default_timeout: None,
            inherit_deadline: None,
            wait_for_ready: false,
            propagation: None,
            methods: MethodsConfig::default(),
            connect_timeout: Duration::from_secs(10),
            ready_timeout: Duration::from_secs(20),
            max_connections: 10,
            outlier_detection: None,
            slow_start: None,
            health_check: None,
            // gRPC's connection backoff.
            backoff: Backoff::proportional(Duration::from_secs(1), 1.6, Duration::from_secs(120), 0.2),
            transport: TransportConfig::default(),
        }
    }
}
