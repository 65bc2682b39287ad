//! Health: instances that fail more than the others, or say themselves that they should get no calls, are left out.
//!
//! | what fails | who notices | elsewhere |
//! |---|---|---|
//! | the connection, or the process | the channel at once; [`keepalive_interval`](crate::ChannelBuilder::keepalive_interval) for one that freezes | gRPC: keep-alive (gRFC A8) |
//! | the calls, while the connection works | [`OutlierDetection`](crate::OutlierDetection) | gRPC: outlier detection (gRFC A50); linkerd: failure accrual; Envoy, Istio: outlier detection |
//! | the server says so by gRPC's health protocol | the channel, with [`health_check`](crate::ChannelBuilder::health_check), which watches each instance | gRPC: client-side health checking (gRFC A17) |
//! | nothing yet, but the server knows that it should get no calls | the server: it leaves the registry ([`readiness`](crate::LifecycleBuilder::readiness)) | Kubernetes: readiness |
//!
//! ```
//! use hither_core::{Discovery, StaticRegistry};
//! use hither_tonic::{DiscoveryChannel, OutlierDetection};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_tonic::Result<()> {
//! # let discovery = Discovery::new(StaticRegistry::new([]));
//! let channel = DiscoveryChannel::builder(discovery, "greeter")
//!     .outlier_detection(OutlierDetection::default())
//!     .connect_lazy()?;
//! # Ok(())
//! # }
//! ```
//!
//! # When to switch it on
//!
//! Where several instances do the same work and one may be ill without noticing: a full disk, a lost database connection, a
//! bad node. Outlier detection is off by default, because it needs a judgement: an instance whose calls are different from the others' (a
//! shard, a single customer) may fail for other reasons than illness.
//!
//! It works with two instances as with a thousand; an instance is ejected only where the others do better, never more than a
//! share of them, and not at all when too few would be left.
//!
//! `health_check` is for servers that know better than their callers: while they warm up, or lose what they depend on. Without
//! it they can leave the registry for as long, which all clients see and no connection is needed for.
