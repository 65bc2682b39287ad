//! Settings of the instances, and of the connections to them.

use std::sync::Arc;
use std::time::Duration;

use hither_core::Backoff;

use super::ChannelBuilder;
use crate::client::balance::{LoadBalancingPolicy, Policy, SlowStart};
use crate::client::connector::Connector;
use crate::client::outliers::OutlierDetection;
use crate::client::selection::Selection;

impl ChannelBuilder {
    /// Sets the load balancing policy, which picks the instance for each call. Default
    /// [`LeastRequest`](crate::LeastRequest).
    pub fn policy(mut self, policy: impl LoadBalancingPolicy) -> Self {
        self.policy = Policy::new(policy);
        self
    }

    /// Sets which of the registered instances are connected to, and which of those take calls. Default: all. It can be
    /// [changed](crate::DiscoveryChannel::set_selection) later.
    pub fn selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// Sets how byte streams are opened: for proxies and tunnels, for tests. Default
    /// [`TcpConnector`](crate::TcpConnector). The TLS of
    /// `ChannelBuilder::tls` goes over it.
    pub fn connector(mut self, connector: impl Connector) -> Self {
        self.connector = Arc::new(connector);
        self
    }

    /// Calls instances over TLS, on top of what the [`connector`](Self::connector) opens. Feature `tls`.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: crate::client::tls::ClientTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets how long connecting to one address may take, until the peer's HTTP/2 SETTINGS have arrived, and how long
    /// resolving one host name may take. Not zero; default 10 s.
    ///
    /// The addresses of an instance, and those that its host names resolve to, are tried in turn, IPv6 and IPv4
    /// alternately, each 250 ms after the one before or as soon as that has failed (Happy Eyeballs, RFC 8305). The
    /// first that answers is used.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long [`connect`](Self::connect) waits for the first ready instance. Not zero; default
    /// 20 s.
    pub fn ready_timeout(mut self, timeout: Duration) -> Self {
        self.ready_timeout = timeout;
        self
    }

    /// Sets the maximum number of connections to one instance. A further one is only made while those that are open take no
    /// more streams (MAX_CONCURRENT_STREAMS, [`stream_window`](Self::stream_window)); when all are full, calls wait. Not 0;
    /// default 10.
    pub fn max_connections(mut self, most: usize) -> Self {
        self.max_connections = most;
        self
    }

    /// Leaves out instances that fail more than the others, for a while (gRFC A50). Default: none is left out. See
    /// [`OutlierDetection`] for when, for how long, and how many.
    pub fn outlier_detection(mut self, detection: OutlierDetection) -> Self {
        self.outlier_detection = Some(detection);
        self
    }

    /// Sets that an instance which has become ready comes to its share of the calls gradually. Default: at once.
    pub fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.slow_start = Some(slow_start);
        self
    }

    /// Watches the health of each instance (`grpc.health.v1.Health/Watch`, gRFC A17): it is called only while it reports
    /// SERVING for `service`, a name such as `helloworld.Greeter`, or `""` for the server as a whole. Default: health is not
    /// checked. (In gRPC's service config this is `healthCheckConfig.serviceName`.)
    ///
    /// On a new connection a stream is opened, and the instance counts as connecting until the first report, which takes one
    /// more round trip. When it reports NOT_SERVING, or SERVICE_UNKNOWN, it counts as failing (TRANSIENT_FAILURE): calls in
    /// flight go on, new ones go elsewhere, and its connections stay. So it is back with its next report.
    ///
    /// - A server without the health service (UNIMPLEMENTED) counts as healthy, which is logged once for a channel. So does
    ///   one that allows one stream at a time (MAX_CONCURRENT_STREAMS), because the calls need it; in grpc-go they would wait
    ///   for ever. Where it allows more, the watch takes one of them.
    /// - If there is no report within the [`connect_timeout`](Self::connect_timeout), if the stream fails before, or if it
    ///   brings something else than reports or more than 100 and then 10 a second, the instance counts as failing, and the
    ///   stream is opened again after the [`backoff`](Self::backoff).
    /// - If the stream ends after a report, as proxies end streams that are silent, the report counts until the next stream has
    ///   one; that is opened at once, before the calls that wait for a stream, or with backoff where streams end within a second.
    ///   While calls have all streams of the server, the last report counts, and the watch is tried again with that backoff.
    ///
    /// The stream is a call for keep-alive: a server that is silent otherwise is pinged, and so found if it freezes, once in five
    /// minutes. It is none for load balancing, and does not show that a server answers calls. Of several connections to one
    /// instance the oldest is watched.
    ///
    /// ```
    /// use hither_core::{Discovery, StaticRegistry};
    /// use hither_tonic::DiscoveryChannel;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> hither_tonic::Result<()> {
    /// # let discovery = Discovery::new(StaticRegistry::new([]));
    /// let channel =
    ///     DiscoveryChannel::builder(&discovery, "greeter").health_check("helloworld.Greeter").connect_lazy()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn health_check(mut self, service: impl Into<String>) -> Self {
        self.health_check = Some(service.into());
        self
    }

    /// Sets the exponential backoff between failed attempts to connect to one instance. Default: gRPC's, 1 s × 1.6 up
    /// to 120 s, with a jitter of ± 20 %.
    ///
    /// HTTP/2 SETTINGS end it. A connection that was lost is made again at once, while calls wait; but after several in
    /// a row that answered no call, the instance counts as unreachable and this backoff applies, unless callers have given
    /// up calls on them. New certificates of `ClientTls` end it too.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }
}
