//! Load balancing: which of the connected instances takes a call.
//!
//! | policy | for | elsewhere |
//! |---|---|---|
//! | [`LeastRequest`](crate::LeastRequest), the default | nearly all services: slow and failing servers get less | gRPC: `least_request`; Envoy: `LEAST_REQUEST` |
//! | [`PeakEwma`](crate::PeakEwma) | unary calls to servers of unequal speed or distance | linkerd, Finagle: peak EWMA |
//! | [`RoundRobin`](crate::RoundRobin) | an equal number of calls for each, whatever happens | gRPC: `round_robin`, `weighted_round_robin` |
//! | [`RingHash`](crate::RingHash) | caches and sessions: calls with the same key to the same server, with [bounded loads](crate::RingHash::with_balance_factor) if you set it | gRPC: `ring_hash_experimental`; Envoy: `RING_HASH`, `hash_balance_factor` |
//! | [`Sticky`](crate::Sticky) | one server, with the others connected as spare | |
//! | [`Lanes`](crate::Lanes) | one of the above among the instances that have a call's tag ([page](super::lanes)) | Envoy: subsets; Dubbo: tag routing |
//! | your [`LoadBalancingPolicy`](crate::LoadBalancingPolicy) | anything else; [`PerInstance`](crate::PerInstance) keeps what it measures | gRPC: custom LB policy |
//!
//! ```
//! use hither_core::{Discovery, StaticRegistry};
//! use hither_tonic::{DiscoveryChannel, PeakEwma};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_tonic::Result<()> {
//! # let discovery = Discovery::new(StaticRegistry::new([]));
//! let channel = DiscoveryChannel::builder(discovery, "greeter").policy(PeakEwma::default()).connect_lazy()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Weights
//!
//! An instance's weight in the registry is its share relative to the others. A server can change it while it runs
//! ([`LifecycleHandle`](crate::LifecycleHandle)), and it counts from the next call on, over the connections that there are.
//! Weight 0 is called only when no other instance is ready, or none has room for a call: it takes a server out. It gets no
//! retries and no hedges either, whatever becomes of the calls to the others, and [`Sticky`](crate::Sticky) and
//! [`pick_first`](crate::Selection::pick_first) leave it for another one that is ready. For a standby that takes over use
//! [tiers](super::selection). What is in force, with the factors of a channel, is
//! [`ReadyInstance::weight`](crate::ReadyInstance::weight).
//!
//! An instance that has just started may be slow at first: cold caches, code that was not compiled yet. With
//! [`slow_start`](crate::ChannelBuilder::slow_start) its weight grows over a while (Envoy: slow start);
//! not for [`RingHash`](crate::RingHash).
//!
//! # A server that is slow, or fails
//!
//! Round robin gives a slow server as many calls as a fast one, and a server that fails at once too. Least request gives a
//! slow one fewer calls, because more are in flight there; one that fails at once has nothing in flight, so its failures
//! count as load for some seconds. Both shift what one server gets, and neither leaves it out: that is
//! [outlier detection](super::health). What fails everywhere, as a wrong request does, shifts nothing.
//!
//! The repository's `BENCHMARKS.md` has a simulation of fifty servers with p50, p99, p999 and errors for each policy.
