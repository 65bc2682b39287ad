//! Lanes with instances that are being connected to.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Instances that are being connected to, whose ids are others than those of [`instances`].
fn connecting(lanes: &[(&str, u32)]) -> Others {
    let numbered = lanes.iter().enumerate();
    let all = numbered.map(|(number, (lane, weight))| described(lane, 100 + number, *weight));
    Others::new(all.collect(), SortedById::new())
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_what_is_better_than_where_it_could_go_for_a_second() {
    use LaneFallback::{AnyInstance, DefaultLane, Fail};
    let no_default = "no instance of the default lane is ready";
    for (fallback, ready, awaited, tagged_b, untagged) in [
        (DefaultLane, &[("", 1)][..], ("b", 1), ["wait", "-"], ["-", "-"]),
        (DefaultLane, &[("a", 1)], ("b", 1), ["wait", "wait"], [no_default; 2]),
        (AnyInstance, &[("a", 1)], ("b", 1), ["wait", "a"], ["a", "a"]),
        (Fail, &[("a", 1)], ("b", 1), ["wait", "wait"], [no_default; 2]),
        // What its own lane has was taken out by weight 0.
        (DefaultLane, &[("", 1), ("b", 0)], ("b", 1), ["wait", "-"], ["-", "-"]),
        (DefaultLane, &[("a", 1), ("b", 0)], ("b", 1), ["wait", "b"], [no_default; 2]),
        (Fail, &[("", 1), ("b", 0)], ("b", 1), ["wait", "b"], ["-", "-"]),
        (AnyInstance, &[("a", 1), ("b", 0)], ("b", 1), ["wait", "a"], ["a", "a"]),
        // What comes is no better.
        (DefaultLane, &[("", 1), ("b", 0)], ("b", 0), ["-", "-"], ["-", "-"]),
        (Fail, &[("", 1), ("b", 0)], ("b", 0), ["b", "b"], ["-", "-"]),
        (DefaultLane, &[("", 1), ("b", 1)], ("b", 1), ["b", "b"], ["-", "-"]),
        // What the default lane has was taken out.
        (DefaultLane, &[("a", 1), ("", 0)], ("", 1), ["wait", "-"], ["wait", "-"]),
        (DefaultLane, &[("a", 1), ("", 0), ("b", 0)], ("", 1), ["wait", "b"], ["wait", "-"]),
        (DefaultLane, &[("a", 1), ("", 0), ("b", 1)], ("", 1), ["b", "b"], ["wait", "-"]),
        (Fail, &[("", 0), ("b", 0)], ("", 1), ["b", "b"], ["wait", "-"]),
    ] {
        let (lanes, _) = lanes();
        let mut lanes = lanes.with_fallback(fallback);
        let ready = instances(ready);
        lanes.others(&connecting(&[awaited]));
        let mut picked = [(); 2].map(|()| Vec::new());
        for _ in 0..2 {
            let picker = lanes.picker(&ready);
            picked[0].push(pick(&*picker, Some(b"b"), None));
            picked[1].push(pick(&*picker, None, None));
            if let Some(due) = lanes.due() {
                tokio::time::advance(due - Instant::now()).await;
            }
        }
        assert_eq!(picked, [tagged_b, untagged], "{fallback:?}, {ready:?}, {awaited:?}");
        assert_eq!(lanes.due(), None);
    }
}

/// Or none would end the wait.
#[tokio::test(start_paused = true)]
async fn a_picker_that_waits_is_due_also_if_that_has_passed_meanwhile() {
    let (mut lanes, _) = lanes();
    let began = Instant::now();
    lanes.others(&connecting(&[("b", 1)]));
    let picker = lanes.picker(&instances(&[("", 1)]));
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(pick(&*picker, Some(b"b"), None), "wait");
    assert_eq!(lanes.due(), Some(began + SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_waited_for_anew_with_each_instance_that_comes_and_not_with_those_that_change() {
    let (mut lanes, _) = lanes();
    let ready = instances(&[("", 1)]);
    let mut picked = Vec::new();
    for step in 0..12 {
        // The second one comes then, and the records of all change each time.
        let count = if step < 6 { 1 } else { 2 };
        let all = (0..count).map(|id| described("b", id, 1 + step)).collect();
        lanes.others(&Others::new(all, SortedById::new()));
        picked.push(pick(&*lanes.picker(&ready), Some(b"b"), None));
        tokio::time::advance(SECOND * 3 / 10).await;
    }
    let each = ["wait", "wait", "wait", "wait", "-", "-"];
    assert_eq!(picked, [each, each].concat());
}

/// Its calls are told so at once.
#[tokio::test(start_paused = true)]
async fn a_lane_whose_policy_has_made_no_picker_is_not_waited_for() {
    let (mut lanes, _) = lanes();
    lanes.others(&connecting(&[("a", 1)]));
    let mut ready = instances(&[("", 1)]);
    ready.insert(ReadyInstance::new(described("a", 13, 0)));
    assert_eq!(pick(&*lanes.picker(&ready), Some(b"a"), None), "-");
}
