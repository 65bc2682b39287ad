//! The subchannels by what they are good for, kept up with each change of one.

use std::collections::BTreeMap;
use std::sync::Arc;

use hither_core::{Instance, SortedById};

use super::connecting_lists::ConnectingLists;
use super::ready_lists::ReadyLists;
use crate::client::balance::Others;
use crate::client::ready_instance::ReadyInstance;
use crate::client::selection::{List, Share};
use crate::client::status::Connectivity;

/// The ready instances, and why others are not ready.
#[derive(Debug, Default)]
pub(super) struct Tally {
    ready: ReadyLists,
    connecting: usize,
    /// Those that are ready, and whose last connection is being replaced.
    replaced: usize,
    connecting_lists: ConnectingLists,
    /// Why instances cannot be connected to, the latest failure last.
    failures: BTreeMap<u64, Arc<str>>,
    last_failure: u64,
}

/// What one subchannel counts as.
#[derive(Debug, Default)]
pub(super) enum Counted {
    #[default]
    Nothing,
    Connecting(Arc<Instance>, List),
    Failing(u64),
    /// Also while its connection is replaced.
    Ready(Ready),
}

#[derive(Debug)]
pub(super) struct Ready {
    pub(super) instance: ReadyInstance,
    pub(super) list: List,
    pub(super) is_replaced: bool,
}

impl Tally {
    /// Counts a subchannel anew.
    pub(super) fn count(
        &mut self,
        counted: &mut Counted,
        list: List,
        instance: &ReadyInstance,
        connectivity: Connectivity,
        connects: bool,
    ) {
        match (&mut *counted, &connectivity) {
            (Counted::Ready(known), Connectivity::Ready | Connectivity::Replacing)
                if known.list == list && known.instance.instance().id() == instance.instance().id() =>
            {
                let is_replaced = connectivity == Connectivity::Replacing;
                let is_described = !Arc::ptr_eq(known.instance.instance(), instance.instance());
                if is_described {
                    self.ready.insert(list, instance);
                }
                self.replaced += usize::from(is_replaced);
                self.replaced -= usize::from(known.is_replaced);
                if known.is_replaced && (is_described || !is_replaced) {
                    self.connecting_lists.remove(list, known.instance.instance());
                }
                if is_replaced && (is_described || !known.is_replaced) {
                    self.connecting_lists.insert(list, instance);
                }
                *known = Ready { instance: instance.clone(), list, is_replaced };
                return;
            }
            (Counted::Connecting(known, before), Connectivity::Connecting)
                if *before == list && Arc::ptr_eq(known, instance.instance()) =>
            {
                return;
            }
            (Counted::Failing(failure), Connectivity::TransientFailure(cause))
                if self.failures.get(failure).is_some_and(|known| Arc::ptr_eq(known, cause)) =>
            {
                return;
            }
            _ => {}
        }
        self.forget(counted);
        *counted = match connectivity {
            Connectivity::Ready | Connectivity::Replacing => {
                let is_replaced = connectivity == Connectivity::Replacing;
                self.ready.insert(list, instance);
                if is_replaced {
                    self.replaced += 1;
                    self.connecting_lists.insert(list, instance);
                }
                Counted::Ready(Ready { instance: instance.clone(), list, is_replaced })
            }
            Connectivity::TransientFailure(cause) => {
                self.last_failure += 1;
                self.failures.insert(self.last_failure, cause);
                Counted::Failing(self.last_failure)
            }
            Connectivity::Idle if !connects => Counted::Nothing,
            Connectivity::Connecting | Connectivity::Idle => {
                self.connecting += 1;
                self.connecting_lists.insert(list, instance);
                Counted::Connecting(Arc::clone(instance.instance()), list)
            }
        };
    }

    /// Counts a subchannel no more.
    pub(super) fn forget(&mut self, counted: &mut Counted) {
        match std::mem::take(counted) {
            Counted::Nothing => {}
            Counted::Connecting(instance, list) => {
                self.connecting -= 1;
                self.connecting_lists.remove(list, &instance);
            }
            Counted::Failing(failure) => drop(self.failures.remove(&failure)),
            Counted::Ready(Ready { instance, list, is_replaced }) => {
                self.ready.remove(list, &instance);
                if is_replaced {
                    self.replaced -= 1;
                    self.connecting_lists.remove(list, instance.instance());
                }
            }
        }
    }

