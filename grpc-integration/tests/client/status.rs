//! What an operator sees of a channel from outside.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use hither_core::{Discovery, Freshness, Instance, InstanceState, StaticRegistry};
use hither_tonic::{
    ChannelStatus, ConnectivityState, DiscoveryChannel, InstanceStatus, Selection, SlowStart,
};
use tokio::time::sleep;

use crate::support::{Client, Net, Registry, SERVICE, Server, until};
use crate::{SECOND, channel};

const TEN: Duration = Duration::from_secs(10);

/// Paused time advances only when all tasks wait, so everything that was due has happened then.
async fn settle() {
    sleep(SECOND).await;
}

fn states(status: &ChannelStatus) -> Vec<(&str, ConnectivityState)> {
    status.instances().iter().map(|instance| (instance.id().as_str(), instance.state())).collect()
}

fn only(status: &ChannelStatus) -> &InstanceStatus {
    assert_eq!(status.instances().len(), 1);
    &status.instances()[0]
}

/// Users of other libraries ask for the state of the channel alone (grpc/grpc-go#1093, grpc/grpc-dotnet#1275), behind which
/// such an instance is hidden.
#[tokio::test(start_paused = true)]
async fn an_unreachable_instance_is_seen_with_the_cause_while_the_others_are_called() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.put(Instance::new("a:1".parse().unwrap()).with_zone("eu-1a").with_weight(3)).await;
    registry.put(Instance::new("b:1".parse().unwrap()).with_id("second".parse().unwrap())).await;
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(TEN).await;

    let status = channel.status();
    assert_eq!((status.service().as_str(), status.state()), ("greeter", ConnectivityState::Ready));
    assert_eq!((status.registered(), status.held(), status.reason()), (2, 0, None));
    assert_eq!(status.count(ConnectivityState::TransientFailure), 1);
    let unreachable = &status.instances()[1];
    assert_eq!(unreachable.state(), ConnectivityState::TransientFailure);
    assert_eq!(unreachable.last_error(), Some("connection refused at b:1"));
    assert_eq!(unreachable.since().unwrap().elapsed(), TEN, "the attempts in between do not hide it");
    assert!(unreachable.last_error_at().unwrap().elapsed() < TEN);
    assert_eq!(
        format!("{status:#}"),
        "greeter: READY for 10 s, 1 of 2 instances ready, registry fresh\n  \
         a:1: READY for 10 s, connections 1, calls in flight 0, weight 3, zone eu-1a\n  \
         second at b:1: TRANSIENT_FAILURE for 10 s, weight 1, last error: connection refused at b:1"
    );
    assert_eq!(status.to_string(), "greeter: READY for 10 s, 1 of 2 instances ready, registry fresh");

    let _second = Server::on(&net, "b:1");
    sleep(200 * SECOND).await;
    let status = channel.status();
    let back = &status.instances()[1];
    assert_eq!((back.state(), back.connections()), (ConnectivityState::Ready, 1));
    assert_eq!(back.last_error(), Some("connection refused at b:1"), "remembered, with its time");
    assert!(back.since() > back.last_error_at());
    assert!(!back.to_string().contains("last error"), "{back}");
}

#[tokio::test(start_paused = true)]
async fn calls_of_each_instance_are_counted_in_flight_started_and_failed() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let client = Client::new(&channel);
    for _ in 0..3 {
        client.name().await.unwrap();
    }
    client.call("Fail", String::new()).await.unwrap_err();
    let held = tokio::spawn(async move { client.call("Hold", String::new()).await });
    settle().await;
    let status = channel.status();
    let instance = only(&status);
    assert_eq!((instance.in_flight(), instance.started(), instance.failed()), (1, 5, 1));

    registry.put(Instance::new("a:1".parse().unwrap()).with_weight(7)).await;
    server.open_gate();
    held.await.unwrap().unwrap();
    settle().await;
    let status = channel.status();
    let instance = only(&status);
    assert_eq!(
        (instance.in_flight(), instance.started(), instance.failed()),
        (0, 5, 1),
        "a change keeps them"
    );
    assert_eq!((instance.weight(), instance.instance().weight()), (7.0, 7));
}

