//! Ring hash: calls with the same key to the same instance.

mod bound;
mod connecting;
mod ring;

use std::sync::Arc;

use hither_core::{HasId, SortedById};
use http::HeaderName;
use tokio::time::Instant;

use super::others::Others;
use super::policy::{CallInfo, LoadBalancingPolicy, Pick, Picker};
use super::random::Random;
use crate::client::ready_instance::ReadyInstance;
use bound::{Bound, LOOKS};
use connecting::Connecting;
use ring::{Ring, hash};

/// Sends all calls with the same key to the same instance, for as long as it is ready or being connected to: consistent hashing,
/// for caches and sessions. What gRPC calls `ring_hash_experimental` (gRFC A42 and A76) and Envoy `RING_HASH`.
///
/// The key of a call is a [`HashKey`] in the request's extensions, or else the value of the [`header`](Self::header); a
/// call with neither goes to a random instance. The key of an instance is its id. So all clients that have the same
/// instances send the same key to the same one, also after restarts; [slow start](crate::SlowStart) has no effect, because it
/// would be another one for each client.
///
/// An instance that leaves or joins moves only the keys that it had or gets: one of `n` about `1/n` of all. A
/// [weight](ReadyInstance::weight) that changes moves what its share of the keys has changed by; weight 0 is picked only when no
/// other instance is ready.
///
/// The keys are in 16,384 slots, and each slot belongs to one instance (rendezvous hashing), whatever their number and weights:
/// so memory is bounded to some 300 KiB. By chance an instance that has `s` of them by its weight has between `s − 2√s` and
/// `s + 2√s`; of a hundred equal ones a share is off by 16 % at most, mostly. With more than some thousand instances a few
/// have none: use a [`subset`](crate::Selection::subset), with one seed for all channels. The pick of a key costs the same with any number
/// of instances, and each one that joins or leaves the time of 16,384 short draws, some 50 µs; its first connection takes about as
/// long once more. Those that join or leave at once, as the whole list of a large service or a tier that takes over, are drawn in
/// one go: 10,000 hold up a thread of the runtime for half a second.
///
/// gRPC's ring has hashes of the instances' addresses in it, and a number of them that depends on all weights: its clients
/// send a key to other instances than these.
///
/// # While an instance is connected to
///
/// An instance has its keys from when the channel begins to connect to it: their calls wait until it is ready, as in gRPC. So each
/// key is at its instance from the first call on, and stays there while a connection that was closed is replaced, as one of a server
/// that restarts its connections at a maximum age. An instance that is not ready after a second or so is passed over until it is, and
/// one that cannot be connected to is at once. A call without a key waits for no instance while another one is connected.
///
/// # A full instance
///
/// A call for whose instance no stream can be opened, because it has as many as its connections allow, goes to another one
/// ([`Picker::pick`](crate::Picker::pick)), and so may one that comes just when the last connection is lost, before the channel
/// has noticed. The load is not balanced otherwise, unless [`with_balance_factor`](Self::with_balance_factor) bounds that of each
/// instance.
///
/// ```
/// use hither_tonic::{HashKey, RingHash};
/// use http::HeaderName;
///
/// let by_header = RingHash::header(HeaderName::from_static("x-user"));
/// let by_extension = RingHash::default();
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(HashKey::of("user 7"));
/// ```
#[derive(Debug, Default)]
pub struct RingHash {
    header: Option<HeaderName>,
    seed: Option<u64>,
    bound: Option<Bound>,
    connecting: Connecting,
    ring: Ring,
}

/// The key of a call for [`RingHash`], in the request's extensions. It is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashKey(u64);

impl HashKey {
    /// Returns the key of some bytes: a user, a session, a shard.
    pub fn of(key: impl AsRef<[u8]>) -> Self {
        Self(hash(key.as_ref()))
    }
}

impl RingHash {
    /// Returns a policy whose keys are the values of this header; several are joined by commas, as in A76.
    #[must_use]
    pub fn header(name: HeaderName) -> Self {
        Self { header: Some(name), ..Self::default() }
    }

    /// Bounds the load of an instance to so many per cent of the mean, 100 or more: consistent hashing with bounded loads
    /// (Mirrokni, Thorup and Zadimoghaddam, 2016). Default: no bound. What Envoy calls `hash_balance_factor`; 125 to 200 is
    /// usual.
    ///
    /// A ready instance has room for `ceil(percent / 100 * (calls + 1) / instances)` calls, where `calls` are those that this channel
    /// has in flight by this policy, on whichever instance, and `instances` are the ready ones; where weights differ, for its share
    /// by weight of them all, and for one at least. A call whose instance has no room goes to the
    /// next one on the ring that has, and to none that is being connected to. So a key that is called too often for one server spreads over the next ones, always
    /// in the same order, and all other keys stay where they are as long as their own instance has room.
    ///
    /// A lower number balances better and moves more calls. With few calls in flight there is little room anywhere, and
    /// one that comes while its instance has a call may go to another one.
    ///
    /// A pick looks at `percent / (percent - 100)` slots of the ring on average at most where all instances are loaded, five of
    /// them with 125, and never at more than 256 of them: if none of those has room, the call goes to its own instance.
    ///
    /// ```
    /// use hither_tonic::RingHash;
    ///
    /// let policy = RingHash::default().with_balance_factor(150);
    /// ```
    ///
    /// # Errors
    /// Less than 100 is an error when the channel is made.
    #[must_use]
    pub fn with_balance_factor(mut self, percent: u32) -> Self {
        self.bound = Some(Bound::new(percent));
        self
    }

