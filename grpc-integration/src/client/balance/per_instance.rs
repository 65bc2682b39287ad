//! What a policy keeps of each ready instance.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use hither_core::{HasId, InstanceId, SortedById};

use crate::client::ready_instance::ReadyInstance;

/// A state of the policy's own for each ready instance, such as what it has measured there: for authors of a
/// [`LoadBalancingPolicy`](crate::LoadBalancingPolicy).
///
/// An instance keeps its state for as long as it is ready, whatever changes of its description, also its id. An
/// [`update`](Self::update) costs what has changed.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use hither_core::SortedById;
/// use hither_tonic::{CallInfo, InstanceWith, LoadBalancingPolicy, Outcome, PerInstance, Pick, Picked, Picker, ReadyInstance};
/// use tonic::Code;
///
/// /// Picks the instance that has failed the fewest calls.
/// #[derive(Debug, Default)]
/// struct FewestFailures(PerInstance<AtomicUsize>);
///
/// #[derive(Debug)]
/// struct FewestFailuresPicker(SortedById<InstanceWith<AtomicUsize>>);
///
/// impl LoadBalancingPolicy for FewestFailures {
///     fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
///         Arc::new(FewestFailuresPicker(self.0.update(ready, |_instance| AtomicUsize::new(0)).clone()))
///     }
/// }
///
/// impl Picker for FewestFailuresPicker {
///     fn pick(&self, _call: &CallInfo<'_>) -> Pick {
///         match self.0.iter().min_by_key(|known| known.state().load(Ordering::Relaxed)) {
///             Some(known) => Pick::Instance(known.instance().clone().into()),
///             None => Pick::Queue,
///         }
///     }
///
///     fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
///         // A call that was given up, or an instance that was full, is no failure.
///         let has_failed = outcome.was_sent() && !matches!(outcome.code(), Code::Ok | Code::Cancelled);
///         if let Some(known) = self.0.get(picked.instance().instance().id()).filter(|_| has_failed) {
///             known.state().fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
/// ```
pub struct PerInstance<S> {
    ready: SortedById<ReadyInstance>,
    states: SortedById<InstanceWith<S>>,
}

impl<S> PerInstance<S> {
    /// Takes over the ready instances, and makes a state for those that were not ready before. Returns all of them, in the
    /// same order; a clone of it costs nothing.
    ///
    /// # Panics
    /// If `make` does; then nothing has changed.
    pub fn update(
        &mut self,
        ready: &SortedById<ReadyInstance>,
        mut make: impl FnMut(&ReadyInstance) -> S,
    ) -> &SortedById<InstanceWith<S>> {
        if ready.is_same(&self.ready) {
            return &self.states;
        }
        let mut states = self.states.clone();
        let mut gone = HashMap::new();
        for (old, new) in ready.merge(&self.ready) {
            if let Some(old) = old
                && new.is_none_or(|new| new != old)
                && let Some(known) = states.remove(old.id())
            {
                gone.insert(known.instance.key(), known);
            }
        }
        for (old, new) in ready.merge(&self.ready) {
            let Some(new) = new.filter(|new| !old.is_some_and(|old| old.is_same(new))) else { continue };
            let known = states.get(new.id()).map(|known| Arc::clone(&known.state));
            // It may have another id now.
            let known = known.or_else(|| gone.remove(&new.key()).map(|known| known.state));
            let state = known.unwrap_or_else(|| Arc::new(make(new)));
            states.insert(InstanceWith { instance: new.clone(), state });
        }
        self.ready = ready.clone();
        self.states = states;
        &self.states
    }
}

impl<S> Default for PerInstance<S> {
    fn default() -> Self {
        Self { ready: SortedById::new(), states: SortedById::new() }
    }
}

impl<S: fmt::Debug> fmt::Debug for PerInstance<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.states).finish()
    }
}

/// A ready instance, and what a policy keeps of it: of [`PerInstance`]. Cheap to clone; clones share the state.
#[derive(Debug)]
pub struct InstanceWith<S> {
    instance: ReadyInstance,
    state: Arc<S>,
}

