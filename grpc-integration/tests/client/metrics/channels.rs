//! What is measured of channels: their instances, connections and registries.

use hither_core::{Instance, StaticRegistry};
use hither_tonic::{DiscoveryChannel, MethodConfig, OutlierDetection, RoundRobin};
use tokio::time::sleep;

use super::Metrics;
use crate::support::{Client, Net, Registry, SERVICE, Server, peers};
use crate::{SECOND, channel};

#[tokio::test(start_paused = true)]
async fn ejections_are_counted() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1"] {
        servers.push(Server::on(&net, address));
        registry.up(address).await;
    }
    let builder = channel(&registry, &net).outlier_detection(OutlierDetection::default());
    let channel = builder.connect().await.unwrap();
    sleep(SECOND).await;
    let client = Client::new(&channel);
    servers[0].open_gate();
    for _ in 0..100 {
        let _ = client.call("Faulty", String::new()).await;
    }
    sleep(SECOND).await;
    let read = metrics.read();
    assert_eq!(read["hither.client.ejected{grpc.target=greeter}"], [1.0]);
    let found = "grpc.target=greeter,grpc.lb.outlier_detection.detection_method=consecutive_failures";
    assert_eq!(read[&format!("grpc.lb.outlier_detection.ejections_enforced{{{found}}}")], [1.0]);
    let status = channel.status();
    let ejected = status.instances()[0].ejected().unwrap();
    assert!(ejected.ends_with(" failures in a row"), "{ejected}");
    assert!(status.instances()[0].to_string().ends_with(&format!(", ejected: {ejected}")), "{status:#}");
    assert!(status.instances()[1..].iter().all(|instance| instance.ejected().is_none()));

    // No more than one at a time.
    servers[1].open_gate();
    for _ in 0..100 {
        let _ = client.call("Faulty", String::new()).await;
    }
    sleep(SECOND).await;
    let reason = "grpc.lb.outlier_detection.unenforced_reason=max_ejection_overflow";
    let read = metrics.read();
    assert_eq!(read["hither.client.ejected{grpc.target=greeter}"], [1.0]);
    assert_eq!(read[&format!("grpc.lb.outlier_detection.ejections_unenforced{{{found},{reason}}}")], [1.0]);
    assert_eq!(read[&format!("grpc.lb.outlier_detection.ejections_enforced{{{found}}}")], [1.0]);
    let page = include_str!("../../../../docs/observability.md");
    for name in ["ejections_enforced", "ejections_unenforced"] {
        assert!(page.contains(&format!("| `grpc.lb.outlier_detection.{name}` | counter |")), "{name}");
    }
    drop((channel, client));
    sleep(SECOND).await;
    assert_eq!(metrics.read()["hither.client.ejected{grpc.target=greeter}"], [0.0]);
}

/// A gauge that is set by each of two channels is that of the last one.
#[tokio::test(start_paused = true)]
async fn gauges_are_sums_over_the_channels_of_a_target_and_end_with_them() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1"] {
        servers.push(Server::on(&net, address));
        registry.up(address).await;
    }
    registry.up("d:1").await;
    let one = channel(&registry, &net).connect().await.unwrap();
    let other = channel(&registry, &net).connect().await.unwrap();
    sleep(SECOND).await;
    let gauge = |name: &str| metrics.read()[&format!("hither.client.{name}")][0];
    let state = |state: &str| gauge(&format!("instances{{grpc.target=greeter,hither.state={state}}}"));
    let states = || [state("READY"), state("CONNECTING"), state("TRANSIENT_FAILURE")];
    let registered = || [gauge("registered{grpc.target=greeter}"), gauge("held{grpc.target=greeter}")];
    assert_eq!((states(), registered()), ([6.0, 0.0, 2.0], [8.0, 0.0]));
    for lost in ["a:1", "b:1", "c:1"] {
        assert!(registry.faults().delete_record(&Registry::service(), &lost.parse().unwrap()));
    }
    sleep(SECOND).await;
    assert_eq!((states(), registered()), ([6.0, 0.0, 2.0], [2.0, 6.0]));
    drop(one);
    sleep(SECOND).await;
    assert_eq!((states(), registered()), ([3.0, 0.0, 1.0], [1.0, 3.0]));
    drop(other);
    sleep(SECOND).await;
    assert_eq!((states(), registered()), ([0.0; 3], [0.0; 2]));
    assert_eq!(metrics.read()["grpc.subchannel.open_connections{grpc.target=greeter}"], [0.0]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_counted_as_connecting_until_it_is_ready() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let frozen = peers::Frozen::on(&net, "a:1");
    registry.up("a:1").await;
    let _channel = channel(&registry, &net).connect_lazy().unwrap();
    let states = || {
        ["READY", "CONNECTING", "TRANSIENT_FAILURE"].map(|state| {
            metrics.read()[&format!("hither.client.instances{{grpc.target=greeter,hither.state={state}}}")][0]
        })
    };
    sleep(SECOND).await;
    assert_eq!(states(), [0.0, 1.0, 0.0]);
    let _server = frozen.thaw();
    sleep(SECOND).await;
    assert_eq!(states(), [1.0, 0.0, 0.0]);
}

#[tokio::test(start_paused = true)]
async fn staleness_grows_while_the_registry_cannot_be_reached() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let _channel = channel(&registry, &net).connect().await.unwrap();
    let staleness = || metrics.read()["hither.client.registry.staleness{grpc.target=greeter}"][0];
    assert_eq!(staleness(), 0.0);
    registry.faults().stop();
    for seconds in [60, 600] {
        sleep(seconds * SECOND).await;
        let stale = staleness();
        assert!((f64::from(seconds) - 6.0..=660.0).contains(&stale), "{stale}");
    }
    registry.faults().start();
    sleep(100 * SECOND).await;
    assert_eq!(staleness(), 0.0);
}

