//! Selection: which of the registered instances are connected to.
//!
//! A load balancing policy sees only instances that are connected, so it cannot choose another zone, or twenty of ten
//! thousand. A [`Selection`](crate::Selection) does, before it.
//!
//! ```
//! use hither_tonic::Selection;
//!
//! // Zone a alone, while at least 71 % of it is ready; below that the others take what it cannot.
//! let zone = Selection::default().prefer_zone("a");
//! // Only version 2, and twenty connections however many instances there are.
//! let some = Selection::default().filter(|instance| instance.version() == Some("2")).subset(20);
//! // The primary, and the others only when it cannot be reached.
//! let failover = Selection::default()
//!     .tiers(|instance| u32::from(instance.metadata().get("role").map(|role| &**role) != Some("primary")))
//!     .strict_failover();
//! ```
//!
//! # When to use which step
//!
//! | you want | step | elsewhere |
//! |---|---|---|
//! | calls that stay in their zone, which is cheaper and faster | [`prefer_zone`](crate::Selection::prefer_zone) | Envoy and Istio: locality load balancing; linkerd: HAZL; Kubernetes: `trafficDistribution` |
//! | a second region or a standby that takes over | [`tiers`](crate::Selection::tiers), [`strict_failover`](crate::Selection::strict_failover) | grpc-go: `priority`; Envoy: priority levels |
//! | few connections to a large service | [`subset`](crate::Selection::subset) | grpc-go: `random_subsetting`; Finagle: aperture |
//! | one connection, with the others as spare | [`pick_first`](crate::Selection::pick_first) | gRPC: `pick_first` |
//! | a part of the instances: a version, a shard | [`filter`](crate::Selection::filter) | Istio: `subsets` of a DestinationRule |
//!
//! # What a failover is, and is not
//!
//! A tier is left for the next one when its servers cannot be reached, report that they are not healthy
//! ([`health_check`](crate::ChannelBuilder::health_check)), leave the registry, or are ejected for failing more calls than the
//! other servers of the channel ([`OutlierDetection`](crate::OutlierDetection)). Not when all of its servers are up and fail all
//! calls: whatever makes them fail, be it the calls themselves or a database behind them all, would be sent to the next tier,
//! and retries stay in the tier as well. Envoy and gRPC do it alike. Servers that cannot answer should report it, which moves
//! the calls in a moment: tonic-health, or the [readiness](crate::LifecycleBuilder::readiness) of a registered server.
//!
//! For a standby use tiers and [`strict_failover`](crate::Selection::strict_failover), rather than weight 0: an instance of weight 0 is
//! connected to, but is called only when no other is ready or has room, and gets no retries before; it is what a server sets
//! that is to get no more calls.
//!
//! # At run time
//!
//! [`DiscoveryChannel::set_selection`](crate::DiscoveryChannel::set_selection) replaces the selection of a channel. What stays
//! selected keeps its connections, and no call is lost. That includes what is connected of a later tier: it takes the calls until
//! the tiers before it can, and stays connected for 15 minutes, as after a failover.
//! [`ChannelStatus`](crate::ChannelStatus) shows what is connected.
//!
//! # Sizes
//!
//! - A subset balances by chance: with `c` connections to each server on average, most servers have between `c − 2√c` and
//!   `c + 2√c`. Ten clients with a subset of 20 of 100 servers make two connections to each on average, and to some none; a
//!   thousand clients make 200, give or take 28.
//! - Zone preference assumes that the clients of a zone need no more than its servers can take. Where most clients are
//!   in one zone and most servers in another, leave it out.
//! - It goes by what is ready, and not by how well that does. A zone in which all servers are slow keeps its callers, and outlier
//!   detection ejects none of them: no other server that these callers know does better. The others are shielded from it.
