//! Lanes without a channel.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::time::Duration;

use hither_core::HasId;
use http::{Extensions, HeaderMap, HeaderValue};
use tonic::Code;

use super::super::policy::{CallInfo, Outcome, Pick};
use super::*;
use crate::client::ready_instance::Picked;

/// An instance of a lane, by which its id begins; of the default lane if that is empty.
fn described(lane: &str, number: usize, weight: u32) -> Arc<Instance> {
    let id = format!("{lane}-{number:03}").parse().unwrap();
    let instance = Instance::new("h:1".parse().unwrap()).with_id(id).with_weight(weight);
    Arc::new(if lane.is_empty() { instance } else { instance.with_metadata("lane", lane) })
}

fn instances(lanes: &[(&str, u32)]) -> SortedById<ReadyInstance> {
    let numbered = lanes.iter().enumerate();
    numbered.map(|(number, (lane, weight))| ReadyInstance::new(described(lane, number, *weight))).collect()
}

/// What the policies of all lanes were asked and told.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, event: &str, instances: &mut dyn Iterator<Item = &ReadyInstance>) {
        let ids: Vec<_> = instances.map(|instance| instance.id().as_str()).collect();
        self.0.lock().unwrap().push(format!("{event} {}", ids.join(" ")));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Picks the first instance, is due so long after each picker, and panics over an instance of weight 13.
#[derive(Debug)]
struct First {
    log: Log,
    after: Option<Duration>,
    due: Option<Instant>,
}

#[derive(Debug)]
struct FirstPicker(Log, ReadyInstance);

impl LoadBalancingPolicy for First {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        assert!(!ready.iter().any(|instance| instance.weight() == 13.0), "a bug");
        self.log.add("picker", &mut ready.iter());
        self.due = self.after.map(|after| Instant::now() + after);
        Arc::new(FirstPicker(self.log.clone(), ready[0].clone()))
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn check(&self) -> Result<(), String> {
        match self.after {
            Some(Duration::ZERO) => Err("first".to_owned()),
            _ => Ok(()),
        }
    }
}

impl Picker for FirstPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        Pick::Instance(Picked::from(self.1.clone()).with_token(7))
    }

    fn responding(&self, picked: &Picked, _after: Duration) {
        self.0.add("responding:", &mut [picked.instance()].into_iter());
    }

    fn done(&self, picked: &Picked, _outcome: &Outcome<'_>) {
        assert_eq!(picked.token(), 7);
        self.0.add(&format!("done by {}:", self.1.id()), &mut [picked.instance()].into_iter());
    }
}

fn lanes() -> (Lanes, Log) {
    due(None)
}

fn due(after: Option<Duration>) -> (Lanes, Log) {
    let log = Log::default();
    let policy = {
        let log = log.clone();
        move || First { log: log.clone(), after, due: None }
    };
    let lanes = Lanes::by_metadata("lane", policy).with_header(HeaderName::from_static("x-lane"));
    (lanes.with_seed(1), log)
}

/// The first letter of the id of what is picked, "-" for the default lane, or the text of the failure.
fn pick(picker: &dyn Picker, header: Option<&[u8]>, lane: Option<&'static str>) -> String {
    let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
    header.map(|value| headers.insert("x-lane", HeaderValue::from_bytes(value).unwrap()));
    lane.map(|lane| extensions.insert(Lane::new(lane)));
    match picker.pick(&CallInfo::new("/", &headers, &extensions)) {
        Pick::Instance(picked) => picked.instance().id().as_str()[..1].to_owned(),
        Pick::Fail(status) if status.code() == Code::Unavailable => status.message().to_owned(),
        pick => panic!("{pick:?}"),
    }
}

