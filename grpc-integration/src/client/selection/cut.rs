//! The first so many servers of an order, with others in place of those that cannot be reached.

use std::collections::{BTreeMap, BTreeSet};

use super::rank::Rank;
use crate::client::server_key::ServerKey;

/// At least so many may be taken beyond the subset's size, in place of servers that cannot be reached.
const SUBSTITUTES: usize = 20;

/// The servers of one tier, divided into those that are taken and the rest.
///
/// What is taken is the shortest beginning of the order in which so many servers are not failing, up to a bound: so one
/// change of the set moves at most one server in and one out.
#[derive(Debug)]
pub(super) struct Cut {
    most: usize,
    /// Whether each is failing.
    taken: BTreeMap<Rank, bool>,
    rest: BTreeSet<Rank>,
    failing: usize,
}

impl Cut {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: BTreeMap::new(), rest: BTreeSet::new(), failing: 0 }
    }

    /// Adds a server. To be followed by [`settle`](Self::settle), as [`remove`](Self::remove).
    pub(super) fn insert(&mut self, rank: Rank, is_failing: bool) {
        if self.rest.first().is_some_and(|first| *first < rank) {
            self.rest.insert(rank);
        } else {
            self.failing += usize::from(is_failing);
            self.taken.insert(rank, is_failing);
        }
    }

    pub(super) fn remove(&mut self, rank: &Rank) {
        match self.taken.remove(rank) {
            Some(is_failing) => self.failing -= usize::from(is_failing),
            None => drop(self.rest.remove(rank)),
        }
    }

    pub(super) fn is_taken(&self, rank: &Rank) -> bool {
        self.taken.contains_key(rank)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.rest.is_empty()
    }

    pub(super) fn taken(&self) -> impl Iterator<Item = &ServerKey> {
        self.taken.keys().map(|rank| &rank.key)
    }

    /// Takes or gives back what is next in the order, until enough are taken. Returns the server that it has moved, if
    /// there is one: to be called until there is none.
    pub(super) fn settle(&mut self) -> Option<ServerKey> {
        let bound = self.most.saturating_add(self.most.max(SUBSTITUTES));
        let good = self.taken.len() - self.failing;
        if good < self.most && self.taken.len() < bound {
            let rank = self.rest.pop_first()?;
            let key = rank.key.clone();
            self.taken.insert(rank, false);
            return Some(key);
        }
        let last = self.taken.last_entry()?;
        let is_failing = *last.get();
        let is_needed = self.taken_without(is_failing) < self.most;
        if is_needed && self.taken.len() <= bound {
            return None;
        }
        let (rank, _) = self.taken.pop_last()?;
        self.failing -= usize::from(is_failing);
        let key = rank.key.clone();
        self.rest.insert(rank);
        Some(key)
    }

    /// How many are taken and not failing, without the last one.
    fn taken_without(&self, last_is_failing: bool) -> usize {
        self.taken.len() - self.failing - usize::from(!last_is_failing)
    }
}

#[cfg(test)]
mod tests {
    use hither_core::Instance;

    use super::*;
    use crate::client::server_key::ServerKeys;

    /// What is to be taken, computed from nothing but the order.
    fn prefix(most: usize, all: &BTreeSet<Rank>, failing: &BTreeSet<Rank>) -> BTreeSet<Rank> {
        let (mut prefix, mut good) = (BTreeSet::new(), 0);
        for rank in all.iter().take(most + most.max(SUBSTITUTES)) {
            if good == most {
                break;
            }
            good += usize::from(!failing.contains(rank));
            prefix.insert(rank.clone());
        }
        prefix
    }

    #[test]
    fn random_changes_end_at_the_shortest_beginning_that_suffices() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let most = random.usize(1..30);
            // In every second round the bound is reached.
            let failures = if seed % 2 == 0 { 85 } else { 247 };
            let mut cut = Cut::new(most);
            let (mut all, mut failing) = (BTreeSet::new(), BTreeSet::<Rank>::new());
            for _ in 0..500 {
                let id = format!("h{}:1", random.u8(..90));
                let instance = Instance::new(id.parse().unwrap());
                let rank = Rank::new(seed, &instance, &ServerKeys::default().of(&instance));
                cut.remove(&rank);
                failing.remove(&rank);
                if random.u8(..4) == 0 {
                    all.remove(&rank);
                } else {
                    // Only what was taken is known to fail.
                    let fails = random.u8(..) < failures && prefix(most, &all, &failing).contains(&rank);
                    if fails {
                        failing.insert(rank.clone());
                    }
                    all.insert(rank.clone());
                    cut.insert(rank, fails);
                }
                while cut.settle().is_some() {
                    failing.retain(|rank| cut.is_taken(rank));
                }
                let taken: BTreeSet<_> = cut.taken.keys().cloned().collect();
                assert_eq!(taken, prefix(most, &all, &failing), "seed {seed}");
                assert_eq!(cut.taken.len() + cut.rest.len(), all.len());
                assert_eq!(cut.failing, failing.len());
            }
        }
    }
}
