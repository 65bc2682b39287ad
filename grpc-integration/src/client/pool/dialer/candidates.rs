//! The addresses that one attempt to connect goes through, in which order.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hither_core::{Address, AddressKind, Instance};
use tokio::time::{Instant, sleep_until, timeout};

use super::lookup::NameLookup;

/// How long the first attempt waits for names to be resolved, so that the order of the addresses is kept: the
/// resolution delay of RFC 8305.
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);
/// The maximum number of addresses of one name in one attempt. Of a name with more, each attempt takes others.
const PER_NAME: usize = 32;
/// The maximum number of addresses in one attempt.
const MAX: usize = 128;

/// One address to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Candidate {
    /// As it was registered.
    pub(super) address: Address,
    /// What the host name was resolved to.
    pub(super) socket_addr: Option<SocketAddr>,
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.socket_addr {
            Some(socket_addr) => write!(f, "{} ({socket_addr})", self.address),
            None => write!(f, "{}", self.address),
        }
    }
}

/// What a name was resolved to, or why it was not.
type Resolved = Result<Vec<SocketAddr>, String>;

/// What is known of a registered address.
enum Slot {
    /// It is a candidate as it is.
    Itself,
    /// It is a name that is being looked up.
    LookedUp,
    /// It is a name that was looked up.
    Resolved(Resolved),
}

/// The addresses of one instance: host names are resolved while the first addresses are being tried, families are
/// interleaved, and duplicates left out.
pub(super) struct Candidates<'a> {
    addresses: Vec<&'a Address>,
    /// One for each address, until the queue is begun.
    slots: Vec<Slot>,
    /// When the queue is begun, at the latest.
    begin: Instant,
    /// Each with the index of its address.
    lookups: FuturesUnordered<BoxFuture<'a, (usize, Resolved)>>,
    queue: Interleaved,
    failed: VecDeque<String>,
    seen: HashSet<Candidate>,
}

impl<'a> Candidates<'a> {
    /// Starts to resolve the names with `names`; without it they are candidates as they are. A lookup that takes
    /// longer than `limit` has failed.
    pub(super) fn of(instance: &'a Instance, names: Option<&'a dyn NameLookup>, limit: Duration) -> Self {
        let mut distinct = HashSet::new();
        let addresses: Vec<_> =
            instance.addresses().iter().filter(|address| distinct.insert(*address)).take(MAX).collect();
        let lookups = FuturesUnordered::new();
        let slot = |(index, address): (usize, &&'a Address)| match (address.kind(), names) {
            (AddressKind::Host { host, port }, Some(names)) => {
                let lookup = async move { (index, resolve(names, host, port, limit).await) };
                lookups.push(lookup.boxed());
                Slot::LookedUp
            }
            _ => Slot::Itself,
        };
        let slots = addresses.iter().enumerate().map(slot).collect();
        Self {
            addresses,
            slots,
            begin: Instant::now() + RESOLUTION_DELAY,
            lookups,
            queue: Interleaved::default(),
            failed: VecDeque::new(),
            seen: HashSet::new(),
        }
    }

    /// Completes with the next address to try, or with the failure to resolve a name; with `None` when there are no
    /// more.
    ///
    /// # Cancellation
    /// Safe: nothing is lost.
    pub(super) async fn next(&mut self) -> Option<Result<Candidate, String>> {
        while !self.slots.is_empty() {
            tokio::select! {
                biased;
                Some((index, resolved)) = self.lookups.next() => {
                    if let Some(slot) = self.slots.get_mut(index) {
                        *slot = Slot::Resolved(resolved);
                    }
                }
                () = sleep_until(self.begin), if !self.lookups.is_empty() => self.start(),
                else => self.start(),
            }
        }
        while let Some(Some((index, resolved))) = self.lookups.next().now_or_never() {
            self.admit(index, resolved);
        }
        loop {
            if let Some(failure) = self.failed.pop_front() {
                return Some(Err(failure));
            }
            if let Some(candidate) = self.queue.pop() {
                return Some(Ok(candidate));
            }
            let (index, resolved) = self.lookups.next().await?;
            self.admit(index, resolved);
        }
    }