#[test]
fn a_call_goes_to_the_lane_of_its_extension_or_of_its_header_and_untagged_to_the_default() {
    let ready = instances(&[("", 1), ("a", 1), ("b", 1), ("default", 1)]);
    for (default, untagged) in [("", "-"), ("default", "-"), ("b", "-"), ("none", "-")] {
        let (lanes, _) = lanes();
        let picker = lanes.with_default_lane(default).picker(&ready);
        for (header, lane, expected) in [
            (None, None, untagged),
            (Some(&b"a"[..]), None, "a"),
            (None, Some("a"), "a"),
            (Some(b"b"), Some("a"), "a"),
            (Some(b"a"), Some(""), untagged),
            (Some(b""), None, untagged),
            (Some(b"\xff"), None, untagged),
            (Some(b"c"), None, untagged),
        ] {
            assert_eq!(pick(&*picker, header, lane), expected, "{default:?}, {header:?}, {lane:?}");
        }
    }
    // Those of that name belong to it, besides those without a name.
    let (lanes, log) = lanes();
    lanes.with_default_lane("b").picker(&ready);
    assert!(log.take().contains(&"picker -000 b-002".to_owned()));
}

#[test]
fn what_a_call_to_a_lane_without_instances_or_weight_does_is_as_set() {
    use LaneFallback::{AnyInstance, DefaultLane, Fail};
    let no_b = "no instance of the lane \"b\" is ready";
    let no_default = "no instance of the default lane is ready";
    for (fallback, ready, tagged_b, untagged) in [
        (DefaultLane, &[("", 1), ("a", 1)][..], "-", "-"),
        (DefaultLane, &[("a", 1)], no_b, no_default),
        (DefaultLane, &[("", 1), ("b", 0)], "-", "-"),
        (DefaultLane, &[("", 0), ("b", 0)], "b", "-"),
        (DefaultLane, &[("a", 1), ("b", 0)], "b", no_default),
        (Fail, &[("", 1), ("a", 1)], no_b, "-"),
        (Fail, &[("b", 0), ("", 1)], "b", "-"),
        (Fail, &[("b", 1)], "b", no_default),
        (AnyInstance, &[("a", 1)], "a", "a"),
        (AnyInstance, &[("a", 1), ("b", 0), ("", 0)], "a", "a"),
        (AnyInstance, &[("b", 0)], "b", "b"),
    ] {
        let (lanes, _) = lanes();
        let picker = lanes.with_fallback(fallback).picker(&instances(ready));
        let picked = (pick(&*picker, Some(b"b"), None), pick(&*picker, None, None));
        assert_eq!((picked.0.as_str(), picked.1.as_str()), (tagged_b, untagged), "{fallback:?}, {ready:?}");
    }
}

#[test]
fn any_instance_is_one_of_all_lanes() {
    let ready = instances(&[("a", 1), ("b", 1), ("c", 0), ("d", 1)]);
    let (lanes, _) = lanes();
    let picker = lanes.with_fallback(LaneFallback::AnyInstance).picker(&ready);
    let picked: BTreeSet<_> = (0..100).map(|_| pick(&*picker, None, None)).collect();
    assert_eq!(picked.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "d"]);
}

#[test]
fn shares_are_of_the_untagged_calls_and_only_while_the_lane_has_weight() {
    let shared = || lanes().0.with_share("a", 0.9).with_share("a", 0.05).with_share("b", 0.2);
    let mut lanes = shared();
    let count = |lanes: &mut Lanes, ready: &SortedById<ReadyInstance>, tag: Option<&'static str>| {
        // The draws go on over changes.
        let pickers: Vec<_> = (0..10).map(|_| lanes.picker(ready)).collect();
        let picks: Vec<_> = (0..10_000).map(|call| pick(&*pickers[call % 10], None, tag)).collect();
        ["-", "a", "b"].map(|lane| picks.iter().filter(|picked| *picked == lane).count())
    };
    let all = instances(&[("", 1), ("a", 1), ("b", 1), ("main", 1)]);
    let [default, a, b] = count(&mut lanes, &all, None);
    // Five standard deviations.
    assert!((390..610).contains(&a) && (1800..2200).contains(&b) && default + a + b == 10_000, "{a}, {b}");
    assert_eq!(count(&mut lanes, &all, Some("a")), [0, 10_000, 0]);
    // It names the default lane.
    assert_eq!(count(&mut shared().with_default_lane("main"), &all, Some("main")), [10_000, 0, 0]);
    let [_, a, b] = count(&mut shared(), &instances(&[("", 1), ("a", 0)]), None);
    assert_eq!((a, b), (0, 0));
    // It is what calls of the default lane would go to that is missing, and not the canary.
    let picker = shared().picker(&instances(&[("a", 1), ("b", 1)]));
    let picks: BTreeSet<_> = (0..200).map(|_| pick(&*picker, None, None)).collect();
    assert_eq!(picks.len(), 3, "{picks:?}");
}