    /// Returns the instances that can be called, where each tier is to have this share of the calls.
    pub(super) async fn callable(&mut self, shares: &[Share]) -> SortedById<ReadyInstance> {
        self.ready.callable(shares).await
    }

    /// Returns how many are ready, connecting and failing, as statuses show them.
    pub(super) fn counts(&self) -> [usize; 3] {
        [self.ready.len() - self.replaced, self.connecting + self.replaced, self.failures.len()]
    }

    pub(super) fn any_ready(&self) -> bool {
        self.ready.len() > 0
    }

    /// Whether an instance is being connected to.
    pub(super) fn any_connecting(&self) -> bool {
        self.connecting > 0
    }

    /// Returns the instances that policies may know of besides the ready ones, where these tiers take calls.
    pub(super) fn others(&mut self, shares: &[Share]) -> Others {
        Others::new(self.connecting_lists.of(shares).clone(), self.ready.draining())
    }

    /// Whether an instance that has a weight is being connected to.
    pub(super) fn any_weight_connecting(&self) -> bool {
        self.connecting_lists.any_weight()
    }

    /// Returns the latest failure of those that are failing.
    pub(super) fn last_error(&self) -> Option<&Arc<str>> {
        self.failures.last_key_value().map(|(_, cause)| cause)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    struct Member {
        list: List,
        instance: ReadyInstance,
        connectivity: Connectivity,
        connects: bool,
        counted: Counted,
    }

    fn instance(random: &mut fastrand::Rng, id: usize) -> Arc<Instance> {
        let instance = Instance::new("h:1".parse().unwrap()).with_id(format!("i{id:02}").parse().unwrap());
        Arc::new(instance.with_weight(random.u32(1..4)))
    }

    fn connectivity(random: &mut fastrand::Rng) -> Connectivity {
        match random.u8(..7) {
            0 => Connectivity::Idle,
            1 => Connectivity::Connecting,
            2 => Connectivity::TransientFailure("refused".into()),
            3 => Connectivity::Replacing,
            _ => Connectivity::Ready,
        }
    }

    fn is_as_counted_anew(tally: &mut Tally, members: &BTreeMap<usize, Member>) {
        let ready = |draining: bool| {
            let is_ready = |member: &&Member| {
                matches!(member.connectivity, Connectivity::Ready | Connectivity::Replacing)
            };
            let ready = members.values().filter(is_ready);
            let these = ready.filter(|member| (member.list == List::Draining) == draining);
            these.map(|member| member.instance.clone()).collect::<SortedById<_>>()
        };
        let expected = Some(ready(false)).filter(|ready| !ready.is_empty()).unwrap_or_else(|| ready(true));
        let callable = tally.callable(&[]).now_or_never().unwrap();
        assert_eq!(callable, expected);
        for (counted, expected) in callable.iter().zip(&expected) {
            assert!(Arc::ptr_eq(counted.instance(), expected.instance()), "an old description");
        }
        let connecting = |member: &&Member| match member.connectivity {
            Connectivity::Connecting => true,
            Connectivity::Idle => member.connects,
            Connectivity::Ready | Connectivity::Replacing | Connectivity::TransientFailure(_) => false,
        };
        assert_eq!(tally.connecting, members.values().filter(connecting).count());
        let replaced = |member: &&Member| member.connectivity == Connectivity::Replacing;
        assert_eq!(tally.replaced, members.values().filter(replaced).count());
        let others = tally.others(&[]);
        assert!(others.is_same(&tally.others(&[])), "nothing has changed");
        let awaited = |member: &&Member| {
            member.list == List::UP && (connecting(member) || member.connectivity == Connectivity::Replacing)
        };
        let awaited = members.values().filter(awaited).map(|member| member.instance.instance());
        assert!(awaited.clone().count() == others.connecting().len());
        for instance in awaited {
            let told = others.connecting().get(instance.id());
            assert!(told.is_some_and(|told| Arc::ptr_eq(told, instance)), "an old description");
        }
        assert_eq!(*others.draining(), ready(true));
        let failing = |member: &&Member| matches!(member.connectivity, Connectivity::TransientFailure(_));
        assert_eq!(tally.failures.len(), members.values().filter(failing).count());
    }

    #[test]
    fn random_changes_end_as_if_all_were_counted_anew() {
        for seed in 0..50 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut tally = Tally::default();
            let mut members = BTreeMap::<usize, Member>::new();
            for _ in 0..400 {
                let id = random.usize(..20);
                let description = instance(&mut random, id);
                let known = members.remove(&id);
                let mut member = match (random.u8(..5), known) {
                    (0, Some(mut known)) => {
                        tally.forget(&mut known.counted);
                        continue;
                    }
                    (1, Some(known)) => {
                        Member { instance: known.instance.described_as(description), ..known }
                    }
                    // The record of another id counts now.
                    (2, Some(known)) if random.bool() => {
                        let other = instance(&mut random, id + 20);
                        Member { instance: known.instance.described_as(other), ..known }
                    }
                    (2, Some(known)) => known,
                    (_, Some(known)) => Member { connectivity: connectivity(&mut random), ..known },
                    (_, None) => Member {
                        list: List::UP,
                        instance: ReadyInstance::new(description),
                        connectivity: connectivity(&mut random),
                        connects: true,
                        counted: Counted::Nothing,
                    },
                };
                member.list = [List::UP, List::Draining][random.usize(..2)];
                member.connects = random.bool();
                let Member { list, instance, connectivity, connects, counted } = &mut member;
                tally.count(counted, *list, instance, connectivity.clone(), *connects);
                members.insert(id, member);
                is_as_counted_anew(&mut tally, &members);
            }
        }
    }

