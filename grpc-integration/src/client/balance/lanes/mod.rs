//! Lanes: a call goes to the instances that have its tag.

mod by_lane;
mod division;
mod picker;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use hither_core::{Instance, SortedById};
use http::HeaderName;
use tokio::time::Instant;

use super::others::Others;
use super::policy::{LoadBalancingPolicy, Picker};
use super::random::Random;
use super::weighted::Weighted;
use crate::client::closure::Closure;
use crate::client::ready_instance::ReadyInstance;
use division::{Division, Placed};
use picker::LanesPicker;

/// Divides the ready instances into lanes, and sends a call to the lane that it names: for canaries, for versions side by
/// side, and for test environments that share most of their services. Within a lane another policy picks.
///
/// An instance's lane is a value of its metadata or what a closure makes of it; instances without one are the default lane.
/// A call names its lane by a [`Lane`] in the request's extensions, which an interceptor can set, or else by the
/// [header](Self::with_header). A call that names none is untagged and goes to the default lane: never to a canary, unless
/// [`with_share`](Self::with_share) sends some there.
///
/// ```
/// use hither_core::{Discovery, StaticRegistry};
/// use hither_tonic::{DiscoveryChannel, Lane, Lanes, LeastRequest};
/// use http::HeaderName;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_tonic::Result<()> {
/// # let discovery = Discovery::new(StaticRegistry::new([]));
/// // Of the instances those with `lane: canary` in their metadata get the calls that ask for it, and 5 % of all others.
/// let lanes = Lanes::by_metadata("lane", LeastRequest::default)
///     .with_header(HeaderName::from_static("x-lane"))
///     .with_share("canary", 0.05);
/// let channel = DiscoveryChannel::builder(&discovery, "greeter").policy(lanes).connect_lazy()?;
///
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(Lane::new("canary"));
/// # Ok(())
/// # }
/// ```
///
/// # A lane without ready instances
///
/// A lane that has none ready, but some that are being connected to, as when the channel starts or the only connection has
/// come to its maximum age, is waited for: at most a second where there is another place to go to, and else until they are
/// ready or known to be unreachable. Each instance that comes to the lane begins a second of its own.
///
/// What a call does then, or that names a lane without instances, is decided by a [`LaneFallback`]: by default it goes to the
/// default lane. If that has none either, the call fails with UNAVAILABLE and "no instance of the lane … is ready", or waits
/// if it is [wait-for-ready](crate::WaitForReady).
///
/// A lane in which all [weights](ReadyInstance::weight) are 0 counts as one without ready instances where there is another
/// lane to go to, and gets its calls where there is none. In both cases one with a weight that is being connected to is
/// waited for first, at most a second.
///
/// Ready is what the channel could call: connected, selected, not ejected. An instance that is draining gets calls only
/// while its lane has no other one that is ready, and not while it is ejected. A channel that is made when all of a lane are
/// draining does not connect to them while others are up: the lane's calls fall back.
///
/// # A call stays in its lane
///
/// Retries and hedges go to other instances of the same lane while there are any. A call that finds no stream capacity in its
/// lane waits for it, in a line of the lane's own: it goes to no other lane, and holds back no calls of others. Slow start,
/// weights and outlier detection work as without lanes; they count each instance among all of the channel.
///
/// A panic of a lane's policy is one of this lane alone, and the first one is logged at ERROR. Until the policy makes another
/// picker, the lane's calls go where its last one sends them, if that is an instance of the lane, and else to any of the lane's.
/// A lane whose policy has not made any counts as one without ready instances.
///
/// # Changes
///
/// An instance whose metadata changes moves to its new lane with the next call, over the connections that it has. Each
/// lane has a policy of its own, which is made when its first instance becomes ready, goes on over all changes, and is
/// dropped with the last one. A few lanes are meant, and not one for each instance: a change costs what there are lanes.
#[derive(Debug)]
pub struct Lanes {
    division: Division,
    /// All instances, where any will do.
    weighted: Weighted<Placed>,
    choice: Choice,
    seed: Option<u64>,
    random: Option<Arc<Random>>,
}

/// How a call chooses its lane.
#[derive(Debug, Clone)]
struct Choice {
    header: Option<HeaderName>,
    /// The name of the default lane.
    default: Arc<str>,
    fallback: LaneFallback,
    /// Lanes, and the parts of the untagged calls that they get.
    shares: Vec<(Arc<str>, f64)>,
}

/// What becomes of a call that names a lane without ready instances, after it has
/// [waited](Lanes#a-lane-without-ready-instances) for those that are being connected to; of [`Lanes`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LaneFallback {
    /// It goes to the default lane. If that is not ready either, it waits for that too, and fails if none of it is being
    /// connected to. What Dubbo does without `dubbo.force.tag`, and Envoy with `DEFAULT_SUBSET`. The default.
    #[default]
    DefaultLane,
    /// It fails with UNAVAILABLE, once none of its lane is being connected to: no other lane may answer for this one. What
    /// Envoy does with `NO_FALLBACK`, and Istio.
    Fail,
    /// It goes to any ready instance by weight, untagged calls too, which may go to a canary then. What Envoy does with
    /// `ANY_ENDPOINT`.
    AnyInstance,
}