#[test]
fn settings_that_make_no_sense_are_errors_that_name_them() {
    let lanes = || lanes().0;
    assert_eq!(lanes().with_share("a", 0.3).with_share("b", 0.7).check(), Ok(()));
    for (lanes, expected) in [
        (lanes().with_share("a", 5.0), "the share of lane \"a\" is 5, which is not between 0 and 1"),
        (lanes().with_share("a", -0.1), "the share of lane \"a\" is -0.1, which is not between 0 and 1"),
        (lanes().with_share("a", f64::NAN), "the share of lane \"a\" is NaN, which is not between 0 and 1"),
        (
            lanes().with_share("a", 0.75).with_share("b", 0.5),
            "the shares of the lanes are 1.25 together, which is more than 1",
        ),
        (due(Some(Duration::ZERO)).0, "first"),
    ] {
        assert_eq!(lanes.check().unwrap_err(), expected);
    }
}

#[test]
fn a_change_is_told_to_the_policies_of_its_lanes_alone_and_policies_are_kept() {
    let made = Arc::new(Mutex::new(0));
    let log = Log::default();
    let policy = {
        let (made, log) = (Arc::clone(&made), log.clone());
        move || {
            *made.lock().unwrap() += 1;
            First { log: log.clone(), after: None, due: None }
        }
    };
    let mut lanes = Lanes::by_metadata("lane", policy);
    let mut all = instances(&[("", 1), ("a", 1), ("a", 1), ("b", 1)]);
    lanes.picker(&all);
    assert_eq!(log.take(), ["picker -000", "picker a-001 a-002", "picker b-003"]);
    lanes.picker(&all);
    assert!(log.take().is_empty());
    // Its weight by slow start.
    all.insert(all[0].with_factor(0.5));
    lanes.picker(&all);
    assert_eq!(log.take(), ["picker -000"]);
    // It moves, and is the last one of its lane.
    let b = all.remove(&"b-003".parse().unwrap()).unwrap();
    let moved = Arc::new((**b.instance()).clone().with_metadata("lane", "a"));
    all.insert(b.described_as(moved));
    lanes.picker(&all);
    assert_eq!(log.take(), ["picker a-001 a-002 b-003"]);
    assert_eq!(*made.lock().unwrap(), 3);
    assert_eq!(format!("{:?}", lanes.division).matches("First").count(), 2, "that of b is dropped");
}

#[test]
fn random_changes_end_as_if_all_were_divided_anew() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut lanes, _) = lanes();
        let mut ready = SortedById::<ReadyInstance>::new();
        for _ in 0..100 {
            for _ in 0..random.usize(1..6) {
                let id = format!("i{:02}", random.u8(..30));
                let description = Instance::new("h:1".parse().unwrap()).with_id(id.parse().unwrap());
                let description = description.with_weight(random.u32(..3));
                let lane = ["", "a", "b", "c"][random.usize(..4)];
                let description = Arc::new(match lane {
                    "" => description,
                    lane => description.with_metadata("lane", lane),
                });
                match (ready.get(description.id()).cloned(), random.u8(..4)) {
                    (Some(known), 0) => drop(ready.remove(known.id())),
                    (Some(known), 1) => drop(ready.insert(known.with_factor(random.f64()))),
                    (Some(known), _) => drop(ready.insert(known.described_as(description))),
                    (None, _) => drop(ready.insert(ReadyInstance::new(description))),
                }
            }
            lanes.division.update(&ready, &lanes.choice.default);
            let pickers = lanes.division.pickers();
            let mut seen = 0;
            for (name, lane) in &pickers {
                for instance in lane.group.instances() {
                    let of = instance.instance().metadata().get("lane").map_or("", String::as_str);
                    assert_eq!(of, &**name, "seed {seed}");
                    assert!(ready.get(instance.id()).unwrap().is_same(instance), "an old description");
                    seen += 1;
                }
                let has_weight = lane.group.instances().iter().any(|instance| instance.weight() > 0.0);
                assert_eq!(lane.has_weight, has_weight);
            }
            assert_eq!(seen, ready.len());
            assert!(pickers.values().all(|lane| !lane.group.instances().is_empty()));
            assert!(lanes.division.placed().iter().map(|placed| &placed.instance).eq(&ready));
        }
    }
}

