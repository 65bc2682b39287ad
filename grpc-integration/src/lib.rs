//! gRPC with service discovery, for [tonic]: a [`DiscoveryChannel`] calls a service by its name, and a
//! [`Lifecycle`] lets a server be found.
//!
//! ```text
//!        server                       registry                       client
//!  ───────────────────           ──────────────────          ───────────────────────
//!       Lifecycle                                               GreeterClient::new(
//!  bind, serve, register ─────► greeter/10.0.0.7:8001 ─────►      DiscoveryChannel)
//!  announce, drain, leave       greeter/10.0.0.8:8001         picks one for each call
//!           ▲                                                            │
//!           └──────────────────────── the calls ─────────────────────────┘
//! ```
//!
//! ```
//! use hither_memory::MemoryRegistry; // or hither_etcd::EtcdRegistry
//! use hither_tonic::{DiscoveryChannel, Lifecycle};
//! use tonic::transport::Server;
//! use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient}; // or your own generated client
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let registry = MemoryRegistry::new();
//!
//! // The server: registered while it serves, and gone from the registry before it stops.
//! let (reporter, health) = tonic_health::server::health_reporter();
//! let server = Lifecycle::builder(registry.clone())
//!     .service("greeter")
//!     .health(reporter, ["helloworld.Greeter"])
//!     .bind("127.0.0.1:0")
//!     .await?;
//! tokio::spawn(server.serve(|incoming, shutdown| {
//!     Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
//! }));
//!
//! // The client: one channel over all servers that are ready, whoever joins or leaves.
//! let channel = DiscoveryChannel::builder(registry, "greeter").connect().await?;
//! let mut client = HealthClient::new(channel);
//! let answer = client.check(HealthCheckRequest { service: "helloworld.Greeter".into() }).await?;
//! assert_eq!(answer.get_ref().status().as_str_name(), "SERVING");
//! # Ok(())
//! # }
//! ```
//!
//! # Clients
//!
//! A [`DiscoveryChannel`] goes wherever a `tonic::transport::Channel` goes: into every generated client, with
//! or without interceptors. What it promises:
//!
//! - Only servers that are connected, and have spoken HTTP/2, are called; connecting happens in the
//!   background.
//! - Servers that leave gracefully and servers that join cost no call: what was not sent, or refused unseen,
//!   is sent to another one. What a server may have worked on is never repeated.
//! - The deadline of a call holds for everything, to the end of its response's body. When nobody is ready
//!   calls fail at once and say why, or wait, as you choose ([`WaitForReady`]).
//! - When the registry is down, calls go on over what was known.
//!
//! Which server a call goes to is a policy's choice: [`LeastRequest`], the default, [`RoundRobin`],
//! [`Sticky`], or your own [`LoadBalancingPolicy`]. How bytes get there is a [`Connector`]'s.
//!
//! # Servers
//!
//! A [`Lifecycle`] leads a server through its life in the order in which no client sees an error. Builder,
//! layers, TLS and services of tonic stay in your hands.
//!
//! # Foreign types
//!
//! In the public interface: tonic 0.14, tonic-health 0.14, http 1, tower-service 0.3, Tokio's IO traits, and
//! async-trait's boxed futures. Neither hyper nor h2.
//!
//! [tonic]: https://docs.rs/tonic
#![forbid(unsafe_code)]

mod client;
mod error;
mod server;
mod task;

pub use client::{
    BoxedIo, CallInfo, ChannelBuilder, Connector, DiscoveryChannel, Io, LeastRequest, LoadBalancingPolicy,
    Outcome, Pick, Picker, ReadyInstance, ResponseFuture, RoundRobin, Sticky, TcpConnector, WaitForReady,
};
pub use server::{Connection, Incoming, Lifecycle, LifecycleBuilder, LifecycleError, Shutdown};