    #[test]
    fn what_has_not_changed_makes_no_new_list() {
        let mut tally = Tally::default();
        let (mut counted, one) =
            (Counted::default(), ReadyInstance::new(instance(&mut fastrand::Rng::with_seed(1), 1)));
        tally.count(&mut counted, List::UP, &one, Connectivity::Ready, true);
        let before = tally.callable(&[]).now_or_never().unwrap();
        tally.count(&mut counted, List::UP, &one, Connectivity::Ready, false);
        assert!(before.is_same(&tally.callable(&[]).now_or_never().unwrap()));
        let one = one.described_as(instance(&mut fastrand::Rng::with_seed(2), 1));
        tally.count(&mut counted, List::UP, &one, Connectivity::Ready, true);
        let described = tally.callable(&[]).now_or_never().unwrap();
        assert!(!before.is_same(&described));
        tally.count(&mut counted, List::UP, &one, Connectivity::Ready, true);
        assert!(described.is_same(&tally.callable(&[]).now_or_never().unwrap()));
    }

    #[test]
    fn the_latest_failure_of_those_that_are_failing_is_told() {
        let mut tally = Tally::default();
        let mut random = fastrand::Rng::with_seed(1);
        let mut members =
            [1, 2].map(|id| (Counted::default(), ReadyInstance::new(instance(&mut random, id))));
        let causes = ["first", "second"].map(Arc::<str>::from);
        let mut fail = |tally: &mut Tally, member: usize, cause: &Arc<str>| {
            let (counted, instance) = &mut members[member];
            let failure = Connectivity::TransientFailure(Arc::clone(cause));
            tally.count(counted, List::UP, instance, failure, true);
            tally.last_error().map(|cause| cause.to_string()).unwrap()
        };
        assert_eq!(fail(&mut tally, 0, &causes[0]), "first");
        assert_eq!(fail(&mut tally, 1, &causes[1]), "second");
        assert_eq!(
            fail(&mut tally, 0, &causes[0]),
            "second",
            "the first is counted anew, and has not failed again"
        );
        assert_eq!(fail(&mut tally, 0, &"third".into()), "third");
        tally.forget(&mut members[0].0);
        assert_eq!(tally.last_error().map(|cause| &**cause), Some("second"));
    }
}
