//! gRPC with service discovery, for [tonic]: a [`DiscoveryChannel`] calls a service by its name, and a
//! [`Lifecycle`] registers a server and shuts it down gracefully.
//!
//! ```text
//!        server                       registry                       client
//!  ───────────────────           ──────────────────          ───────────────────────
//!       Lifecycle                                               GreeterClient::new(
//!  bind, serve, register ─────► greeter/10.0.0.7:8001 ─────►      DiscoveryChannel)
//!  announce, deregister,        greeter/10.0.0.8:8001         picks one for each call
//!  drain, close                                                          │
//!           ▲                                                            │
//!           └──────────────────────── the calls ─────────────────────────┘
//! ```
//!
//! ```
//! use hither_core::Discovery;
//! use hither_memory::MemoryRegistry; // or hither_etcd::EtcdRegistry
//! use hither_tonic::{DiscoveryChannel, Lifecycle};
//! use tonic::transport::Server;
//! use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient}; // or your own generated client
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = MemoryRegistry::new();
//!
//! // The server: registered while it serves, and removed from the registry before it stops.
//! let (reporter, health) = tonic_health::server::health_reporter();
//! let server = Lifecycle::builder(registry.clone())
//!     .service("greeter")
//!     .health(reporter, ["helloworld.Greeter"]) // feature `health`
//!     .bind("127.0.0.1:0")
//!     .await?;
//! tokio::spawn(server.serve(|incoming, shutdown| {
//!     Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
//! }));
//!
//! // The client: one channel over all ready instances, as they join and leave. One Discovery serves all channels.
//! let discovery = Discovery::new(registry);
//! let channel = DiscoveryChannel::builder(&discovery, "greeter").connect().await?;
//! let mut client = HealthClient::new(channel);
//! let answer = client.check(HealthCheckRequest { service: "helloworld.Greeter".into() }).await?;
//! assert_eq!(answer.get_ref().status().as_str_name(), "SERVING");
//! # Ok(())
//! # }
//! ```
//!
//! The [`guide`] has a page for each capability, with what others call it.
//!
//! # Clients
//!
//! A [`DiscoveryChannel`] can be used wherever a `tonic::transport::Channel` can: in every generated client, with or
//! without interceptors.
//!
//! - Only instances that are connected, and have sent their HTTP/2 SETTINGS, are called; connecting happens in the
//!   background, over all addresses of an instance (Happy Eyeballs), with exponential backoff and jitter.
//! - A connection that a server or proxy ends is made again at once, while calls wait.
//! - Instances that join or shut down gracefully cost no call: a request that was not sent, or that the server refused
//!   before it was processed, is retried on another instance. One that may have been processed is retried only by policy.
//! - By method ([`ChannelBuilder::method`], [`MethodConfig`]), calls that have failed are sent again to another instance
//!   ([`RetryPolicy`]), or calls that are slow to a second one ([`HedgingPolicy`]), as in gRPC's service config. A
//!   [`RetryBudget`] keeps that from multiplying the load of a service that is failing.
//! - The deadline of a call covers everything, to the end of its response's body. When no instance is ready calls fail
//!   at once with the reason, or wait, as you choose ([`WaitForReady`]).
//! - Calls that a handler makes can inherit the deadline of the one that it serves, less a margin: a [`DeadlineLayer`] on
//!   the server, [`inherit_deadline`](ChannelBuilder::inherit_deadline) on the channel.
//! - While the registry cannot be reached, calls go on to the instances known last.
//! - Instances that report themselves unhealthy are not called, if you set a [`health_check`](ChannelBuilder::health_check).
//! - Instances that fail more than the others are left out for a while, if you set
//!   [`outlier_detection`](ChannelBuilder::outlier_detection).
//!
//! What a channel knows can be seen: [`status`](DiscoveryChannel::status) has its state, and each instance with its
//! connectivity, its last error and its load; [`status_changes`](DiscoveryChannel::status_changes) is a stream of that.
//! Calls and their attempts are tracing spans, by OpenTelemetry's conventions, at DEBUG under the target
//! `hither_tonic::call`: without a subscriber that enables these they cost a comparison. With feature `metrics` there are
//! gRPC's metrics of calls, attempts and connections, and the channel's own. All names are in
//! [docs/observability.md](https://github.com/hither-rs/hither/blob/main/docs/observability.md).
//!
//! The policy picks the instance for a call; all but `Sticky` give each instance its share by weight:
//!
//! | policy | picks | elsewhere |
//! |---|---|---|
//! | [`LeastRequest`], the default | of two random instances the one with fewer calls in flight, failures included | gRPC `least_request`, Envoy `LEAST_REQUEST`, P2C |
//! | [`PeakEwma`] | of two random instances the faster one, by latency and calls in flight | linkerd, Finagle and tower `PeakEwma` |
//! | [`RoundRobin`] | each in turn | gRPC `round_robin`, `weighted_round_robin` |
//! | [`RingHash`] | the same for the same key of a call | gRPC `ring_hash_experimental`, Envoy `RING_HASH`, consistent hashing |
//! | [`Lanes`] | by another policy, among the instances that have a call's tag: canaries, versions | Envoy subsets, Istio subsets and traffic split, Dubbo tag routing |
//! | [`Sticky`] | always the same, until it is lost or its weight is 0 | gRPC `pick_first`, which connects to no other |
//!
//! With [`slow_start`](ChannelBuilder::slow_start) the weight of an instance that has joined grows gradually (Envoy's slow
//! start).
//!
//! Or your own [`LoadBalancingPolicy`], for which [`PerInstance`] keeps a state of each instance. A
//! [`Connector`] opens the byte streams: [`TcpConnector`], the default, your own, or any
//! connector written for tonic or hyper, in a [`ServiceConnector`].
//!
//! The [`Selection`] comes before: which instances a channel connects to at all. It filters by version, zone or metadata,
//! prefers a zone and spills over to others when too little of it is ready, has tiers with failover, subsets for services
//! of thousands of instances, and gRPC's `pick_first`; and it can be changed at run time.
//!
//! # Servers
//!
//! A [`Lifecycle`] runs a server and shuts it down in the order in which no client sees an error. tonic's builder, its
//! layers and services stay in your hands.
//!
//! # Tests
//!
//! With feature `memory-network` a `MemoryNetwork` has servers and channels without sockets, on which a test can pause
//! Tokio's time, and freeze, kill and cut off servers. Its page has examples.
//!
//! # Errors
//!
//! Both sides have one [`Error`]. Its kind ([`Error::kind`]) is what a caller decides by, and it converts into a
//! [`tonic::Status`].
//!
//! # Features
//!
//! | feature | default | what for |
//! |---|---|---|
//! | `client` | yes | [`DiscoveryChannel`] |
//! | `server` | yes | [`Lifecycle`], [`DeadlineLayer`] |
//! | `health` | no | `LifecycleBuilder::health`: drives tonic-health's reporter |
//! | `metrics` | no | metrics of channels, with gRPC's names, of registrations, and of servers (`MetricsLayer`), for the recorder of the `metrics` crate |
//! | `memory-network` | no | `MemoryNetwork`: servers and channels without sockets, for tests; implies `client` and `server` |
//! | `tls` | no | `ChannelBuilder::tls` with a `ClientTls`, `LifecycleBuilder::tls` with a `ServerTls`: TLS by rustls with ring |
//! | `tls-webpki-roots` | no | `ClientTls::webpki`: Mozilla's root certificates, compiled in; implies `tls` |
//!
//! # Foreign types
//!
//! In the public interface: tonic 0.14, tonic-health 0.14, http 1, http-body 1, tower-layer 0.3, tower-service 0.3,
//! Tokio's IO traits, listeners, `watch::Receiver`, `Instant` and `TaskLocalFuture`, async-trait's boxed futures, hyper 1's
//! IO traits in the bounds of [`ServiceConnector`], and rustls 0.23's `ClientConfig` and `ServerConfig` in
//! `ClientTls::rustls` and `ServerTls::rustls`. In the bounds of `MemoryNetwork::serve` also bytes 1.
//!
//! [tonic]: https://docs.rs/tonic
#![forbid(unsafe_code)]