    /// Begins the queue, with all that is known by now, in the order in which it was registered.
    fn start(&mut self) {
        for (index, slot) in std::mem::take(&mut self.slots).into_iter().enumerate() {
            match slot {
                Slot::Itself => self.push(index, None),
                Slot::LookedUp => {}
                Slot::Resolved(resolved) => self.admit(index, resolved),
            }
        }
    }

    fn admit(&mut self, index: usize, resolved: Resolved) {
        match resolved {
            Ok(socket_addrs) => {
                // Where a name has too many, each attempt begins at another one, so that none is never tried.
                let first =
                    if socket_addrs.len() > PER_NAME { fastrand::usize(..socket_addrs.len()) } else { 0 };
                let (before, after) = socket_addrs.split_at(first);
                for socket_addr in after.iter().chain(before).take(PER_NAME) {
                    self.push(index, Some(*socket_addr));
                }
            }
            Err(failure) => self.failed.push_back(failure),
        }
    }

    fn push(&mut self, index: usize, socket_addr: Option<SocketAddr>) {
        let Some(address) = self.addresses.get(index) else { return };
        let candidate = Candidate { address: Address::clone(address), socket_addr };
        if self.seen.len() < MAX && self.seen.insert(candidate.clone()) {
            self.queue.push(candidate);
        }
    }
}

async fn resolve(names: &dyn NameLookup, host: &str, port: u16, limit: Duration) -> Resolved {
    match timeout(limit, names.lookup(host, port)).await {
        Ok(Ok(socket_addrs)) if socket_addrs.is_empty() => Err(format!("{host} has no address")),
        Ok(Ok(socket_addrs)) => Ok(socket_addrs),
        Ok(Err(error)) => Err(format!("{host} not resolved: {}", hither_core::report(&error))),
        Err(_) => Err(format!("{host} not resolved within {limit:?}")),
    }
}

/// A queue in which the families of addresses take turns, each in its own order, the family of the first address
/// first (RFC 8305, section 4).
#[derive(Debug, Default)]
struct Interleaved {
    families: Vec<(Family, VecDeque<Candidate>)>,
    /// Whose turn it is.
    next: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    /// Unix domain sockets, and names that are not resolved here.
    Other,
}

impl Interleaved {
    fn push(&mut self, candidate: Candidate) {
        let family = Family::of(&candidate);
        match self.families.iter_mut().find(|(present, _)| *present == family) {
            Some((_, queue)) => queue.push_back(candidate),
            None => self.families.push((family, VecDeque::from([candidate]))),
        }
    }

    fn pop(&mut self) -> Option<Candidate> {
        for _ in 0..self.families.len() {
            let turn = self.next % self.families.len();
            self.next = turn + 1;
            if let Some(candidate) = self.families.get_mut(turn).and_then(|(_, queue)| queue.pop_front()) {
                return Some(candidate);
            }
        }
        None
    }
}

