//! The selection of a channel, as the program describes it.

use std::fmt;
use std::sync::Arc;

use hither_core::Instance;

use crate::client::closure::Closure;
use crate::error::{Error, Result};

/// Which of the registered instances a channel connects to, and which of those take calls: the stage before the load
/// balancing policy, which only sees what is connected.
///
/// ```
/// use hither_core::{Discovery, StaticRegistry};
/// use hither_tonic::{DiscoveryChannel, Selection};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_tonic::Result<()> {
/// # let registry = StaticRegistry::new([]);
/// # let discovery = Discovery::new(registry);
/// // At most twenty instances of version 2, of the zone of this process while enough of them are ready.
/// let selection = Selection::default()
///     .filter(|instance| instance.version() == Some("v2"))
///     .prefer_zone("eu-west-1a")
///     .subset(20);
/// let channel = DiscoveryChannel::builder(&discovery, "greeter").selection(selection).connect_lazy()?;
///
/// // Later: what stays selected keeps its connections and its calls.
/// channel.set_selection(Selection::default().subset(20))?;
/// # Ok(())
/// # }
/// ```
///
/// # Steps
///
/// Whatever the order in which they are set, the steps are taken in this one:
///
/// | step | what it does | elsewhere |
/// |---|---|---|
/// | [`filter`](Self::filter) | leaves out instances, by version, zone, metadata or id | Envoy: subset load balancer; Istio: `subsets` of a DestinationRule; Kratos: node filter |
/// | [`prefer_zone`](Self::prefer_zone) | one zone first, others when too little of it is ready | Envoy: zone-aware routing, priorities; Istio: locality failover; linkerd: HAZL; Kubernetes: `PreferSameZone` |
/// | [`tiers`](Self::tiers) | priorities: the next one when too little of those before is ready | Envoy: priority levels, overprovisioning factor; linkerd: failover extension |
/// | [`strict_failover`](Self::strict_failover) | the next tier only when none of those before is ready | grpc-go: `priority` (gRFC A56) |
/// | [`subset`](Self::subset) | at most so many instances of each tier | grpc-go: `random_subsetting` (gRFC A68); Finagle: aperture; Envoy: random subsetting |
/// | [`pick_first`](Self::pick_first) | one instance | grpc-go: `pick_first` (gRFCs A61, A62) |
///
/// # What stays as it is
///
/// - An instance that announces `Draining` gets no new calls and finishes those in flight. It does not count for its
///   tier; while nothing else is ready, it is called nevertheless.
/// - While the registry cannot be reached, the selection works on the instances known last. An instance that is held
///   ([`ProtectionConfig`](hither_core::ProtectionConfig)) keeps its connection, and its place while it has that.
/// - If a filter leaves nothing, calls fail with UNAVAILABLE and "none of the 12 instances of greeter is selected", unless
///   they are [wait-for-ready](crate::WaitForReady).
///
/// # Closures
///
/// They are called by the task of the channel, once for each change of an instance: they must be quick and never block, and
/// return the same for the same instance. One that panics has selected the instance (in tier 0); the first panic is logged
/// at ERROR.
#[derive(Clone, Default)]
pub struct Selection {
    filters: Vec<Arc<Closure<bool>>>,
    tiers: Option<Arc<Closure<u32>>>,
    is_strict: bool,
    extent: Extent,
    seed: Option<u64>,
}

/// What is logged when a closure panics.
const PANICKED: &str = "selection panicked; instance selected";

/// How many instances are selected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Extent {
    #[default]
    All,
    Subset(usize),
    First,
}

impl Selection {
    /// Selects only instances for which `filter` returns `true`. Of several filters all count.
    ///
    /// What is left out is never called, also when nothing else is ready. For a preference, such as a canary's for its own
    /// version, use [`tiers`](Self::tiers):
    ///
    /// ```
    /// use hither_tonic::Selection;
    ///
    /// let selection = Selection::default()
    ///     .tiers(|instance| u32::from(instance.version() != Some("v2-canary")))
    ///     .strict_failover();
    /// ```
    #[must_use]
    pub fn filter(mut self, filter: impl Fn(&Instance) -> bool + Send + Sync + 'static) -> Self {
        self.filters.push(Arc::new(Closure::new(("filter", PANICKED), filter)));
        self
    }

    /// Prefers the instances of a zone: [`tiers`](Self::tiers) with that zone as tier 0, and all others as tier 1.
    #[must_use]
    pub fn prefer_zone(self, zone: impl Into<Arc<str>>) -> Self {
        let zone = zone.into();
        self.tiers_named("prefer_zone", move |instance| u32::from(instance.zone() != Some(&*zone)))
    }

