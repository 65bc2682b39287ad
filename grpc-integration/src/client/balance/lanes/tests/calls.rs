//! Where calls go.

use std::sync::{LazyLock, OnceLock};

use super::*;
use crate::client::balance::RingHash;

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
    // An empty name is as good as none, also where no other lane answers for one that is missing, and for the shares.
    for (share, expected) in [(0.0, "-"), (1.0, "a")] {
        let lanes = lanes().0.with_default_lane("b").with_fallback(LaneFallback::Fail).with_share("a", share);
        assert_eq!(pick(&*{ lanes }.picker(&ready), Some(b"a"), Some("")), expected);
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
        (DefaultLane, &[("", 0), ("a", 1)], "-", "-"),
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
    let mut lanes = lanes.with_fallback(LaneFallback::AnyInstance);
    let picker = lanes.picker(&ready);
    let picked: BTreeSet<_> = (0..100).map(|_| pick(&*picker, None, None)).collect();
    assert_eq!(picked.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b", "d"]);
    // Without weights that differ.
    let picker = lanes.picker(&instances(&[("a", 1), ("b", 1)]));
    let picked: BTreeSet<_> = (0..100).map(|_| pick(&*picker, None, None)).collect();
    assert_eq!(picked.iter().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
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
fn slow_start_is_as_the_policy_of_the_lanes_has_it() {
    assert!(lanes().0.has_slow_start());
    assert!(!Lanes::by_metadata("lane", RingHash::default).has_slow_start());
}

/// One of weight 0 for a call that asks for it by name, for example.
#[test]
fn what_a_picker_picks_is_not_questioned_while_it_is_the_present_one() {
    let picker = lanes().0.picker(&instances(&[("a", 0), ("a", 1)]));
    let (headers, mut extensions) = (HeaderMap::new(), Extensions::new());
    extensions.insert(Lane::new("a"));
    for _ in 0..20 {
        let Pick::Instance(picked) = picker.pick(&CallInfo::new("/", &headers, &extensions)) else {
            panic!()
        };
        assert_eq!((picked.instance().id().as_str(), picked.token()), ("a-000", 7));
    }
}

#[test]
fn what_is_drawn_follows_the_seed() {
    let drawn = |seed| {
        let lanes = lanes().0.with_share("a", 0.5).with_seed(seed);
        let picker = { lanes }.picker(&instances(&[("", 1), ("a", 1)]));
        (0..64).map(|_| pick(&*picker, None, None)).collect::<String>()
    };
    assert_eq!(drawn(1), drawn(1));
    assert_ne!(drawn(1), drawn(2));
}

#[test]
fn settings_that_make_no_sense_are_errors_that_name_them() {
    let lanes = || lanes().0;
    for parts in [&[0.3, 0.7][..], &[0.0, 1.0], &[0.05, 0.55, 0.3, 0.1], &[0.1; 10], &[]] {
        let share = |lanes: Lanes, (number, part): (usize, &f64)| lanes.with_share(number.to_string(), *part);
        assert_eq!(parts.iter().enumerate().fold(lanes(), share).check(), Ok(()), "{parts:?}");
    }
    for (lanes, expected) in [
        (lanes().with_share("a", 5.0), "the share of lane \"a\" is 5, which is not between 0 and 1"),
        (lanes().with_share("a", -0.1), "the share of lane \"a\" is -0.1, which is not between 0 and 1"),
        (lanes().with_share("a", f64::NAN), "the share of lane \"a\" is NaN, which is not between 0 and 1"),
        (
            lanes().with_share("a", 0.75).with_share("b", 0.375),
            "the shares of the lanes are 1.125 together, which is more than 1",
        ),
        (due(Some(Duration::ZERO)).0, "first"),
    ] {
        assert_eq!(lanes.check().unwrap_err(), expected);
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

/// A call that names no lane, and what is drawn for it.
fn untagged(drawn: &OnceLock<u64>) -> CallInfo<'_> {
    static NONE: LazyLock<(HeaderMap, Extensions)> = LazyLock::new(Default::default);
    CallInfo::new("/", &NONE.0, &NONE.1).of_attempt(0, drawn)
}

#[test]
fn lanes_within_lanes_draw_independently_with_the_same_seed() {
    let inner = || {
        let version = |instance: &Instance| instance.version().map(str::to_owned);
        let first = || First { log: Log::default(), after: None, due: None };
        Lanes::by(version, first).with_share("v2", 0.5).with_seed(1)
    };
    let mut lanes = Lanes::by_metadata("lane", inner).with_share("a", 0.5).with_seed(1);
    let all = [("", ""), ("", "v2"), ("a", ""), ("a", "v2")].into_iter().enumerate();
    let ready = all.map(|(number, (lane, version))| {
        let instance = (*described(lane, number, 1)).clone();
        let instance = if version.is_empty() { instance } else { instance.with_version(version) };
        ReadyInstance::new(Arc::new(instance))
    });
    let ready = ready.collect();
    let picker = lanes.picker(&ready);
    let mut counts = [0; 4];
    for _ in 0..10_000 {
        let drawn = OnceLock::new();
        let Pick::Instance(picked) = picker.pick(&untagged(&drawn)) else { panic!() };
        // It is drawn once for an attempt.
        let Pick::Instance(again) = picker.pick(&untagged(&drawn)) else { panic!() };
        assert_eq!(picked, again);
        counts[ready.position(picked.instance().id()).unwrap()] += 1;
    }
    // Five standard deviations.
    assert!(counts.iter().all(|count| (2283..=2717).contains(count)), "{counts:?}");
}

#[tokio::test]
async fn a_drawn_call_goes_to_the_default_lane_while_calls_wait_for_the_one_that_was_drawn() {
    for (lanes_of, instead) in [(&["", "a"][..], "-"), (&["a"], "a")] {
        let (lanes, _) = lanes();
        let mut lanes = lanes.with_share("a", 1.0);
        let ready: Vec<_> = lanes_of.iter().map(|lane| (*lane, 1)).collect();
        let picker = lanes.picker(&instances(&ready));
        let group = Arc::clone(&lanes.division.pickers()["a"].group);
        let waiting = group.waiters().join().await;
        assert_eq!(pick(&*picker, None, None), instead);
        assert_eq!(pick(&*picker, None, Some("a")), "a");
        drop(waiting);
        assert_eq!(pick(&*picker, None, None), "a");
    }
}
