//! Lifecycle: a server registers itself, leaves the rotation and comes back, and shuts down without a failed call.
//!
//! A [`Lifecycle`](crate::Lifecycle) listens, registers each service while it is served, and on SIGTERM takes the steps in
//! the order in which no client sees an error: announce, deregister, wait until that has reached the clients, drain, cut what
//! remains.
//!
//! | you want | setting | elsewhere |
//! |---|---|---|
//! | a server that leaves without a failed call | the defaults; the delays are at [`LifecycleBuilder`](crate::LifecycleBuilder) | Kubernetes: a `preStop` that sleeps; Envoy: drain sequence |
//! | to be out of rotation for a while, or to change weight and metadata | [`LifecycleHandle`](crate::LifecycleHandle) | Consul: maintenance mode; Eureka: `OUT_OF_SERVICE` |
//! | to be registered only while a dependency works | [`readiness`](crate::LifecycleBuilder::readiness) | Kubernetes: readiness probe |
//! | clients that spread over servers that were added | [`max_connection_age`](crate::LifecycleBuilder::max_connection_age) | gRPC: `MAX_CONNECTION_AGE` (gRFC A9) |
//! | a Unix socket, a socket of systemd's, or one that the program opened | [`bind_unix`](crate::LifecycleBuilder::bind_unix), [`listen`](crate::LifecycleBuilder::listen) | |
//! | the address of a pod | [`advertise_ip`](crate::LifecycleBuilder::advertise_ip) | Kubernetes: downward API |
//! | several services on one server, each with metadata of its own | [`service_with`](crate::LifecycleBuilder::service_with) | |
//! | calls of handlers that end with their caller's deadline | [`DeadlineLayer`](crate::DeadlineLayer) | gRPC: deadline propagation |
//!
//! ```
//! use std::time::Duration;
//! use hither_memory::MemoryRegistry;
//! use hither_tonic::Lifecycle;
//! use tokio::sync::watch;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_tonic::Result<()> {
//! let (database, is_up) = watch::channel(true);
//! let server = Lifecycle::builder(MemoryRegistry::new())
//!     .service("greeter")
//!     .readiness(is_up) // registered only while the database answers
//!     .max_connection_age(Duration::from_secs(3600))
//!     .bind("127.0.0.1:0")
//!     .await?;
//! # drop((database, server));
//! # Ok(())
//! # }
//! ```
//!
//! # On Kubernetes
//!
//! Clients find servers in the registry and not in EndpointSlices, so a `preStop` that sleeps is not needed: the time that
//! it bridges is [`propagation_delay`](crate::LifecycleBuilder::propagation_delay). `terminationGracePeriodSeconds` has to be
//! longer than the sum of the steps. The repository's `docs/kubernetes.md` has the arithmetic and a manifest.