impl Family {
    fn of(candidate: &Candidate) -> Self {
        let socket_addr = match candidate.address.kind() {
            AddressKind::Socket(socket_addr) => Some(socket_addr),
            _ => candidate.socket_addr,
        };
        match socket_addr {
            // Over IPv4, whatever it is written as.
            Some(socket_addr) if socket_addr.ip().to_canonical().is_ipv4() => Self::V4,
            Some(_) => Self::V6,
            None => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lookup::tests::Names;
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn instance(addresses: &[&str]) -> Instance {
        let mut addresses = addresses.iter().map(|address| address.parse().unwrap());
        let first = Instance::new(addresses.next().unwrap());
        addresses.fold(first, Instance::with_address)
    }

    /// All candidates and failures as text, in order.
    async fn all(instance: &Instance, names: &Names) -> Vec<String> {
        let mut candidates = Candidates::of(instance, Some(names), LIMIT);
        let mut all = Vec::new();
        while let Some(next) = candidates.next().await {
            all.push(next.map_or_else(|failure| failure, |candidate| candidate.to_string()));
        }
        all
    }

    /// With unequal numbers too, where grpc/grpc#34804 went wrong, and without duplicates (grpc/grpc-go#8611).
    #[tokio::test(start_paused = true)]
    async fn families_take_turns_and_duplicates_are_left_out() {
        let names = Names::default().with("b", &["[::3]:1", "10.0.0.3:1", "[::3]:1", "10.0.0.4:1"]);
        let addresses = [
            "10.0.0.1:1",
            "10.0.0.1:1",
            "10.0.0.2:1",
            "b:1",
            "unix:///run/b",
            "b:1",
            "10.0.0.2:1",
            "[::4]:1",
        ];
        let expected = [
            "10.0.0.1:1",
            "b:1 ([::3]:1)",
            "unix:///run/b",
            "10.0.0.2:1",
            "[::4]:1",
            "b:1 (10.0.0.3:1)",
            "b:1 (10.0.0.4:1)",
        ];
        assert_eq!(all(&instance(&addresses), &names).await, expected);
        assert_eq!(names.count(), 1, "a name is looked up once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_mapped_address_is_one_of_ipv4() {
        let instance = instance(&["10.0.0.1:1", "[::ffff:10.0.0.2]:1", "[::1]:1"]);
        let expected = ["10.0.0.1:1", "[::1]:1", "[::ffff:10.0.0.2]:1"];
        assert_eq!(all(&instance, &Names::default()).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn without_resolution_names_are_candidates() {
        let instance = instance(&["b:1", "10.0.0.1:1", "c:1"]);
        let mut candidates = Candidates::of(&instance, None, LIMIT);
        for expected in ["b:1", "10.0.0.1:1", "c:1"] {
            assert_eq!(candidates.next().await.unwrap().unwrap().to_string(), expected);
        }
        assert_eq!(candidates.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_not_resolved_delays_the_others_by_50_ms_and_does_not_stop_them() {
        let names = Names::default().with("b", &["10.0.0.2:1"]).with("none", &[]).hanging("c");
        let instance = instance(&["c:1", "unknown:1", "none:1", "b:1", "10.0.0.1:1"]);
        let began = Instant::now();
        let mut candidates = Candidates::of(&instance, Some(&names), LIMIT);
        for expected in [
            Err("unknown not resolved: no such host".to_owned()),
            Err("none has no address".to_owned()),
            Ok("b:1 (10.0.0.2:1)".to_owned()),
            Ok("10.0.0.1:1".to_owned()),
        ] {
            let next = candidates.next().await.unwrap();
            assert_eq!(next.map(|candidate| candidate.to_string()), expected);
            assert_eq!(began.elapsed().as_millis(), RESOLUTION_DELAY.as_millis());
        }
        let hanging = candidates.next().await.unwrap().unwrap_err();
        assert_eq!(hanging, "c not resolved within 10s");
        assert_eq!(candidates.next().await, None);
        assert_eq!(began.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_name_with_a_thousand_addresses_each_attempt_takes_a_few_others() {
        let addresses: Vec<_> = (0..1000).map(|i| format!("10.0.{}.{}:1", i / 250, i % 250)).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let names = Names::default().with("b", &addresses);
        let instance = instance(&["b:1", "[::1]:1"]);
        let mut seen = HashSet::new();
        for _ in 0..100 {
            let taken = all(&instance, &names).await;
            assert_eq!(taken.len(), PER_NAME + 1);
            assert!(taken.contains(&"[::1]:1".to_owned()), "the other addresses keep their place");
            seen.extend(taken);
        }
        assert!(seen.len() > 900, "{}", seen.len());
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_with_a_thousand_addresses_is_tried_at_a_bounded_number() {
        let addresses: Vec<_> = (0..1000).map(|i| format!("h{i}:1")).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let names = Names::default();
        assert_eq!(all(&instance(&addresses), &names).await.len(), MAX);
        assert_eq!(names.count(), MAX);
    }
}