#[cfg(feature = "client")]
mod client;
#[cfg(any(feature = "client", all(feature = "server", feature = "metrics")))]
mod code_name;
#[cfg(any(feature = "client", feature = "server"))]
mod deadline;
mod error;
#[cfg(any(feature = "client", all(feature = "server", feature = "metrics")))]
mod grpc_response;
#[cfg(all(feature = "client", feature = "server"))]
pub mod guide;
#[cfg(any(feature = "client", feature = "server"))]
mod http2;
#[cfg(feature = "memory-network")]
mod memory_network;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "server")]
mod server;
#[cfg(any(feature = "client", all(feature = "server", feature = "tls")))]
mod task;
#[cfg(all(any(feature = "client", feature = "server"), feature = "tls"))]
mod tls;

#[cfg(all(feature = "client", feature = "tls"))]
pub use client::ClientTls;
#[cfg(feature = "client")]
pub use client::{
    BoxedIo, CallInfo, CalledInstance, ChannelBuilder, ChannelStatus, Connected, ConnectivityState,
    Connector, Destination, DiscoveryChannel, FailurePercentage, HashKey, HedgingPolicy, InstanceStatus,
    InstanceWith, Io, Lane, LaneFallback, Lanes, LeastRequest, LoadBalancingPolicy, MethodConfig, Others,
    Outcome, OutlierDetection, PeakEwma, PerInstance, Pick, Picked, Picker, ReadyInstance, ResponseFuture,
    RetryBudget, RetryPolicy, RetryThrottling, RingHash, RoundRobin, Selection, ServiceConnector, SlowStart,
    Sticky, SuccessRate, TcpConnector, WaitForReady,
};
#[cfg(any(feature = "client", feature = "server"))]
pub use deadline::CallDeadline;
#[cfg(feature = "server")]
pub use deadline::{DeadlineBody, DeadlineFuture, DeadlineLayer, DeadlineService};
pub use error::{Error, ErrorKind, Result};
#[cfg(feature = "memory-network")]
pub use memory_network::{MemoryHost, MemoryListener, MemoryNetwork, MemoryServer, MemoryStream};
#[cfg(feature = "server")]
pub use server::{
    Connection, Incoming, IpSource, Lifecycle, LifecycleBuilder, LifecycleHandle, ListeningSocket, Shutdown,
};
#[cfg(all(feature = "server", feature = "metrics"))]
pub use server::{MetricsBody, MetricsFuture, MetricsLayer, MetricsService};
#[cfg(all(feature = "server", feature = "tls"))]
pub use server::{ServerTls, TlsConnection, TlsIncoming};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
