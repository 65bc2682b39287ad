//! Lanes of which no instance is ready yet.

use tokio::time::Instant;

use super::*;
use crate::support::Gate;

/// A channel on which servers of this letter cannot be connected to yet, and all others are.
async fn gated(fleet: &Fleet, letter: char, lanes: Lanes) -> (Client, Gate) {
    let gate = Gate::closed(&fleet.net, letter);
    let client = Client::new(&fleet.channel(lanes).connector(gate.clone()).connect().await.unwrap());
    (client, gate)
}

fn start(client: &Client, lane: &'static str) -> tokio::task::JoinHandle<Result<String, Status>> {
    let client = client.clone();
    tokio::spawn(async move { call(&client, "Name", lane).await })
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_only_lane_that_they_may_go_to() {
    let fleet = Fleet::new(&["a", "c"]).await;
    let (client, gate) = gated(&fleet, 'a', lanes()).await;
    for _ in 0..2 {
        let waiting = start(&client, "");
        sleep(5 * SECOND).await;
        assert!(!waiting.is_finished());
        assert_eq!(call(&client, "Name", "canary").await.unwrap(), "c:1");
        gate.open();
        assert_eq!(waiting.await.unwrap().unwrap(), "a:1");
        // The same when the connection is lost, as with GOAWAY.
        gate.close();
        fleet.servers[0].break_connections();
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_cannot_be_connected_to_is_waited_for_until_that_is_known() {
    let fleet = Fleet::new(&["a", "c"]).await;
    let strict = lanes().with_fallback(LaneFallback::Fail);
    for (letter, lane, lanes) in [('a', "", lanes()), ('c', "canary", strict)] {
        let began = Instant::now();
        let (client, _gate) = gated(&fleet, letter, lanes).await;
        let mut hasty = to(lane);
        hasty.set_timeout(SECOND);
        let status = client.call("Name", hasty).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let name = if lane.is_empty() { "default lane" } else { "lane \"canary\"" };
        assert!(status.message().contains(&format!("no instance of the {name} is ready")), "{status:?}");
        let status = call(&client, "Name", lane).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(began.elapsed().as_secs(), 10, "the connect timeout");
        // It is attempted again, which holds up none.
        let began = Instant::now();
        for _ in 0..20 {
            call(&client, "Name", lane).await.unwrap_err();
            sleep(SECOND).await;
        }
        assert_eq!(began.elapsed(), 20 * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_waited_for_a_second_where_there_is_another_one_to_go_to() {
    let fleet = Fleet::new(&["a", "c"]).await;
    let anywhere = lanes().with_fallback(LaneFallback::AnyInstance);
    for (letter, lane, lanes) in [('c', "canary", lanes()), ('a', "", anywhere)] {
        let (client, gate) = gated(&fleet, letter, lanes).await;
        let began = Instant::now();
        assert!(!call(&client, "Name", lane).await.unwrap().starts_with(letter));
        assert_eq!(began.elapsed().as_secs(), 1);
        let began = Instant::now();
        assert!(!call(&client, "Name", lane).await.unwrap().starts_with(letter));
        assert_eq!(began.elapsed(), Duration::ZERO);
        gate.open();
        sleep(Duration::from_millis(1)).await;
        assert!(call(&client, "Name", lane).await.unwrap().starts_with(letter));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_instance_changes_while_it_is_connected_to_is_waited_for_a_second() {
    let mut fleet = Fleet::new(&["a", "c"]).await;
    let (client, _gate) = gated(&fleet, 'c', lanes()).await;
    let (began, call) = (Instant::now(), start(&client, "canary"));
    for round in 0..20 {
        fleet.registry.put(described(&fleet.servers[1], "canary").with_weight(1 + round)).await;
        sleep(SECOND / 10).await;
        if call.is_finished() {
            break;
        }
    }
    let waited = began.elapsed();
    assert!((SECOND..SECOND + SECOND / 5).contains(&waited), "{waited:?}");
    assert_eq!(call.await.unwrap().unwrap(), "a:1");
}

/// As for the whole channel: what was taken out by weight 0 is called if no other is ready after a second.
#[tokio::test(start_paused = true)]
async fn a_lane_of_which_only_weight_0_is_ready_is_waited_for_a_second() {
    for (fallback, instead) in
        [(LaneFallback::DefaultLane, "a:1"), (LaneFallback::AnyInstance, "a:1"), (LaneFallback::Fail, "c:1")]
    {
        let mut fleet = Fleet::new(&["a", "c"]).await;
        fleet.registry.put(described(&fleet.servers[1], "canary").with_weight(0)).await;
        let canary = Server::on(&fleet.net, "d:1");
        fleet.registry.put(described(&canary, "canary")).await;
        let (client, gate) = gated(&fleet, 'd', lanes().with_fallback(fallback)).await;
        let waiting = start(&client, "canary");
        let began = Instant::now();
        assert_eq!(call(&client, "Name", "").await.unwrap(), "a:1");
        assert_eq!(began.elapsed(), Duration::ZERO, "another lane");
        assert_eq!(waiting.await.unwrap().unwrap(), instead);
        assert_eq!(began.elapsed().as_secs(), 1);
        assert_eq!(call(&client, "Name", "canary").await.unwrap(), instead);
        assert_eq!(began.elapsed().as_secs(), 1);
        gate.open();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(call(&client, "Name", "canary").await.unwrap(), "d:1");
        // And one that can be connected to is not missed.
        gate.close();
        let builder = fleet.channel(lanes().with_fallback(fallback)).connector(gate.clone());
        let client = Client::new(&builder.connect().await.unwrap());
        let waiting = start(&client, "canary");
        sleep(SECOND / 2).await;
        gate.open();
        assert_eq!(waiting.await.unwrap().unwrap(), "d:1");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_whose_lane_is_drawn_wait_for_none() {
    let fleet = Fleet::new(&["a", "c"]).await;
    for letter in ['a', 'c'] {
        let (client, _gate) = gated(&fleet, letter, lanes().with_share("canary", 1.0)).await;
        let began = Instant::now();
        assert!(!call(&client, "Name", "").await.unwrap().starts_with(letter));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn lanes_within_a_lane_are_waited_for() {
    let mut fleet = Fleet::new(&["c1", "d1"]).await;
    for (server, color) in fleet.servers.iter().zip(["blue", "red"]) {
        let instance = described(server, "canary").with_metadata("color", color);
        fleet.registry.put(instance).await;
    }
    let inner = || {
        let lanes = Lanes::by_metadata("color", LeastRequest::default);
        lanes.with_header(HeaderName::from_static("x-color")).with_fallback(LaneFallback::Fail)
    };
    let outer = Lanes::by_metadata("lane", inner).with_header(HeaderName::from_static("x-lane"));
    let (client, gate) = gated(&fleet, 'd', outer).await;
    let call = |color: &'static str| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut request = Request::new(String::new());
            for (name, value) in [("x-lane", "canary"), ("x-color", color)] {
                request.metadata_mut().insert(name, value.parse().unwrap());
            }
            client.call("Name", request).await.map(tonic::Response::into_inner)
        })
    };
    assert_eq!(call("blue").await.unwrap().unwrap(), "c1:1");
    let waiting = call("red");
    sleep(5 * SECOND).await;
    assert!(!waiting.is_finished());
    assert_eq!(call("green").await.unwrap().unwrap_err().code(), Code::Unavailable);
    // The connect timeout.
    sleep(5 * SECOND).await;
    assert_eq!(waiting.await.unwrap().unwrap_err().code(), Code::Unavailable);
    gate.open();
    sleep(60 * SECOND).await;
    assert_eq!(call("red").await.unwrap().unwrap(), "d1:1");
}

/// It is connected to in steps.
#[tokio::test(start_paused = true)]
async fn no_lane_of_a_large_service_counts_as_missing_before_it_was_connected_to() {
    let mut fleet = Fleet::new(&["z"]).await;
    let servers: Vec<_> = (0..600).map(|number| Server::on(&fleet.net, &format!("c{number:03}:1"))).collect();
    for server in &servers {
        fleet.registry.put(described(server, "canary")).await;
    }
    for _ in 0..5 {
        let channel = fleet.channel(lanes()).connect().await.unwrap();
        assert_eq!(call(&Client::new(&channel), "Name", "").await.unwrap(), "z:1");
    }
}