/// Of the two in the preferred zone one can be called, which takes 70 % of the calls.
#[tokio::test(start_paused = true)]
async fn the_weights_are_those_by_which_tiers_and_slow_start_get_their_shares() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _servers = [Server::on(&net, "a:1"), Server::on(&net, "b:1"), Server::on(&net, "c:1")];
    for (address, zone) in [("a:1", "near"), ("b:1", "far"), ("down:1", "near")] {
        registry.put(Instance::new(address.parse().unwrap()).with_weight(3).with_zone(zone)).await;
    }
    let weights = |channel: &DiscoveryChannel| {
        let status = channel.status();
        let weights = status.instances().iter().map(|instance| (instance.weight() * 100.0).round() / 100.0);
        weights.collect::<Vec<_>>()
    };
    let zones = Selection::default().prefer_zone("near");
    let tiers = channel(&registry, &net).selection(zones).connect().await.unwrap();
    settle().await;
    assert_eq!(weights(&tiers), [3.0, 1.29, 3.0]);

    let slow = channel(&registry, &net).slow_start(SlowStart::new(100 * SECOND)).connect().await.unwrap();
    sleep(200 * SECOND).await;
    registry.put(Instance::new("c:1".parse().unwrap()).with_weight(3).with_zone("far")).await;
    sleep(51 * SECOND).await;
    assert_eq!(weights(&slow), [3.0, 3.0, 1.5, 3.0]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_lost_is_seen_with_the_cause() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    settle().await;
    assert_eq!(only(&channel.status()).last_error(), None);
    server.break_connections();
    settle().await;
    let status = channel.status();
    let instance = only(&status);
    assert_eq!((instance.state(), instance.connections()), (ConnectivityState::Ready, 1));
    let lost = instance.last_error().unwrap();
    assert!(lost.ends_with(" at a:1"), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_or_draining_is_seen_as_such() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1", "d:1"] {
        servers.push(Server::on(&net, address));
        registry.up(address).await;
    }
    registry.draining("e:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    settle().await;
    for lost in ["a:1", "b:1", "c:1"] {
        assert!(registry.faults().delete_record(&Registry::service(), &lost.parse().unwrap()));
    }
    sleep(TEN).await;
    let status = channel.status();
    assert_eq!((status.registered(), status.held()), (2, 3));
    let (idle, ready) = (ConnectivityState::Idle, ConnectivityState::Ready);
    assert_eq!(
        states(&status),
        [("d:1", ready), ("e:1", idle), ("a:1", ready), ("b:1", ready), ("c:1", ready)]
    );
    assert!(status.instances()[2..].iter().all(InstanceStatus::is_held));
    let draining = &status.instances()[1];
    assert_eq!((draining.is_held(), draining.since()), (false, None));
    assert_eq!(draining.to_string(), "e:1: IDLE, weight 1, draining");
    assert!(status.instances()[2].to_string().ends_with(", held: lost by the registry"), "{status:#}");
    assert!(status.to_string().contains("4 of 5 instances ready, 3 held"), "{status}");
}

/// Which may be that of the next one in the order of ids.
#[tokio::test(start_paused = true)]
async fn an_instance_that_is_not_connected_to_has_no_status_of_another() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "b:1");
    registry.draining("a:1").await;
    registry.up("b:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    settle().await;
    let (idle, ready) = (ConnectivityState::Idle, ConnectivityState::Ready);
    assert_eq!(states(&channel.status()), [("a:1", idle), ("b:1", ready)]);
}

