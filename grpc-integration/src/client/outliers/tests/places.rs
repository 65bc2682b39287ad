//! Instances that are ejected and do not return: they keep no other from being ejected.

use super::channel::{Channel, SECOND, consecutive_only};
use crate::client::outcomes::Standing;

async fn intervals(channel: &mut Channel, count: usize) {
    for _ in 0..count {
        channel.left().await;
        channel.interval().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_lost_meanwhile_makes_place_and_takes_it_again_when_it_is_back() {
    let mut channel = Channel::new(10, consecutive_only());
    channel.fails(0, 5, 1);
    channel.fails(1, 20, 2);
    assert_eq!(channel.left().await, (1..10).collect::<Vec<_>>());
    channel.set_ready(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    intervals(&mut channel, 1).await;
    channel.fails(1, 5, 2);
    assert_eq!(channel.left().await, [2, 3, 4, 5, 6, 7, 8, 9]);
    channel.set_ready(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(channel.left().await, [2, 3, 4, 5, 6, 7, 8, 9], "both are still ejected");
    channel.fails(2, 20, 3);
    assert_eq!(channel.left().await, [2, 3, 4, 5, 6, 7, 8, 9]);
}

/// A tier whose only instance is ejected has no share of the calls: they go to the next one, and would to each in turn.
#[tokio::test(start_paused = true)]
async fn one_whose_tier_has_no_share_of_the_calls_for_it_keeps_its_place() {
    let config = consecutive_only().with_base_ejection_time(1000 * SECOND);
    let mut channel = Channel::new(5, config);
    channel.set_tiers(&[0, 1, 2], &[3, 4]);
    channel.fails(0, 5, 1);
    channel.set_tiers(&[1, 2], &[0, 3, 4]);
    for _ in 0..2 {
        intervals(&mut channel, 1).await;
        channel.fails(1, 20, 2);
        assert_eq!((channel.standing(0), channel.standing(1)), (Standing::Ejected, Standing::In));
    }
    // It is lost, and takes its place again when it is back, wherever that is.
    channel.set_tiers(&[1, 2], &[3, 4]);
    intervals(&mut channel, 1).await;
    channel.set_tiers(&[1, 2], &[0, 3, 4]);
    intervals(&mut channel, 1).await;
    channel.fails(1, 20, 2);
    assert_eq!(channel.standing(1), Standing::In);
    channel.set_tiers(&[1, 2], &[3, 4]);
    intervals(&mut channel, 1).await;
    channel.fails(1, 5, 2);
    assert_eq!(channel.standing(1), Standing::Ejected);
}

/// The reason may be its weight.
#[tokio::test(start_paused = true)]
async fn one_that_gets_no_call_after_its_time_makes_place_an_interval_later() {
    let mut channel = Channel::new(10, consecutive_only());
    channel.fails(0, 5, 1);
    intervals(&mut channel, 3).await;
    assert_eq!(channel.standing(0), Standing::Probing);
    channel.fails(1, 20, 2);
    assert_eq!(channel.standing(1), Standing::In, "it may be tried yet");
    intervals(&mut channel, 1).await;
    channel.fails(1, 5, 2);
    assert_eq!((channel.standing(0), channel.standing(1)), (Standing::Probing, Standing::Ejected));
    // It is tried when there is a call for it.
    channel.calls(0, 1, 0);
    assert_eq!(channel.standing(0), Standing::In);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_being_tried_keeps_its_place() {
    let mut channel = Channel::new(10, consecutive_only());
    channel.fails(0, 5, 1);
    intervals(&mut channel, 3).await;
    let probation = channel.instances[0].outcomes().unwrap().probation();
    probation.admit().unwrap();
    intervals(&mut channel, 2).await;
    channel.fails(1, 20, 2);
    assert_eq!((channel.standing(0), channel.standing(1)), (Standing::Probing, Standing::In));
}

#[tokio::test(start_paused = true)]
async fn one_whose_probes_are_given_up_keeps_its_place() {
    let mut channel = Channel::new(10, consecutive_only());
    channel.fails(0, 5, 1);
    intervals(&mut channel, 3).await;
    for _ in 0..3 {
        channel.give_up(0, false);
        intervals(&mut channel, 1).await;
        channel.fails(1, 20, 2);
        assert_eq!((channel.standing(0), channel.standing(1)), (Standing::Probing, Standing::In));
    }
}
