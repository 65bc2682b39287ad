//! Lanes with instances that are being connected to.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

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