    /// Divides the instances into tiers, of which lower numbers come first. Replaces the tiers that were set before.
    ///
    /// The first tier gets all calls while at least 71 % of its instances are ready. Below that its share is 1.4 times its
    /// ready part (Envoy's overprovisioning factor), and the next tier gets the rest, up to 1.4 times its own ready part, and
    /// so on. If all together cannot take everything, the shares are scaled to the whole. Instances whose weight is 0 count
    /// for nothing. The shares are in the weights ([`ReadyInstance::weight`](crate::ReadyInstance::weight)), to one percentage
    /// point: a policy that ignores weights ignores them too.
    ///
    /// Ready is what is connected, or was until a second ago and is being connected to again, and not ejected by
    /// [`OutlierDetection`](crate::OutlierDetection). That calls fail is no reason to
    /// go on to the next tier by itself: where all instances of a tier fail their calls alike, none is ejected, since they are
    /// compared with each other, and retries stay in the tier. A server that knows that it cannot answer should say so, by
    /// [`health_check`](crate::ChannelBuilder::health_check) or by leaving the registry.
    ///
    /// A tier is connected to only when those before it cannot take everything, or have not become ready within ten seconds;
    /// and it stays connected for 15 minutes after it was needed last (gRFC A56). So do those of its instances that are connected
    /// when [`set_selection`](crate::DiscoveryChannel::set_selection) puts other tiers before it. Each change looks at all tiers:
    /// a few are meant, not one per instance.
    #[must_use]
    pub fn tiers(self, tier: impl Fn(&Instance) -> u32 + Send + Sync + 'static) -> Self {
        self.tiers_named("tiers", tier)
    }

    /// Gives a tier calls only when no instance of those before it is ready, as gRPC does, and then all of them.
    ///
    /// Unlike in gRFC A56, a tier that is connected gets them at once: calls do not wait up to ten seconds for one before it
    /// that is connecting.
    #[must_use]
    pub fn strict_failover(mut self) -> Self {
        self.is_strict = true;
        self
    }

    /// Selects at most so many instances of each tier: different ones for each channel, and the same for as long as they are
    /// registered (rendezvous hashing of their ids). Not 0; replaces [`pick_first`](Self::pick_first).
    ///
    /// With 10,000 instances and a subset of 20 there are 20 connections. One instance that joins or leaves changes at most
    /// one of them, and a larger subset includes the smaller one. Over many channels the connections spread evenly but for
    /// chance: with c connections per instance on average, most have between c − 2√c and c + 2√c of them.
    ///
    /// Unlike in gRFC A68, an instance that cannot be reached, or that is ejected, is replaced by the next in the order until it is ready
    /// again: up to as many as the subset's size, and at least twenty.
    #[must_use]
    pub fn subset(mut self, most: usize) -> Self {
        self.extent = Extent::Subset(most);
        self
    }

    /// Connects to one instance only, which gets all calls, as gRPC's `pick_first`. Replaces a [`subset`](Self::subset).
    ///
    /// Instances are attempted in a random order, those of earlier [`tiers`](Self::tiers) first: each 250 ms after the one before or as
    /// soon as that has failed (Happy Eyeballs). The first that is ready is used, and the other attempts end. When its
    /// connection is lost or it leaves the registry, the walk begins anew; one that has just failed keeps its backoff, and the walk
    /// goes past it. When all have failed, calls fail, and all are attempted again, each with its own backoff, until one is ready.
    ///
    /// An instance of weight 0 is attempted only if all that have a weight have failed, and one that is about to shut down if all
    /// others have: those are attempted on, and it is left when one of them is ready.
    ///
    /// Unlike gRPC's it connects before the first call, and again when the connection is lost, without a call to ask for it.
    ///
    /// [`Sticky`](crate::Sticky) calls one instance too, but connects to all, so that failover is immediate.
    #[must_use]
    pub fn pick_first(mut self) -> Self {
        self.extent = Extent::First;
        self
    }

    /// Sets the seed of the order in which [`subset`](Self::subset) and [`pick_first`](Self::pick_first) take instances. Default: a random
    /// one for each channel, which survives a change of the selection. With the same seed, all channels take the same
    /// instances.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    fn tiers_named(
        mut self,
        step: &'static str,
        tier: impl Fn(&Instance) -> u32 + Send + Sync + 'static,
    ) -> Self {
        self.tiers = Some(Arc::new(Closure::new((step, PANICKED), tier)));
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.extent {
            Extent::Subset(0) => Err(Error::invalid_argument("the subset of the selection is zero")),
            _ => Ok(()),
        }
    }

    pub(super) fn passes(&self, instance: &Instance) -> bool {
        self.filters.iter().all(|filter| filter.call(instance, true))
    }

    pub(super) fn tier(&self, instance: &Instance) -> u32 {
        self.tiers.as_ref().map_or(0, |tier| tier.call(instance, 0))
    }

    pub(super) fn is_strict(&self) -> bool {
        self.is_strict
    }

    pub(super) fn is_first(&self) -> bool {
        self.extent == Extent::First
    }

    /// Whether all that passes the filters is connected to.
    pub(super) fn is_all(&self) -> bool {
        self.extent == Extent::All && self.tiers.is_none()
    }

    /// The most instances of each tier.
    pub(super) fn most(&self) -> usize {
        match self.extent {
            Extent::Subset(most) => most,
            Extent::All | Extent::First => usize::MAX,
        }
    }

    pub(super) fn seed(&self) -> Option<u64> {
        self.seed
    }
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Selection")
            .field("filters", &self.filters.len())
            .field("tiers", &self.tiers)
            .field("is_strict", &self.is_strict)
            .field("extent", &self.extent)
            .field("seed", &self.seed)
            .finish()
    }
}