#[test]
fn an_outcome_is_told_to_the_picker_of_its_lane() {
    let (mut lanes, log) = lanes();
    let all = instances(&[("", 1), ("a", 1)]);
    let picker = lanes.picker(&all);
    log.take();
    let (headers, mut extensions) = (HeaderMap::new(), Extensions::new());
    extensions.insert(Lane::new("a"));
    let Pick::Instance(picked) = picker.pick(&CallInfo::new("/", &headers, &extensions)) else { panic!() };
    picker.responding(&picked, Duration::ZERO);
    picker.done(&picked, &Outcome::new(Code::Ok, Duration::ZERO));
    assert_eq!(log.take(), ["responding: a-001", "done by a-001: a-001"]);
    // It is unknown.
    picker.done(&instances(&[("c", 1)])[0].clone().into(), &Outcome::new(Code::Ok, Duration::ZERO));
    assert!(log.take().is_empty());
}

#[test]
fn after_a_panic_of_a_policy_what_is_missing_is_made_the_next_time() {
    let (mut lanes, log) = lanes();
    let mut all = instances(&[("", 1), ("a", 1), ("b", 1)]);
    all.insert(ReadyInstance::new(described("a", 7, 13)));
    catch_unwind(AssertUnwindSafe(|| lanes.picker(&all))).unwrap_err();
    assert_eq!(log.take(), ["picker -000"]);
    all.remove(&"a-007".parse().unwrap());
    let picker = lanes.picker(&all);
    assert_eq!(log.take(), ["picker a-001", "picker b-002"]);
    assert_eq!(pick(&*picker, Some(b"a"), None), "a");
}

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

#[tokio::test(start_paused = true)]
async fn a_lane_whose_policy_is_due_gets_another_picker() {
    let (mut lanes, log) = due(Some(Duration::from_secs(2)));
    let mut all = instances(&[("", 1)]);
    lanes.picker(&all);
    let first = lanes.due().unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    all.insert(ReadyInstance::new(described("a", 1, 1)));
    lanes.picker(&all);
    assert_eq!((lanes.due(), log.take().len()), (Some(first), 2));
    tokio::time::advance(Duration::from_secs(1)).await;
    lanes.picker(&all);
    assert_eq!(log.take(), ["picker -000"]);
    assert_eq!(lanes.due(), Some(first + Duration::from_secs(1)), "that of the other lane");
}

#[test]
fn a_change_of_one_of_many_copies_little() {
    let mut all: SortedById<_> =
        (0..50_000).map(|number| ReadyInstance::new(described(["", "a"][number % 2], number, 1))).collect();
    let (mut lanes, _) = lanes();
    lanes.division.update(&all, &lanes.choice.default);
    let before = lanes.division.pickers();
    let placed = lanes.division.placed().clone();
    all.insert(ReadyInstance::new(described("a", 1, 2)));
    lanes.division.update(&all, &lanes.choice.default);
    let after = lanes.division.pickers();
    assert!(after[""].group.instances().is_same(before[""].group.instances()));
    let changed = after["a"].group.instances().merge(before["a"].group.instances()).count();
    assert!(changed <= 600, "{changed}");
    assert!(lanes.division.placed().merge(&placed).count() <= 600);
}