/// The lane that a call names, in the request's extensions; of [`Lanes`]. It is not sent.
///
/// An empty name is as good as none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Lane(Cow<'static, str>);

impl Lane {
    /// Returns the lane of this name.
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self(name.into())
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Lanes {
    /// Returns lanes by the value that instances have of this key in their metadata. `policy` makes the policy of a lane,
    /// which picks within it.
    #[must_use]
    pub fn by_metadata<P: LoadBalancingPolicy>(
        key: impl Into<String>,
        policy: impl Fn() -> P + Send + 'static,
    ) -> Self {
        let key = key.into();
        Self::by(move |instance| instance.metadata().get(&key).cloned(), policy)
    }

    /// Returns lanes by what `lane` makes of an instance: `None` for the default lane. `policy` makes the policy of a
    /// lane, which picks within it.
    ///
    /// `lane` is called by the task of the channel, for each change of an instance and whenever it is connected to: it must be
    /// quick and never block. An instance for which it panics is in the default lane; the first panic is logged at ERROR. One
    /// of `policy` is like one of the policy that it makes.
    ///
    /// ```
    /// use hither_tonic::{Lanes, RoundRobin};
    ///
    /// let by_version = Lanes::by(|instance| instance.version().map(str::to_owned), RoundRobin::default)
    ///     .with_default_lane("v1");
    /// ```
    #[must_use]
    pub fn by<P: LoadBalancingPolicy>(
        lane: impl Fn(&Instance) -> Option<String> + Send + Sync + 'static,
        policy: impl Fn() -> P + Send + 'static,
    ) -> Self {
        let lane = Closure::new(("lanes", "lane panicked; instance in the default lane"), lane);
        let choice = Choice {
            header: None,
            default: Arc::from(""),
            fallback: LaneFallback::default(),
            shares: Vec::new(),
        };
        let division = Division::new(lane, policy);
        Self { division, weighted: Weighted::default(), choice, seed: None, random: None }
    }

    /// Sets the header by which a call names its lane, if it has no [`Lane`] in its extensions. Of several values the first one
    /// counts. Default: none.
    ///
    /// Whoever sends the header chooses the lane: a gateway should remove it from requests of the outside world.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName) -> Self {
        self.choice.header = Some(name);
        self
    }

    /// Sets the name of the default lane: instances with this value belong to it, besides those without a value, and calls
    /// that name it are as good as untagged ones, but for the [shares](Self::with_share). Default: it has no name.
    #[must_use]
    pub fn with_default_lane(mut self, name: impl Into<Arc<str>>) -> Self {
        self.choice.default = name.into();
        self
    }

    /// Sets what becomes of a call that names a lane without ready instances. Default: it goes to the default lane.
    #[must_use]
    pub fn with_fallback(mut self, fallback: LaneFallback) -> Self {
        self.choice.fallback = fallback;
        self
    }

    /// Sends a part of the untagged calls to a lane, from 0 to 1, while it has ready instances: a traffic split. Default:
    /// none. For several lanes it is set several times, together at most 1; for the same lane the last one counts.
    ///
    /// It is drawn once for each attempt. So a retry of a call that has failed in a canary mostly goes to the default lane. A
    /// call for which the canary has no stream capacity, or for which calls that name it wait, goes to the default lane; one of
    /// the default lane that has none waits. To send all attempts of a call to one lane, draw in an interceptor and set a
    /// [`Lane`].
    ///
    /// # Errors
    /// A part that is not from 0 to 1 is an error when the channel is made, and so are parts whose sum is above 1.
    #[must_use]
    pub fn with_share(mut self, lane: impl Into<Arc<str>>, part: f64) -> Self {
        let lane = lane.into();
        self.choice.shares.retain(|(other, _)| *other != lane);
        self.choice.shares.push((lane, part));
        self
    }

    /// Sets the seed of the random choices between lanes. Those within a lane are of its own policy.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl LoadBalancingPolicy for Lanes {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        let seed = self.seed;
        let random = self
            .random
            .get_or_insert_with(|| Arc::new(Random::new(seed.unwrap_or_else(|| fastrand::u64(..)))));
        let random = Arc::clone(random);
        self.division.update(ready, &self.choice.default);
        let draws = match self.choice.fallback {
            LaneFallback::AnyInstance => self.weighted.update(self.division.placed()),
            LaneFallback::DefaultLane | LaneFallback::Fail => None,
        };
        Arc::new(LanesPicker::new(&self.division, draws, self.choice.clone(), random))
    }

    fn others(&mut self, others: &Others) {
        self.division.others(others, &self.choice.default);
    }

    fn follows_others(&self) -> bool {
        true
    }

    fn due(&self) -> Option<Instant> {
        self.division.due()
    }

    fn has_slow_start(&self) -> bool {
        self.division.has_slow_start()
    }

    fn check(&self) -> Result<(), String> {
        let mut sum = 0.0;
        for (lane, part) in &self.choice.shares {
            if !(0.0..=1.0).contains(part) {
                return Err(format!("the share of lane {lane:?} is {part}, which is not between 0 and 1"));
            }
            sum += part;
        }
        // Ten tenths are a little less or more than one.
        if sum > 1.0 + 1e-9 {
            return Err(format!("the shares of the lanes are {sum} together, which is more than 1"));
        }
        self.division.check()
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests;
