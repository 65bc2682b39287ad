//! Lanes that are full.

use std::collections::VecDeque;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_full_lane_holds_back_no_calls_of_others_and_its_calls_wait_for_it() {
    for (full, other) in [("canary", ""), ("", "canary")] {
        let fleet = Fleet::new(&["a", "c"]).await;
        let client = fleet.client(fleet.channel(lanes())).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(client.stream("Stream", to(full)).await.unwrap());
        }
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { call(&client, "Name", full).await })
            })
            .collect();
        sleep(SECOND).await;
        for _ in 0..10 {
            let answer = timeout(SECOND, call(&client, "Name", other)).await.expect("it is not held back");
            assert_eq!(answer.unwrap().starts_with('c'), other == "canary");
        }
        assert!(waiting.iter().all(|call| !call.is_finished()));
        drop(streams.pop());
        for call in waiting {
            let answer = timeout(SECOND, call).await.expect("a stream is free").unwrap().unwrap();
            assert_eq!(answer.starts_with('c'), full == "canary");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_default_lane_leaves_the_canary_its_share() {
    let mut fleet = Fleet::new(&["a"]).await;
    let canary = Server::on(&fleet.net, "c:1");
    fleet.registry.put(described(&canary, "canary")).await;
    let lanes = lanes().with_share("canary", 0.3).with_seed(1);
    let client = fleet.client(fleet.channel(lanes)).await;
    let mut streams = Vec::new();
    while fleet.calls() != [2] {
        streams.push(client.stream("Stream", to("")).await.unwrap());
    }
    let before = canary.calls();
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { call(&client, "Name", "").await })
        })
        .collect();
    sleep(SECOND).await;
    let shared = canary.calls() - before;
    // Four standard deviations; and those are not held back by the others, which wait.
    assert!((34..=86).contains(&shared), "{shared}");
    assert_eq!(calls.iter().filter(|call| call.is_finished()).count(), shared);
    // Nor do those draw again when they are woken.
    fleet.registry.put(described(&fleet.servers[0], "").with_metadata("changed", "yes")).await;
    sleep(SECOND).await;
    assert_eq!(canary.calls() - before, shared);
    drop(streams);
    for call in calls {
        timeout(SECOND, call).await.expect("streams are free").unwrap().unwrap();
    }
    assert_eq!(canary.calls() - before, shared);
}

#[tokio::test(start_paused = true)]
async fn drawn_calls_do_not_overtake_those_that_wait_for_the_canary_by_name() {
    let fleet = Fleet::new(&["a", "c"]).await;
    let client = fleet.client(fleet.channel(lanes().with_share("canary", 1.0))).await;
    assert_eq!(call(&client, "Name", "").await.unwrap(), "c:1");
    let mut streams = VecDeque::new();
    for _ in 0..2 {
        streams.push_back(client.stream("Stream", to("canary")).await.unwrap());
    }
    // It is full, and no call waits for it by name.
    assert_eq!(timeout(SECOND, call(&client, "Name", "")).await.expect("a is free").unwrap(), "a:1");
    let mut waiting = VecDeque::new();
    for _ in 0..10 {
        let client = client.clone();
        waiting.push_back(tokio::spawn(async move { client.stream("Stream", to("canary")).await }));
        sleep(SECOND).await;
    }
    let before = fleet.calls()[1];
    for served in 1..10 {
        // A call that is drawn begins when a stream is free, and before the call that waits for it has run.
        drop(streams.pop_front());
        assert_eq!(timeout(SECOND, call(&client, "Name", "")).await.expect("a is free").unwrap(), "a:1");
        let stream = timeout(SECOND, waiting.pop_front().unwrap()).await.expect("it is the first");
        streams.push_back(stream.unwrap().unwrap());
        assert_eq!(fleet.calls()[1], before + served);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_in_the_line_of_another_lane_goes_to_its_own_as_soon_as_that_is_back() {
    let mut fleet = Fleet::new(&["a"]).await;
    let client = fleet.client(fleet.channel(lanes())).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.stream("Stream", to("")).await.unwrap());
    }
    let mut waiting = Vec::new();
    for lane in ["", "canary", "", "canary"] {
        let client = client.clone();
        waiting.push(tokio::spawn(async move { call(&client, "Name", lane).await }));
        sleep(SECOND).await;
    }
    let canary = Server::on(&fleet.net, "c:1");
    fleet.registry.put(described(&canary, "canary")).await;
    for at in [3, 1] {
        let call = timeout(SECOND, waiting.remove(at)).await.expect("its lane is ready");
        assert_eq!(call.unwrap().unwrap(), "c:1");
    }
    assert!(waiting.iter().all(|call| !call.is_finished()));
    drop(streams);
    for call in waiting {
        assert_eq!(timeout(SECOND, call).await.expect("it is free").unwrap().unwrap(), "a:1");
    }
}