impl<S> InstanceWith<S> {
    /// Returns the instance.
    pub fn instance(&self) -> &ReadyInstance {
        &self.instance
    }

    /// Returns the state.
    pub fn state(&self) -> &S {
        &self.state
    }
}

impl<S> Clone for InstanceWith<S> {
    fn clone(&self) -> Self {
        Self { instance: self.instance.clone(), state: Arc::clone(&self.state) }
    }
}

impl<S> HasId for InstanceWith<S> {
    fn id(&self) -> &InstanceId {
        self.instance.id()
    }
}

impl<S> AsRef<ReadyInstance> for InstanceWith<S> {
    fn as_ref(&self) -> &ReadyInstance {
        &self.instance
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use hither_core::Instance;

    use super::*;

    fn described(id: usize, weight: u32) -> Arc<Instance> {
        let instance = Instance::new("h:1".parse().unwrap()).with_id(format!("i{id:06}").parse().unwrap());
        Arc::new(instance.with_weight(weight))
    }

    #[test]
    fn random_changes_keep_the_state_of_what_stays_and_make_one_for_what_is_new() {
        for seed in 0..20 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut ready = SortedById::<ReadyInstance>::new();
            let (mut states, mut made) = (PerInstance::default(), 0);
            let mut model = Vec::<(ReadyInstance, usize)>::new();
            for _ in 0..100 {
                for _ in 0..random.usize(1..10) {
                    let (id, other) = (random.usize(..400), random.usize(..400));
                    let description = described(id, random.u32(..9));
                    match (ready.get(description.id()).cloned(), random.u8(..5)) {
                        (Some(_), 0) => drop(ready.remove(description.id())),
                        (Some(known), 1) => drop(ready.insert(known.described_as(description))),
                        (Some(known), 2) => {
                            ready.remove(description.id());
                            ready.insert(known.described_as(described(other, 1)));
                        }
                        _ => drop(ready.insert(ReadyInstance::new(description))),
                    }
                }
                let list = states.update(&ready, |_| {
                    made += 1;
                    made
                });
                assert!(list.iter().map(InstanceWith::instance).eq(&ready), "seed {seed}");
                assert!(list.iter().zip(&ready).all(|(known, ready)| known.instance.is_same(ready)));
                for known in list {
                    match model.iter().find(|(instance, _)| instance == known.instance()) {
                        Some((_, state)) => assert_eq!(state, known.state(), "it was ready before"),
                        None => assert!(model.iter().all(|(_, state)| state != known.state())),
                    }
                }
                model = list.iter().map(|known| (known.instance.clone(), *known.state)).collect();
            }
        }
    }

    #[test]
    fn a_change_of_one_costs_little_and_makes_no_other_state() {
        let mut ready: SortedById<_> = (0..50_000).map(|id| ReadyInstance::new(described(id, 1))).collect();
        let mut states = PerInstance::default();
        let before = states.update(&ready, |_| ()).clone();
        ready.insert(ready[25_000].described_as(described(25_000, 7)));
        let after = states.update(&ready, |_| panic!("it is known")).clone();
        assert!(after.merge(&before).count() <= 600, "the lists share the rest");
        assert_eq!(after[25_000].instance().weight(), 7.0);
    }

    #[test]
    fn after_a_panic_it_goes_on_from_where_it_was() {
        let mut ready: SortedById<_> = (0..5).map(|id| ReadyInstance::new(described(id, 1))).collect();
        let mut states = PerInstance::default();
        states.update(&ready, |_| 1);
        ready.remove(described(0, 1).id());
        ready.insert(ReadyInstance::new(described(9, 1)));
        let update = AssertUnwindSafe(|| states.update(&ready, |_| panic!("as expected")).len());
        catch_unwind(update).unwrap_err();
        let list = states.update(&ready, |_| 2);
        assert_eq!(list.iter().map(|known| *known.state()).collect::<Vec<_>>(), [1, 1, 1, 1, 2]);
    }
}
