//! Lanes: which instances a single call may go to, by a tag of the call: canaries, versions side by side, test environments.
//!
//! | what | here | elsewhere |
//! |---|---|---|
//! | instances by a key of their metadata | [`Lanes::by_metadata`](crate::Lanes::by_metadata), [`Lanes::by`](crate::Lanes::by) | Envoy: subset load balancer, `subset_selectors`; Istio: `subsets` of a DestinationRule; Dubbo: `dubbo.tag` of providers; Polaris: lanes, instance routing rules |
//! | a call chooses by a header | [`with_header`](crate::Lanes::with_header) | Envoy: header match to `metadata_match`; Istio: VirtualService `match.headers`; gRPC xDS: route `headers`; Kratos: node filter of the selector |
//! | a call chooses by what the program says | [`Lane`](crate::Lane) in the request's extensions | Dubbo: attachment `dubbo.tag`; Kitex: tagging-based balancer |
//! | no instance has the tag | [`LaneFallback`](crate::LaneFallback) | Envoy: `fallback_policy`; Dubbo: `dubbo.force.tag` |
//! | a part of the other calls | [`with_share`](crate::Lanes::with_share) | Istio: route `weight`; gRPC xDS, Envoy: `weighted_clusters` |
//!
//! ```
//! use hither_core::{Discovery, StaticRegistry};
//! use hither_tonic::{DiscoveryChannel, Lanes, LeastRequest};
//! use http::HeaderName;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_tonic::Result<()> {
//! # let discovery = Discovery::new(StaticRegistry::new([]));
//! let lanes = Lanes::by(|instance| instance.version().map(str::to_owned), LeastRequest::default)
//!     .with_default_lane("v1")
//!     .with_header(HeaderName::from_static("x-version"))
//!     .with_share("v2", 0.05);
//! let channel = DiscoveryChannel::builder(discovery, "greeter").policy(lanes).connect_lazy()?;
//! # Ok(())
//! # }
//! ```
//!
//! # A canary
//!
//! The canary registers with a value of its own, for example `lane: canary` in its metadata. Testers send the header; with a
//! share, some of all other calls go there too. Its outliers are ejected as any
//! ([outlier detection](super::health)), and then its calls go to the default lane. To end the trial its metadata is changed
//! ([`LifecycleHandle`](crate::LifecycleHandle)) or its weight set to 0: it keeps its connections, and the calls in flight
//! end there.
//!
//! # A test environment of a few services
//!
//! Each branch under test is a lane, in which only the services run that it changes; for all others there is the default lane,
//! which is the [fallback](crate::LaneFallback::DefaultLane). The tag has to go on from service to service: a server's
//! handler copies the header to the calls that it makes, by an interceptor, as with any other context.
//!
//! # Where lanes are the wrong tool
//!
//! - All calls of a channel to one version: that is a filter of the [selection](super::selection), which does not even
//!   connect to the others.
//! - A preference by the instance alone, such as the own zone: tiers of the selection. They come first: lanes divide what
//!   the tiers have left.
//! - The same user to the same server: [`RingHash`](crate::RingHash), which may be the policy within the lanes.
