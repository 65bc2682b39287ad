//! Policies and closures that panic.

use super::*;

/// A policy that panics over an instance with this in its metadata.
#[derive(Debug)]
struct Panics;

impl LoadBalancingPolicy for Panics {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        assert!(ready.iter().all(|ready| !ready.instance().metadata().contains_key("bug")), "a bug");
        LeastRequest::default().picker(ready)
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_lane_whose_policy_panics_stay_in_it_also_when_all_of_it_was_replaced_and_is_full() {
    for fallback in [LaneFallback::DefaultLane, LaneFallback::Fail, LaneFallback::AnyInstance] {
        let log = Log::capture();
        let mut fleet = Fleet::new(&["a", "c1"]).await;
        let lanes = Lanes::by_metadata("lane", || Panics).with_fallback(fallback);
        let client = fleet.client(fleet.channel(lanes)).await;
        assert_eq!(call(&client, "Name", "canary").await.unwrap(), "c1:1");
        let canary = Server::described(&fleet.net, "c2:1", |server| server.max_concurrent_streams(2));
        fleet.registry.put(described(&canary, "canary").with_metadata("bug", "yes")).await;
        sleep(SECOND).await;
        // What the last picker picks is still there.
        assert_eq!(call(&client, "Name", "canary").await.unwrap(), "c1:1");
        // Which is connected still, and has capacity.
        fleet.registry.put(described(&fleet.servers[1], "other")).await;
        sleep(SECOND).await;
        let before = fleet.calls();
        let mut streams = Vec::new();
        for _ in 0..2 {
            let stream = timeout(SECOND, client.stream("Stream", to("canary"))).await.expect("c2 is ready");
            streams.push(stream.unwrap());
        }
        assert_eq!(canary.calls(), 2);
        let waiting = {
            let client = client.clone();
            tokio::spawn(async move { call(&client, "Name", "canary").await })
        };
        sleep(SECOND).await;
        assert!(!waiting.is_finished(), "{fallback:?}");
        assert_eq!(fleet.calls(), before);
        assert_eq!(call(&client, "Name", "").await.unwrap(), "a:1");
        assert_eq!(call(&client, "Name", "other").await.unwrap(), "c1:1");
        drop(streams.pop());
        assert_eq!(timeout(SECOND, waiting).await.expect("a stream is free").unwrap().unwrap(), "c2:1");
        let panics = log.take().into_iter().filter(|line| line.starts_with("ERROR")).collect::<Vec<_>>();
        assert_eq!(panics.len(), 1, "{panics:?}");
        assert!(panics[0].starts_with("ERROR load balancing policy panicked"), "{panics:?}");
        // And a lane that the policy can have goes on with it.
        fleet.registry.put(described(&canary, "canary")).await;
        sleep(SECOND).await;
        assert_eq!(call(&client, "Name", "canary").await.unwrap(), "c2:1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_leaves_the_instance_in_the_default_lane() {
    let log = Log::capture();
    let fleet = Fleet::new(&["a", "b", "c"]).await;
    let by_lane = |instance: &Instance| Some(instance.metadata()["lane"].clone());
    let client = fleet.client(fleet.channel(Lanes::by(by_lane, RoundRobin::default))).await;
    for _ in 0..4 {
        call(&client, "Name", "").await.unwrap();
        call(&client, "Name", "canary").await.unwrap();
    }
    assert_eq!(fleet.calls(), [2, 2, 4]);
    let lines: Vec<_> = log.take().into_iter().filter(|line| line.contains("panicked")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let start = "ERROR lane panicked; instance in the default lane step=\"lanes\" instance=";
    assert!(lines[0].starts_with(start), "{lines:?}");
}
