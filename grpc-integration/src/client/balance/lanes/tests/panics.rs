//! Policies and closures that panic.

use super::*;

#[test]
fn an_instance_for_which_the_closure_panics_is_in_the_default_lane() {
    let mut lanes = Lanes::by(
        |instance| Some(instance.metadata()["lane"].clone()),
        || First { log: Log::default(), after: None, due: None },
    );
    let picker = lanes.picker(&instances(&[("", 1), ("a", 1)]));
    assert_eq!(pick(&*picker, None, None), "-");
    assert_eq!(pick(&*picker, None, Some("a")), "a");
}

fn with(
    all: &SortedById<ReadyInstance>,
    lane: &str,
    number: usize,
    weight: u32,
) -> SortedById<ReadyInstance> {
    let mut all = all.clone();
    all.insert(ReadyInstance::new(described(lane, number, weight)));
    all
}

fn without(all: &SortedById<ReadyInstance>, id: &str) -> SortedById<ReadyInstance> {
    let mut all = all.clone();
    all.remove(&id.parse().unwrap()).unwrap();
    all
}

#[test]
fn a_panic_of_a_policy_is_one_of_its_lane_which_keeps_its_last_picker() {
    let (mut lanes, log) = lanes();
    let all = instances(&[("", 1), ("a", 1), ("b", 1)]);
    lanes.picker(&all);
    log.take();
    // Those after it have theirs all the same.
    let all = with(&with(&all, "a", 13, 1), "b", 8, 1);
    let picker = lanes.picker(&all);
    assert_eq!(log.take(), ["picker b-002 b-008"]);
    assert_eq!(picks(&*picker, "a"), ids(["a-001"]));
    // It is asked again with each change, and only it.
    let fixed = without(&all, "a-013");
    let picker = lanes.picker(&fixed);
    assert_eq!(log.take(), ["picker a-001"]);
    assert_eq!(picks(&*picker, "a"), ids(["a-001"]));
}

#[test]
fn what_an_old_picker_of_a_lane_picks_is_replaced_if_it_is_in_the_lane_no_longer() {
    let (lanes, log) = lanes();
    let mut lanes = lanes.with_fallback(LaneFallback::Fail);
    let all = instances(&[("", 1), ("a", 1), ("a", 1), ("a", 0)]);
    lanes.picker(&all);
    let all = with(&all, "a", 13, 1);
    let gone = without(&all, "a-001");
    let moved = {
        let instance = (**all.get(&"a-001".parse().unwrap()).unwrap().instance()).clone();
        let ready = all.get(&"a-001".parse().unwrap()).unwrap();
        let mut all = all.clone();
        all.insert(ready.described_as(Arc::new(instance.with_metadata("lane", "c"))));
        all
    };
    let weightless = {
        let mut all = all.clone();
        all.insert(all[1].with_factor(0.0));
        all
    };
    let another = with(&gone, "a", 1, 1);
    // Then they are all as good.
    let all_weightless = all.iter().map(|instance| instance.with_factor(0.0)).collect();
    let gone_weightless = gone.iter().map(|instance| instance.with_factor(0.0)).collect();
    for (all, expected) in [
        (&all, ids(["a-001"])),
        (&gone, ids(["a-002", "a-013"])),
        (&moved, ids(["a-002", "a-013"])),
        (&weightless, ids(["a-002", "a-013"])),
        (&another, ids(["a-001", "a-002", "a-013"])),
        (&all_weightless, ids(["a-001"])),
        (&gone_weightless, ids(["a-002", "a-003", "a-013"])),
    ] {
        let picker = lanes.picker(all);
        log.take();
        assert_eq!(picks(&*picker, "a"), expected);
        // The policy is told, as for each pick that comes to nothing.
        let told = log.take();
        assert_eq!(told.len(), if expected.len() == 1 { 0 } else { 100 });
        assert!(told.iter().all(|told| told == "unsent done by a-001: a-001"), "{told:?}");
    }
}

#[test]
fn a_lane_whose_policy_has_made_no_picker_counts_as_without_instances() {
    use LaneFallback::{AnyInstance, DefaultLane, Fail};
    for (fallback, expected) in [(DefaultLane, "-"), (AnyInstance, "any"), (Fail, "panic")] {
        let (lanes, _) = lanes();
        let mut lanes = lanes.with_fallback(fallback).with_share("a", 1.0);
        let picker = lanes.picker(&with(&instances(&[("", 1)]), "a", 13, 1));
        assert_eq!(pick(&*picker, None, None), "-", "{fallback:?}");
        let (headers, mut extensions) = (HeaderMap::new(), Extensions::new());
        extensions.insert(Lane::new("a"));
        for _ in 0..20 {
            match picker.pick(&CallInfo::new("/", &headers, &extensions)) {
                Pick::Instance(picked) if expected == "-" => {
                    assert_eq!(picked.instance().id().as_str(), "-000");
                }
                Pick::Instance(_) => assert_eq!(expected, "any"),
                Pick::Fail(status) => {
                    assert_eq!((expected, status.code()), ("panic", Code::Internal));
                    let text = "tests::First panicked in picker: a bug";
                    assert!(status.message().ends_with(text), "{status:?}");
                }
                pick => panic!("{pick:?}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_policy_has_panicked_is_due_with_the_next_change_and_not_before() {
    let (mut lanes, _) = due(Some(Duration::from_secs(2)));
    let ready = instances(&[("a", 1)]);
    lanes.picker(&ready);
    assert!(lanes.due().is_some());
    lanes.picker(&with(&ready, "a", 13, 1));
    assert_eq!(lanes.due(), None);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_due_is_none_and_leaves_the_picker() {
    let (mut lanes, log) = due(Some(Duration::from_secs(13)));
    let ready = instances(&[("", 1)]);
    let picker = lanes.picker(&ready);
    assert_eq!((lanes.due(), pick(&*picker, None, None).as_str()), (None, "-"));
    lanes.picker(&ready);
    assert_eq!(log.take().len(), 1);
}

/// A policy that panics when it is dropped.
#[derive(Debug)]
struct Dropped(First);

impl LoadBalancingPolicy for Dropped {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        self.0.picker(ready)
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.log.add("dropped", &mut std::iter::empty());
        panic!("a bug");
    }
}

#[test]
fn a_policy_that_panics_when_it_is_dropped_harms_no_other() {
    let log = Log::default();
    let policy = {
        let log = log.clone();
        move || Dropped(First { log: log.clone(), after: None, due: None })
    };
    let mut lanes = Lanes::by_metadata("lane", policy);
    let all = instances(&[("", 1), ("a", 1)]);
    lanes.picker(&all);
    log.take();
    lanes.picker(&without(&all, "a-001"));
    assert_eq!(log.take(), ["dropped "]);
    drop(lanes);
    assert_eq!(log.take(), ["dropped "]);
}
