//! Draining instances that are ejected.

use super::*;
use crate::client::outcomes::{AllOutcomes, Outcomes, Standing};

fn watched(lane: &str, number: usize, weight: u32, standing: Standing) -> ReadyInstance {
    let outcomes = Arc::new(Outcomes::new(0, &Arc::new(AllOutcomes::new(None))));
    outcomes.probation().set(standing);
    ReadyInstance::in_pool(described(lane, number, weight), &Arc::default(), Some(outcomes))
}

fn restand(instance: &ReadyInstance, standing: Standing) {
    instance.outcomes().unwrap().probation().set(standing);
}

#[test]
fn a_lane_whose_draining_instances_are_all_ejected_counts_as_without_instances() {
    use LaneFallback::{AnyInstance, DefaultLane, Fail};
    let no_b = "no instance of the lane \"b\" is ready";
    for (fallback, expected) in [(DefaultLane, "-"), (AnyInstance, "-"), (Fail, no_b)] {
        let (lanes, _) = lanes();
        let mut lanes = lanes.with_fallback(fallback);
        let draining = watched("b", 0, 1, Standing::Ejected);
        lanes.others(&Others::new(SortedById::new(), SortedById::from_iter([draining.clone()])));
        let picker = lanes.picker(&instances(&[("", 1)]));
        assert_eq!(pick(&*picker, Some(b"b"), None), expected);
        // Which makes no other picker.
        for standing in [Standing::In, Standing::Probing] {
            restand(&draining, standing);
            assert_eq!(pick(&*picker, Some(b"b"), None), "b");
        }
        restand(&draining, Standing::Ejected);
        assert_eq!(pick(&*picker, Some(b"b"), None), expected);
        // And the next one of the lane is waited for.
        let next = SortedById::from_iter([described("b", 1, 1)]);
        lanes.others(&Others::new(next, SortedById::from_iter([draining.clone()])));
        let picker = lanes.picker(&instances(&[("", 1)]));
        assert_eq!(pick(&*picker, Some(b"b"), None), "wait");
        restand(&draining, Standing::In);
        assert_eq!(pick(&*picker, Some(b"b"), None), "b");
    }
    // It is no better as the default lane.
    let (mut lanes, _) = lanes();
    let draining = SortedById::from_iter([watched("", 0, 1, Standing::Ejected)]);
    lanes.others(&Others::new(SortedById::new(), draining));
    let picker = lanes.picker(&instances(&[("a", 1)]));
    assert_eq!(pick(&*picker, None, None), "no instance of the default lane is ready");
    assert_eq!(pick(&*picker, Some(b"b"), None), no_b);
}

#[test]
fn calls_of_other_lanes_go_to_a_draining_default_lane_while_its_next_instance_is_connected_to() {
    let (mut lanes, _) = lanes();
    let draining = watched("", 0, 1, Standing::In);
    let next = SortedById::from_iter([described("", 1, 1)]);
    lanes.others(&Others::new(next, SortedById::from_iter([draining.clone()])));
    let picker = lanes.picker(&instances(&[("a", 1)]));
    assert_eq!([None, Some("b")].map(|lane| pick(&*picker, None, lane)), ["-", "-"]);
    restand(&draining, Standing::Ejected);
    assert_eq!([None, Some("b")].map(|lane| pick(&*picker, None, lane)), ["wait", "wait"]);
}

/// The policy, which would pick the first one, knows nothing of it.
#[test]
fn of_draining_instances_those_that_are_not_ejected_are_called() {
    use Standing::{Ejected, In, Probing};
    for (draining, expected) in [
        (&[(1, In), (1, In)][..], ids(["b-000"])),
        (&[(1, Ejected), (1, In), (1, Ejected), (1, Probing)], ids(["b-001", "b-003"])),
        (&[(1, Ejected), (0, In), (1, In)], ids(["b-002"])),
        (&[(1, Ejected), (0, In)], ids(["b-001"])),
    ] {
        let (mut lanes, log) = lanes();
        let numbered = draining.iter().enumerate();
        let all = numbered.map(|(number, (weight, standing))| watched("b", number, *weight, *standing));
        lanes.others(&Others::new(SortedById::new(), all.collect()));
        let picker = lanes.picker(&instances(&[("", 1)]));
        log.take();
        assert_eq!(picks(&*picker, "b"), expected);
        let told = log.take();
        assert_eq!(told.len(), if draining[0].1 == Ejected { 100 } else { 0 });
        assert!(told.iter().all(|told| told == "unsent done by b-000: b-000"), "{told:?}");
    }
}

/// The channel has filtered them: if there is one, too many are.
#[test]
fn a_ready_instance_is_called_also_if_it_is_ejected() {
    let (mut lanes, _) = lanes();
    let mut ready = instances(&[("", 1)]);
    ready.insert(watched("b", 0, 1, Standing::Ejected));
    ready.insert(watched("b", 1, 1, Standing::In));
    assert_eq!(picks(&*lanes.picker(&ready), "b"), ids(["b-000"]));
}