    /// Sets the seed of the random choices for calls without a key.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

impl LoadBalancingPolicy for RingHash {
    fn has_slow_start(&self) -> bool {
        false
    }

    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        self.connecting.give_up();
        let awaited = self.connecting.awaited();
        self.ring.update(ready, awaited);
        let random = Random::new(self.seed.unwrap_or_else(|| fastrand::u64(..)));
        let (ring, header, bound) = (self.ring.clone(), self.header.clone(), self.bound.clone());
        let awaited = Some(awaited.clone()).filter(|awaited| !awaited.is_empty());
        Arc::new(RingHashPicker { ring, awaited, header, bound, random })
    }

    fn others(&mut self, others: &Others) {
        self.connecting.update(others.connecting());
    }

    fn follows_others(&self) -> bool {
        true
    }

    fn due(&self) -> Option<Instant> {
        self.connecting.due()
    }

    fn check(&self) -> Result<(), String> {
        self.bound.as_ref().map_or(Ok(()), Bound::check)
    }
}

#[derive(Debug)]
struct RingHashPicker {
    ring: Ring,
    /// Those that are being connected to, if there are any.
    awaited: Option<SortedById<ReadyInstance>>,
    header: Option<HeaderName>,
    bound: Option<Bound>,
    random: Random,
}

impl RingHashPicker {
    fn key(&self, call: &CallInfo<'_>) -> Option<u64> {
        if let Some(HashKey(key)) = call.extensions().get() {
            return Some(*key);
        }
        let mut values = call.headers().get_all(self.header.as_ref()?).iter();
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(hash(first.as_bytes())) };
        let all: Vec<_> = [first, second].into_iter().chain(values).map(|value| value.as_bytes()).collect();
        Some(hash(&all.join(&b","[..])))
    }

    /// Picks while these are being connected to.
    fn pick_beside(&self, awaited: &SortedById<ReadyInstance>, key: Option<u64>) -> Pick {
        // One that is ready, too, may be connected since. It is looked up only if it is not: many may be connected to.
        let is_awaited =
            |instance: &ReadyInstance| instance.is_disconnected() && awaited.get(instance.id()).is_some();
        if let Some(own) = key.and_then(|key| self.ring.from(key).next())
            && is_awaited(own)
        {
            return Pick::Wait(
                format!("the instance of the call's key, {}, is being connected to", own.id()).into(),
            );
        }
        let hash = key.unwrap_or_else(|| self.random.draw());
        let takes = |instance: &ReadyInstance| !is_awaited(instance);
        let found = match &self.bound {
            None => self.ring.from(hash).take(LOOKS).find(|instance| takes(instance)),
            Some(bound) => bound.find(&self.ring, hash, takes),
        };
        // None of them takes calls where the connections of all that are ready are replaced.
        let found = found.or_else(|| self.ring.any(hash, takes)).or_else(|| self.ring.any(hash, |_| true));
        found.map_or(Pick::Queue, |found| self.picked(found))
    }

    fn picked(&self, instance: &ReadyInstance) -> Pick {
        let picked = instance.clone().into();
        Pick::Instance(match &self.bound {
            None => picked,
            Some(bound) => bound.count(picked),
        })
    }
}

impl Picker for RingHashPicker {
    fn pick(&self, call: &CallInfo<'_>) -> Pick {
        let key = self.key(call);
        if let Some(awaited) = &self.awaited {
            return self.pick_beside(awaited, key);
        }
        let hash = key.unwrap_or_else(|| self.random.draw());
        let found = match &self.bound {
            None => self.ring.from(hash).next(),
            Some(bound) => bound.find(&self.ring, hash, |_| true),
        };
        found.map_or(Pick::Queue, |found| self.picked(found))
    }
}

#[cfg(test)]
mod tests {
    use hither_core::{HasId, Instance};
    use http::{Extensions, HeaderMap};

    use super::*;

    fn ready() -> SortedById<ReadyInstance> {
        let id = |id: usize| format!("10.0.0.{id}:80").parse().unwrap();
        (0..20).map(|number| ReadyInstance::new(Arc::new(Instance::new(id(number))))).collect()
    }

    fn pick(picker: &dyn Picker, headers: &[&'static str], key: Option<HashKey>) -> String {
        let mut extensions = Extensions::new();
        key.map(|key| extensions.insert(key));
        let mut map = HeaderMap::new();
        for value in headers {
            map.append("x-user", value.parse().unwrap());
        }
        match picker.pick(&CallInfo::new("/", &map, &extensions)) {
            Pick::Instance(picked) => picked.instance().id().to_string(),
            pick => panic!("{pick:?}"),
        }
    }

    #[test]
    fn the_key_is_the_extension_or_the_header_and_chance_without_both() {
        let ready = ready();
        let picker = RingHash::header(HeaderName::from_static("x-user")).with_seed(1).picker(&ready);
        let other = RingHash::default().with_seed(2).picker(&ready);
        for key in ["a", "b", "c", "d", "e"] {
            let of_header = pick(&*picker, &[key], None);
            assert_eq!(pick(&*picker, &["other"], Some(HashKey::of(key))), of_header);
            assert_eq!(pick(&*other, &[], Some(HashKey::of(key))), of_header, "of another client");
        }
        assert_eq!(pick(&*picker, &["a", "b", "c"], None), pick(&*picker, &["a,b,c"], None));
        let random: std::collections::BTreeSet<_> = (0..200).map(|_| pick(&*picker, &[], None)).collect();
        assert!(random.len() > 15, "{random:?}");
    }
}
