//! Sticky: all calls to one instance.

use std::sync::Arc;

use hither_core::SortedById;

use super::policy::{CallInfo, LoadBalancingPolicy, Pick, Picker};
use crate::client::ready_instance::ReadyInstance;

/// Sends all calls to the first ready instance, by id, and stays with it for as long as it is ready.
///
/// One of [weight](ReadyInstance::weight) 0 is chosen only where no other is ready, and is left for the first one that is:
/// so a server that sets its weight to 0 gets no more calls. Other weights change nothing.
///
/// Unlike gRPC's `pick_first` ([`Selection::pick_first`](crate::Selection::pick_first)) it connects to the others too, so that failover is immediate. They also take the calls
/// for which the first has no stream capacity (MAX_CONCURRENT_STREAMS), and the next one by id those that come while its
/// connection is replaced.
///
/// ```
/// use hither_tonic::Sticky;
///
/// let policy = Sticky::default();
/// ```
#[derive(Debug, Clone, Default)]
pub struct Sticky {
    chosen: Option<ReadyInstance>,
}

impl LoadBalancingPolicy for Sticky {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        let last = self.chosen.as_ref();
        let has_weight = |instance: &&ReadyInstance| instance.weight() > 0.0;
        // By its id, which is not always that of its server's last record; then by its connections.
        let kept = last
            .and_then(|last| ready.get(last.instance().id()))
            .filter(|instance| Some(*instance) == last)
            .or_else(|| ready.iter().find(|instance| Some(*instance) == last));
        let first = || ready.iter().find(has_weight);
        self.chosen = kept.filter(has_weight).or_else(first).or(kept).or(ready.at(0)).cloned();
        let spare = ready.iter().find(|one| Some(*one) != self.chosen.as_ref() && has_weight(one)).cloned();
        Arc::new(StickyPicker { chosen: self.chosen.clone(), spare })
    }
}

#[derive(Debug)]
struct StickyPicker {
    chosen: Option<ReadyInstance>,
    /// Takes the calls while the connection of the chosen one is replaced.
    spare: Option<ReadyInstance>,
}

impl Picker for StickyPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        let Some(chosen) = &self.chosen else { return Pick::Queue };
        let picked = match &self.spare {
            Some(spare) if chosen.is_disconnected() => spare,
            _ => chosen,
        };
        Pick::Instance(picked.clone().into())
    }
}

#[cfg(test)]
mod tests {
    use hither_core::Instance;

    use super::*;

    fn instance(id: &str, weight: u32) -> Arc<Instance> {
        Arc::new(Instance::new("h:1".parse().unwrap()).with_id(id.parse().unwrap()).with_weight(weight))
    }

    fn chosen(policy: &mut Sticky, ready: &SortedById<ReadyInstance>) -> String {
        policy.picker(ready);
        policy.chosen.as_ref().unwrap().instance().id().to_string()
    }

    #[test]
    fn it_stays_with_one_until_its_weight_is_zero_and_another_one_has_some() {
        let mut policy = Sticky::default();
        let mut ready: SortedById<_> = [("a", 0), ("b", 1), ("c", 1)]
            .map(|(id, weight)| ReadyInstance::new(instance(id, weight)))
            .into_iter()
            .collect();
        let set = |ready: &mut SortedById<ReadyInstance>, id: &str, weight| {
            let described = instance(id, weight);
            let known = ready.get(described.id()).unwrap().described_as(described);
            ready.insert(known);
        };
        assert_eq!(chosen(&mut policy, &ready), "b");
        set(&mut ready, "a", 5);
        assert_eq!(chosen(&mut policy, &ready), "b");
        set(&mut ready, "b", 0);
        assert_eq!(chosen(&mut policy, &ready), "a");
        set(&mut ready, "b", 9);
        assert_eq!(chosen(&mut policy, &ready), "a", "it stays there");
        set(&mut ready, "b", 0);
        set(&mut ready, "c", 0);
        set(&mut ready, "a", 0);
        assert_eq!(chosen(&mut policy, &ready), "a", "there is none better");
        set(&mut ready, "c", 1);
        assert_eq!(chosen(&mut policy, &ready), "c");
        set(&mut ready, "c", 0);
        assert_eq!(chosen(&mut policy, &ready), "c", "there is none better");
        assert_eq!(chosen(&mut Sticky::default(), &ready), "a", "and none was chosen before");
    }

    #[test]
    fn it_stays_with_the_server_and_not_with_its_id() {
        let mut policy = Sticky::default();
        let [a, b] = ["a", "b"].map(|id| ReadyInstance::new(instance(id, 1)));
        assert_eq!(chosen(&mut policy, &[a.clone(), b.clone()].into_iter().collect()), "a");
        // Another record of it counts now, and its id is that of another server.
        let renamed = [a.described_as(instance("c", 1)), b, ReadyInstance::new(instance("a", 1))];
        assert_eq!(chosen(&mut policy, &renamed.into_iter().collect()), "c");
    }
}