#[tokio::test(start_paused = true)]
async fn a_channel_is_in_its_state_since_it_has_changed() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    let status = channel.status().to_string();
    assert_eq!(status, "greeter: CONNECTING for 0 s, 0 of 0 instances ready, registry not reached yet");
    sleep(TEN).await;
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    channel.wait_ready(TEN).await.unwrap();
    sleep(3 * SECOND).await;
    let status = channel.status();
    assert_eq!((status.state(), status.since().elapsed()), (ConnectivityState::Ready, 3 * SECOND));
    assert_eq!(status.to_string(), "greeter: READY for 3 s, 1 of 1 instances ready, registry fresh");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_cannot_be_reached_is_seen_with_the_age_of_what_is_known() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.faults().stop();
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    assert!(channel.status().freshness().is_none() && channel.status().age().is_none());
    assert_eq!(channel.status().state(), ConnectivityState::Connecting);
    settle().await;
    let status = channel.status();
    assert!(status.to_string().contains(", registry stale for 1 s: "), "{status}");
    assert!(status.reason().unwrap().contains("greeter cannot be resolved"), "{status:?}");

    registry.faults().start();
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    channel.wait_ready(100 * SECOND).await.unwrap();
    assert_eq!(channel.status().age(), Some(Duration::ZERO));
    registry.faults().stop();
    sleep(60 * SECOND).await;
    let status = channel.status();
    assert_eq!((status.state(), status.age()), (ConnectivityState::Ready, Some(60 * SECOND)));
    assert!(matches!(status.freshness(), Some(Freshness::Stale { .. })));
}

#[tokio::test(start_paused = true)]
async fn two_records_of_one_server_share_its_connection() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    for id in ["one", "two"] {
        registry.put(Instance::new("a:1".parse().unwrap()).with_id(id.parse().unwrap())).await;
    }
    let channel = channel(&registry, &net).connect().await.unwrap();
    settle().await;
    let ready = ConnectivityState::Ready;
    assert_eq!(states(&channel.status()), [("one", ready), ("two", ready)]);
    // The record that counted leaves, and the server goes by the other one.
    registry.leave("one").await;
    settle().await;
    assert_eq!(states(&channel.status()), [("two", ready)]);
    // And the id moves on to a server that is not there.
    registry.put(Instance::new("b:1".parse().unwrap()).with_id("two".parse().unwrap())).await;
    settle().await;
    let status = channel.status();
    assert_eq!(states(&status), [("two", ConnectivityState::TransientFailure)]);
    assert_eq!(only(&status).connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_tier_of_an_instance_is_seen_and_whether_it_is_selected() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for (address, zone) in [("a:1", "one"), ("b:1", "two"), ("c:1", "three")] {
        servers.push(Server::on(&net, address));
        registry.put(Instance::new(address.parse().unwrap()).with_zone(zone)).await;
    }
    let by_zone = |first: &'static str| {
        Selection::default()
            .filter(|instance| instance.zone() != Some("three"))
            .tiers(move |instance| u32::from(instance.zone() != Some(first)))
    };
    let channel = channel(&registry, &net).selection(by_zone("one")).connect().await.unwrap();
    settle().await;
    let tiers = |channel: &DiscoveryChannel| {
        channel.status().instances().iter().map(InstanceStatus::tier).collect::<Vec<_>>()
    };
    let second = |channel: &DiscoveryChannel| channel.status().instances()[1].state();
    // The second tier is connected to when the first one fails.
    assert_eq!((tiers(&channel)[0], tiers(&channel)[2]), (Some(0), None));
    drop(servers.remove(0));
    sleep(TEN).await;
    assert_eq!((tiers(&channel), second(&channel)), (vec![Some(0), Some(1), None], ConnectivityState::Ready));
    assert!(channel.status().instances()[1].to_string().contains(", tier 1, zone two"));
    channel.set_selection(by_zone("two")).unwrap();
    settle().await;
    assert_eq!(tiers(&channel)[1], Some(0));
}