/// With registries of their own, of which one is down.
#[tokio::test(start_paused = true)]
async fn a_channel_that_is_up_to_date_hides_no_other_that_is_stale() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut down, mut up, net) = (Registry::new(), Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    down.up("a:1").await;
    up.up("a:1").await;
    let stale = channel(&down, &net).connect().await.unwrap();
    down.faults().stop();
    sleep(63 * SECOND).await;
    let staleness = || metrics.read()["hither.client.registry.staleness{grpc.target=greeter}"][0];
    let before = staleness();
    assert!(before > 0.0);
    let fresh = channel(&up, &net).connect().await.unwrap();
    assert_eq!(staleness(), before, "while it is made");
    up.up("b:1").await;
    sleep(SECOND / 100).await;
    assert_eq!(staleness(), before, "while it follows a change");
    drop(fresh);
    sleep(SECOND / 100).await;
    assert_eq!(staleness(), before, "when it is dropped");
    drop(stale);
    sleep(SECOND / 100).await;
    assert_eq!(staleness(), 0.0, "there is no channel any more");
}

/// Nothing is registered with the recorder, dialled or watched.
#[tokio::test(start_paused = true)]
async fn a_channel_with_settings_that_make_no_sense_starts_nothing() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (registry, net) = (Registry::new(), Net::new());
    let error = channel(&registry, &net).method("no/such/name", MethodConfig::default()).connect_lazy();
    assert!(error.unwrap_err().to_string().contains("no/such/name"));
    assert!(metrics.gauges.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn connections_are_counted_when_they_are_made_fail_and_end() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    sleep(SECOND).await;
    let read = || {
        let read = metrics.read();
        ["connection_attempts_succeeded", "connection_attempts_failed", "disconnections", "open_connections"]
            .map(|name| {
                let name = format!("grpc.subchannel.{name}{{grpc.target=greeter");
                read.range(name.clone()..)
                    .take_while(|(found, _)| found.starts_with(&name))
                    .map(|(_, value)| value[0])
                    .sum::<f64>()
            })
    };
    assert_eq!(read(), [1.0, 0.0, 0.0, 1.0]);
    server.break_connections();
    sleep(SECOND).await;
    assert_eq!(read(), [2.0, 0.0, 1.0, 1.0]);
    registry.up("b:1").await;
    sleep(SECOND / 2).await;
    assert_eq!(read(), [2.0, 1.0, 1.0, 1.0]);
    registry.leave("a:1").await;
    sleep(SECOND).await;
    let [succeeded, _, disconnections, open] = read();
    assert_eq!([succeeded, disconnections, open], [2.0, 2.0, 0.0], "an instance that left");
    drop(channel);
}

#[tokio::test(start_paused = true)]
async fn disconnections_have_the_reason_that_came_first() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).keepalive_while_idle(true).connect().await.unwrap();
    sleep(SECOND).await;
    let reasons = || -> Vec<_> {
        let read = metrics.read();
        let name = "grpc.subchannel.disconnections{grpc.target=greeter,grpc.disconnect_error=";
        let found = read.iter().filter_map(|(found, value)| Some((found.strip_prefix(name)?, value[0])));
        found.map(|(reason, count)| (reason.trim_end_matches('}').to_owned(), count)).collect()
    };
    let mut expected = Vec::new();
    let mut expect = |reason: &str| {
        expected.push((reason.to_owned(), 1.0));
        expected.sort_by(|(a, _), (b, _)| a.cmp(b));
        assert_eq!(reasons(), expected);
    };
    // It drains: GOAWAY, and then the end of the stream.
    server.stop();
    sleep(SECOND).await;
    expect("GOAWAY NO_ERROR");
    let server = Server::on(&net, "a:1");
    channel.wait_ready(10 * SECOND).await.unwrap();
    server.break_connections();
    sleep(SECOND / 10).await;
    // It says nothing.
    expect("unknown");
    drop(server);
    registry.leave("a:1").await;
    let _server = Server::on(&net, "b:1");
    registry.up("b:1").await;
    channel.wait_ready(10 * SECOND).await.unwrap();
    sleep(SECOND).await;
    registry.leave("b:1").await;
    sleep(SECOND).await;
    expect("subchannel shutdown");
    // A peer that answers nothing any more.
    peers::silent(&net, "c:1");
    registry.up("c:1").await;
    channel.wait_ready(10 * SECOND).await.unwrap();
    sleep(120 * SECOND).await;
    let timed_out = reasons().into_iter().find(|(reason, _)| reason == "connection timed out");
    assert!(timed_out.is_some_and(|(_, count)| count >= 1.0), "{:?}", reasons());
}

#[tokio::test(start_paused = true)]
async fn a_target_is_as_it_was_given() {
    let metrics = Metrics::default();
    let _guard = metrics.start();
    let registry = StaticRegistry::new([Instance::new("a:1".parse().unwrap())]);
    let registries =
        hither_core::Registries::new().with("etcd", hither_core::Discovery::new(registry.clone()));
    let target = format!("etcd:///{SERVICE}");
    let _channel = DiscoveryChannel::for_target(&target, &registries)
        .unwrap()
        .connector(Net::new())
        .policy(RoundRobin::default())
        .connect_lazy()
        .unwrap();
    sleep(SECOND).await;
    let failed = format!("grpc.subchannel.connection_attempts_failed{{grpc.target={target}}}");
    assert!(metrics.read()[&failed][0] >= 1.0);
}
