//! Service discovery for gRPC in Rust: servers register under the name of a service, clients call the service by that
//! name, and the registry between them is chosen by configuration.
//!
//! ```text
//!      server                         registry                          client
//!
//!     Lifecycle                 etcd, memory, static             DiscoveryChannel
//!  bind, serve, register        or your own backend           one tonic channel over all
//!  announce, deregister, drain                               ready instances of a service
//!         │                                                              ▲
//!         ▼                     greeter/10.0.0.7:8001                    │
//!  keep_registered ───────────► greeter/10.0.0.8:8001 ───────────► Discovery
//!  renews the lease; retries    greeter/10.0.0.9:8001     one watch per service; keeps
//!  until it is registered                                 the last state in an outage
//! ```
//!
//! ```console
//! $ cargo add hither                    # channels and servers for tonic, a registry in memory
//! $ cargo add hither --features etcd    # and etcd; building it needs protoc
//! ```
//!
//! ```
//! use hither::Discovery;
//! use hither::tonic::{DiscoveryChannel, Lifecycle};
//! use tonic::transport::Server;
//! use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient}; // or your own generated client
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = hither::connect("memory://demo")?; // or "etcd://10.0.0.1:2379,10.0.0.2:2379/production"
//!
//! // The server: registered while it serves. On SIGTERM it deregisters, drains, and then closes.
//! let (reporter, health) = tonic_health::server::health_reporter();
//! reporter.set_service_status("greeter", tonic_health::ServingStatus::Serving).await;
//! let server = Lifecycle::builder(registry.clone()).service("greeter").bind("127.0.0.1:0").await?;
//! tokio::spawn(server.serve(|incoming, shutdown| {
//!     Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
//! }));
//!
//! // The client: one channel over all ready instances, as they join and leave. One Discovery serves all channels.
//! let discovery = Discovery::new(registry);
//! let channel = DiscoveryChannel::builder(&discovery, "greeter").connect().await?;
//! let mut client = HealthClient::new(channel);
//! let answer = client.check(HealthCheckRequest { service: "greeter".into() }).await?;
//! assert_eq!(answer.get_ref().status().as_str_name(), "SERVING");
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go
//!
//! | to | go to |
//! |---|---|
//! | call a service by its name, balance the load, set deadlines | [`DiscoveryChannel`](tonic::DiscoveryChannel) |
//! | register a server, and shut it down without a failed call | [`Lifecycle`](tonic::Lifecycle) |
//! | let configuration choose the registry | [`connect`], [`RegistryUrl`] |
//! | give channels targets such as `etcd:///greeter` | [`Target`], [`Registries`] |
//! | configure etcd: users, TLS, prefixes, formats of other frameworks | [`etcd`] |
//! | test against outages, under paused time | [`memory`], [`mock`], [`MemoryNetwork`](tonic::MemoryNetwork) |
//! | register, or watch a service, without gRPC | [`keep_registered`], [`Discovery`] |
//! | write a backend for another registry | [`Registrar`], [`Resolver`], [`conformance`] |
//!
//! # Features
//!
//! | feature | default | what for |
//! |---|---|---|
//! | `tonic` | yes | [`tonic`](mod@tonic), both sides: `client` and `server` |
//! | `client` | yes | [`DiscoveryChannel`](tonic::DiscoveryChannel) alone |
//! | `server` | yes | [`Lifecycle`](tonic::Lifecycle) alone |
//! | `health` | no | [`LifecycleBuilder::health`](tonic::LifecycleBuilder::health): drives the gRPC health service; implies `server` |
//! | `metrics` | no | metrics of channels, servers, registrations and watches, for the recorder of the `metrics` crate |
//! | `memory-network` | no | [`MemoryNetwork`](tonic::MemoryNetwork): servers and channels without sockets, for tests; implies `client` and `server` |
//! | `tls` | no | [`ClientTls`](tonic::ClientTls), [`ServerTls`](tonic::ServerTls): TLS of channels and servers, by rustls with ring |
//! | `tls-webpki-roots` | no | [`ClientTls::webpki`](tonic::ClientTls::webpki): Mozilla's root certificates, compiled in; implies `tls` |
//! | `memory` | yes | [`memory`], and `memory://` in [`connect`] |
//! | `etcd` | no | [`etcd`], and `etcd://` in [`connect`]; building it needs `protoc` |
//! | `etcd-tls` | no | [`TlsConfig`](etcd::TlsConfig): TLS to etcd, by rustls with ring; implies `etcd` |
//! | `disk-cache` | no | [`DiscoveryBuilder::cache_dir`]: clients that start during an outage of the registry |
//! | `serde` | no | `Serialize` and `Deserialize` for addresses, names, ids, instances, registrations and targets; `Deserialize` for [`RegistryUrl`] |
//! | `mock` | no | [`mock`]: mocks of the traits; exempt from semver |
//! | `conformance` | no | [`conformance`]: the test kit for backends |
//!
//! `static://` in [`connect`] needs no feature.
//!
//! # The packages behind it
//!
//! This crate only re-exports, except for [`connect`] and [`RegistryUrl`]: everything of [hither-core] is here at the
//! root, [hither-tonic] is [`tonic`](mod@tonic), [hither-etcd] is [`etcd`], [hither-memory] is [`memory`]. A library that
//! implements a backend depends on hither-core alone.
//!
//! [hither-core]: https://docs.rs/hither-core
//! [hither-etcd]: https://docs.rs/hither-etcd
//! [hither-memory]: https://docs.rs/hither-memory
//! [hither-tonic]: https://docs.rs/hither-tonic
#![forbid(unsafe_code)]

mod registry_url;

#[doc(inline)]
pub use hither_core::*;
#[cfg(feature = "etcd")]
#[doc(inline)]
pub use hither_etcd as etcd;
#[cfg(feature = "memory")]
#[doc(inline)]
pub use hither_memory as memory;
#[cfg(any(feature = "client", feature = "server"))]
#[doc(inline)]
pub use hither_tonic as tonic;
pub use registry_url::{RegistryUrl, connect};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
