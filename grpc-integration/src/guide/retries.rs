//! Retries: what is sent again, when, and what bounds it.
//!
//! | failure | what happens | elsewhere |
//! |---|---|---|
//! | the request was never sent, or the server refused it before it was processed | sent again without a setting, at most nine times after REFUSED_STREAM | gRPC: transparent retry |
//! | the server has failed it, or its connection was lost | [`RetryPolicy`](crate::RetryPolicy), if the method has one | gRPC: `retryPolicy` (gRFC A6); Envoy, linkerd: retries |
//! | it takes long | [`HedgingPolicy`](crate::HedgingPolicy), if the method has one: a second attempt beside the first | gRPC: `hedgingPolicy`; Finagle: backup requests |
//!
//! ```
//! use std::time::Duration;
//! use hither_core::{Discovery, StaticRegistry};
//! use hither_tonic::{DiscoveryChannel, HedgingPolicy, MethodConfig, RetryPolicy};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_tonic::Result<()> {
//! # let discovery = Discovery::new(StaticRegistry::new([]));
//! let channel = DiscoveryChannel::builder(discovery, "store")
//!     // All methods of the service but the one below.
//!     .method("store.Store", MethodConfig::default().with_retry(RetryPolicy::default()))
//!     .method("store.Store/Get", MethodConfig::default().with_hedging(HedgingPolicy::after_percentile(0.95)))
//!     .default_timeout(Duration::from_secs(2))
//!     .connect_lazy()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Before you set a policy
//!
//! - *May it be processed twice?* A lost connection leaves open whether the server has processed the call. Give a policy to
//!   methods that read, or whose repetition changes nothing.
//! - *Is there time?* The deadline covers all attempts. A policy without a deadline retries a call that its caller gave up on
//!   long ago.
//! - *One layer only.* Where each of three layers sends a call up to three times, the last one gets it 27 times. Retry at the
//!   layer above the one that fails.
//!
//! # What bounds it
//!
//! Retries are load for servers that are in trouble already. A channel's [`RetryBudget`](crate::RetryBudget) bounds what its
//! retries and hedges add to its calls, whatever fails; [`RetryThrottling`](crate::RetryThrottling), gRPC's own, stops them
//! while failures prevail. A server bounds them by the header `grpc-retry-pushback-ms`.
//!
//! # Deadlines that go on
//!
//! A call that a handler makes can end with the deadline of the one it serves: a [`DeadlineLayer`](crate::DeadlineLayer) on
//! the server, [`inherit_deadline`](crate::ChannelBuilder::inherit_deadline) on the channel.