/// The outer ones divide by version, the inner ones by lane, and untagged calls are of any inner lane.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_outer_lanes_is_woken_though_there_are_inner_ones() {
    let mut fleet = Fleet::new(&["a"]).await;
    fleet.registry.put(described(&fleet.servers[0], "inner").with_version("v1")).await;
    let inner = || {
        Lanes::by_metadata("lane", LeastRequest::default)
            .with_default_lane("none")
            .with_fallback(LaneFallback::AnyInstance)
    };
    let outer = Lanes::by(|instance| instance.version().map(str::to_owned), inner).with_default_lane("v1");
    let client = fleet.client(fleet.channel(outer)).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.stream("Stream", to("")).await.unwrap());
    }
    // The first waits in the line of the outer lane, and the second in that of the inner one.
    for lane in ["", "inner"] {
        let waiting = {
            let client = client.clone();
            tokio::spawn(async move { client.stream("Stream", to(lane)).await })
        };
        sleep(SECOND).await;
        assert!(!waiting.is_finished());
        drop(streams.pop());
        streams.push(timeout(SECOND, waiting).await.expect("a stream is free").unwrap().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_a_full_lane_go_to_an_instance_that_moves_into_it() {
    let mut fleet = Fleet::new(&["a", "b", "c"]).await;
    // Which picks no other by itself while the first is ready.
    let client = fleet.client(fleet.channel(Lanes::by_metadata("lane", Sticky::default))).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.stream("Stream", to("canary")).await.unwrap());
    }
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.stream("Stream", to("canary")).await })
        })
        .collect();
    sleep(SECOND).await;
    assert!(waiting.iter().all(|call| !call.is_finished()));
    fleet.registry.put(described(&fleet.servers[1], "canary")).await;
    for call in waiting {
        streams.push(timeout(SECOND, call).await.expect("b has capacity").unwrap().unwrap());
    }
    assert_eq!(fleet.calls(), [0, 2, 2]);
    // Both are full, and what is freed on the one that has moved counts for its new lane.
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "Name", "canary").await })
    };
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    drop(streams.pop());
    assert_eq!(timeout(SECOND, waiting).await.expect("it is free").unwrap().unwrap(), "b:1");
    // When the whole lane is gone, calls that wait for it go to the default lane.
    let waiting = {
        drop(client.stream("Stream", to("canary")).await.map(|stream| streams.push(stream)));
        let client = client.clone();
        tokio::spawn(async move { call(&client, "Name", "canary").await })
    };
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    for at in [1, 2] {
        fleet.registry.put(described(&fleet.servers[at], "other")).await;
    }
    assert_eq!(timeout(SECOND, waiting).await.expect("a has capacity").unwrap().unwrap(), "a:1");
}

/// As when a server registers under another name.
#[tokio::test(start_paused = true)]
async fn a_server_with_another_id_serves_the_calls_that_wait_for_its_lane() {
    for id in ["b", "d"] {
        let mut fleet = Fleet::new(&["a", "c"]).await;
        let client = fleet.client(fleet.channel(lanes()).max_connections(2)).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(client.stream("Stream", to("canary")).await.unwrap());
        }
        fleet.registry.put(described(&fleet.servers[1], "canary").with_id(id.parse().unwrap())).await;
        fleet.registry.leave("c:1").await;
        sleep(SECOND).await;
        // Over a second connection, and then there is no other.
        for _ in 0..2 {
            let stream = timeout(SECOND, client.stream("Stream", to("canary"))).await;
            streams.push(stream.expect("a connection is opened").unwrap());
        }
        let waiting = {
            let client = client.clone();
            tokio::spawn(async move { call(&client, "Name", "canary").await })
        };
        sleep(SECOND).await;
        assert!(!waiting.is_finished());
        drop(streams.pop());
        assert_eq!(timeout(SECOND, waiting).await.expect("a stream is free").unwrap().unwrap(), "c:1");
        assert_eq!(fleet.servers[1].accepted(), 2, "it was not connected to anew");
    }
}
