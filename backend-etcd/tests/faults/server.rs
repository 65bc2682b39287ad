//! One etcd, which dies, stops, freezes and comes back.

use std::time::Duration;

use hither_core::{Claim, Registrar, Registration, Resolver};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use tokio::time::{Instant, sleep};

use crate::report::Row;
use crate::scene::{Lease, Scene, TTL, Truth};
use crate::support::{Etcd, LONG, Proxy, get, instance};

crate::faults! {
    killed_for_less_than_the_ttl
    killed_for_more_than_the_ttl
    a_server_dies_while_it_is_down
    stopped_and_started
    restarted_again_and_again
    frozen_for_less_than_the_ttl
    frozen_for_more_than_the_ttl
    started_last
    nothing_happens
}

async fn scene(fault: &'static str, etcd: &Etcd) -> Scene {
    Scene::new(fault, etcd.config(), Truth::at([etcd.endpoint()])).await
}

async fn killed_for(fault: &'static str, outage: Duration) -> Row {
    let mut etcd = Etcd::start().await;
    let mut scene = scene(fault, &etcd).await;
    etcd.kill();
    scene.is_stale().await;
    sleep(outage).await;
    let _etcd = etcd.start_again().await;
    scene.over();
    // etcd gives every lease its whole TTL again when it comes back.
    scene.recovers(Lease::Kept).await
}

async fn killed_for_less_than_the_ttl() -> Row {
    killed_for("etcd killed for 2 s, less than the TTL", Duration::from_secs(2)).await
}

async fn killed_for_more_than_the_ttl() -> Row {
    killed_for("etcd killed for 9 s, more than the TTL", Duration::from_secs(9)).await
}

/// Its lease is not revoked, and etcd gives it its whole TTL again: the longest that a record may outlive its process.
async fn a_server_dies_while_it_is_down() -> Row {
    let mut etcd = Etcd::start().await;
    let fault = "etcd killed for 9 s, and a server dies meanwhile";
    let mut scene = scene(fault, &etcd).await;
    let dying =
        Registration::new(scene.service().clone(), instance("10.0.0.4:80")).unwrap().with_ttl(TTL).unwrap();
    let lease = etcd.registry().register(&dying, Claim::TakeOver).await.unwrap();
    scene.shows("10.0.0.4:80").await;
    etcd.kill();
    scene.is_stale().await;
    drop(lease);
    sleep(Duration::from_secs(9)).await;
    let etcd = etcd.start_again().await;
    scene.over();
    let (client, key) = (etcd.client().await, format!("{}/10.0.0.4:80", scene.service()));
    let back = Instant::now();
    while get(&client, &key).await.is_some() {
        assert!(back.elapsed() < TTL + Duration::from_secs(6), "it outlives its process for too long");
        sleep(Duration::from_millis(50)).await;
    }
    scene.recovers(Lease::Kept).await
}

async fn stopped_and_started() -> Row {
    let mut etcd = Etcd::start().await;
    let mut scene = scene("etcd stopped in order and started again", &etcd).await;
    etcd.stop().await;
    scene.is_stale().await;
    let _etcd = etcd.start_again().await;
    scene.over();
    // While it waits for its streams to end it takes no connection any more, but goes on expiring leases: for up to 7 s,
    // with etcd 3.6.
    scene.recovers(Lease::Either).await
}

async fn restarted_again_and_again() -> Row {
    let mut etcd = Etcd::start().await;
    let mut scene = scene("etcd killed five times, as soon as it serves", &etcd).await;
    for _ in 0..5 {
        etcd.kill();
        etcd = etcd.start_again().await;
    }
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn frozen_for_less_than_the_ttl() -> Row {
    let etcd = Etcd::start().await;
    let mut scene = scene("etcd frozen for 3 s, less than the TTL", &etcd).await;
    scene.is_just_renewed().await;
    let frozen = etcd.freeze();
    sleep(TTL - Duration::from_secs(2)).await;
    drop(frozen);
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn frozen_for_more_than_the_ttl() -> Row {
    let etcd = Etcd::start().await;
    let mut scene = scene("etcd frozen for 10 s, more than the TTL", &etcd).await;
    let frozen = etcd.freeze();
    sleep(2 * TTL).await;
    scene.is_stale().await;
    drop(frozen);
    scene.over();
    // It resumes with the lease, and its expiry and our renewal race.
    scene.recovers(Lease::Either).await
}

/// Neither the server nor the client waits for etcd to be there first.
async fn started_last() -> Row {
    let mut etcd = Etcd::start().await;
    etcd.stop().await;
    let config = etcd.config();
    let truth = Truth::at([etcd.endpoint()]);
    let coming = async {
        sleep(TTL).await;
        etcd.start_again().await
    };
    let fault = "etcd not there yet when both start";
    let scene = Scene::new(fault, config, truth);
    let (mut scene, _etcd) = tokio::join!(scene, coming);
    scene.over();
    scene.recovers(Lease::Kept).await
}

/// Longer than etcd needs to close a connection for too many pings: a third strike, a minute and a quarter.
async fn nothing_happens() -> Row {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    // However slow the machine is: a deadline, of which a renewal has one by the TTL, would have another connection opened.
    let config = |proxy: &Proxy| EtcdConfig::new([proxy.endpoint()]).with_request_timeout(LONG);
    let (fault, truth) = ("nothing at all for 75 s", Truth::at([etcd.endpoint()]));
    let mut scene = Scene::with_ttl(fault, 5 * TTL, config(&proxy), truth).await;
    // And a client that sends one request, and then nothing: its connection has no stream.
    let idle_proxy = Proxy::start(etcd.endpoint()).await;
    let idle = EtcdRegistry::connect(config(&idle_proxy)).unwrap();
    idle.resolve(scene.service()).await.unwrap();
    let before = proxy.connections();
    sleep(Duration::from_secs(75)).await;
    assert_eq!(proxy.connections(), before, "etcd has closed a connection");
    assert_eq!(idle_proxy.open_connections(), 1, "etcd has closed the idle connection");
    idle.resolve(scene.service()).await.unwrap();
    assert_eq!(idle_proxy.connections(), 1);
    scene.over();
    scene.recovers(Lease::Kept).await
}