#[tokio::test(start_paused = true)]
async fn changes_come_as_a_stream_that_ends_with_the_channel() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    let mut changes = pin!(channel.status_changes());
    assert_eq!(changes.next().await.unwrap().state(), ConnectivityState::Connecting);
    settle().await;
    let status = changes.next().await.unwrap();
    assert_eq!(status.state(), ConnectivityState::TransientFailure);
    assert!(status.reason().unwrap().contains("connection refused at a:1"), "{status:?}");
    assert!(changes.next().now_or_never().is_none(), "what happened in between is in one status");

    let server = Server::on(&net, "a:1");
    let ready =
        changes.by_ref().filter(|status| std::future::ready(status.state() == ConnectivityState::Ready));
    assert_eq!(only(&pin!(ready).next().await.unwrap()).connections(), 1);
    // It counts as reachable again, which a status does not show, nor does it show a selection that leaves the same.
    sleep(TEN).await;
    channel.set_selection(Selection::default()).unwrap();
    settle().await;
    assert!(changes.next().now_or_never().is_none(), "it would be the same");
    Client::new(&channel).name().await.unwrap();
    assert!(changes.next().now_or_never().is_none(), "a call is no change");

    drop(channel);
    let last = changes.next().await.unwrap();
    assert_eq!((last.state(), last.instances().len()), (ConnectivityState::Shutdown, 0));
    assert!(changes.next().await.is_none());
    until("its connection is closed", || server.open() == 0).await;
}

/// The pool publishes more than statuses show.
#[tokio::test(start_paused = true)]
async fn of_two_statuses_in_a_row_the_second_shows_a_change() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("a:1").await;
    registry.up("b:1").await;
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    let shown = Arc::new(Mutex::new(Vec::new()));
    let collected = {
        let (changes, shown) = (channel.status_changes(), Arc::clone(&shown));
        tokio::spawn(changes.for_each(move |status| {
            // Without times that pass.
            shown.lock().unwrap().push(format!("{status:#?}"));
            std::future::ready(())
        }))
    };
    settle().await;
    let (a, _b) = (Server::on(&net, "a:1"), Server::on(&net, "b:1"));
    sleep(200 * SECOND).await;
    // Which leaves all that are left already.
    channel.set_selection(Selection::default()).unwrap();
    settle().await;
    registry.put(Instance::new("a:1".parse().unwrap()).with_weight(7)).await;
    settle().await;
    a.break_connections();
    sleep(200 * SECOND).await;
    registry.leave("b:1").await;
    settle().await;
    drop(channel);
    collected.await.unwrap();
    let shown = shown.lock().unwrap();
    assert!(shown.len() > 5, "{}", shown.len());
    for (at, pair) in shown.windows(2).enumerate() {
        assert_ne!(pair[0], pair[1], "status {at} is shown twice");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_of_100_000_instances_has_a_status_like_any_other() {
    const MANY: usize = 100_000;
    let net = Net::new();
    let _server = Server::on(&net, "a:1");
    let rest = (1..MANY).map(|number| {
        let [_, a, b, c] = u32::try_from(number).unwrap().to_be_bytes();
        let address = format!("10.{a}.{b}.{c}:80").parse().unwrap();
        Instance::new(address).with_state(InstanceState::Draining)
    });
    let up = Instance::new("a:1".parse().unwrap());
    let discovery = Discovery::new(StaticRegistry::new(rest.chain([up])));
    let channel = DiscoveryChannel::builder(discovery, SERVICE).connector(net).connect().await.unwrap();
    let status = channel.status();
    assert_eq!((status.registered(), status.count(ConnectivityState::Idle)), (MANY, MANY - 1));
    let ready: Vec<_> =
        status.instances().iter().filter(|one| one.state() == ConnectivityState::Ready).collect();
    assert_eq!((ready.len(), ready[0].id().as_str()), (1, "a:1"));
    let again = channel.status();
    assert!(Arc::ptr_eq(status.instances()[7].instance(), again.instances()[7].instance()));
}
