//! Observability: what a channel and a server do can be seen.
//!
//! | you want | where | elsewhere |
//! |---|---|---|
//! | the state now: which instance is connected, which is not and why, how old the registry's list is | [`DiscoveryChannel::status`](crate::DiscoveryChannel::status) | grpc-go: channelz; Envoy: admin `/clusters` |
//! | a program that reacts to it | [`status_changes`](crate::DiscoveryChannel::status_changes) | grpc-go: `WaitForStateChange` |
//! | dashboards and alerts | feature `metrics`: gRPC's metrics, and those of channels, registrations and watches | gRPC: OpenTelemetry metrics (gRFC A66, A94) |
//! | the same of a server | feature `metrics`: [`MetricsLayer`](crate::MetricsLayer) | gRPC: OpenTelemetry metrics (gRFC A66) |
//! | where the time of one call went | spans of calls and attempts, target `hither_tonic::call` | gRPC: tracing (gRFC A72) |
//! | which server answered a call | [`CalledInstance`](crate::CalledInstance) in its extensions | grpc-go: `grpc.Peer` |
//! | what happened to a registration | [`on_status`](crate::LifecycleBuilder::on_status); feature `metrics` | |
//! | logs | `tracing`, filter `hither=info`; what is in them is described at each type | |
//!
//! ```
//! use hither_core::{Discovery, StaticRegistry};
//! use hither_tonic::{ConnectivityState, DiscoveryChannel};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_tonic::Result<()> {
//! # let discovery = Discovery::new(StaticRegistry::new([]));
//! let channel = DiscoveryChannel::builder(discovery, "greeter").connect_lazy()?;
//! let status = channel.status();
//! println!("{} of {} instances ready", status.count(ConnectivityState::Ready), status.registered());
//! println!("{status:#}"); // a line for each instance, for a debug page
//! # Ok(())
//! # }
//! ```
//!
//! What is to be watched first: the age of the registry's list, the number of instances that are ready, and the share of those
//! that cannot be reached. The repository's `docs/observability.md` has all names, and alerts for Prometheus.
