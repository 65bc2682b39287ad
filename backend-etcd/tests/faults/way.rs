//! The way to etcd: cut, swallowed, refused, slow.

use std::time::Duration;

use hither_etcd::EtcdConfig;
use tokio::time::sleep;

use crate::report::Row;
use crate::scene::{Lease, Scene, TTL, Truth};
use crate::support::{Etcd, Proxy};

crate::faults! {
    cut
    cut_again_and_again
    old_connections_swallowed
    all_connections_swallowed_for_less_than_the_ttl
    all_connections_swallowed_for_more_than_the_ttl
    new_connections_swallowed
    new_connections_refused
    slow
    one_of_two_ways_swallowed
}

async fn scene(fault: &'static str) -> (Etcd, Proxy, Scene) {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let config = EtcdConfig::new([proxy.endpoint()]);
    let scene = Scene::new(fault, config, Truth::at([etcd.endpoint()])).await;
    (etcd, proxy, scene)
}

async fn cut() -> Row {
    let (_etcd, proxy, mut scene) = scene("all connections cut").await;
    scene.over();
    proxy.cut();
    scene.recovers(Lease::Kept).await
}

async fn cut_again_and_again() -> Row {
    let (_etcd, proxy, mut scene) = scene("all connections cut every 700 ms for 7 s").await;
    for round in 0..10 {
        proxy.cut();
        if round % 3 == 0 {
            scene.joins(&format!("10.0.1.{round}:80")).await;
        }
        // Time for a renewal, also on a busy machine.
        sleep(Duration::from_millis(700)).await;
    }
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn old_connections_swallowed() -> Row {
    let (_etcd, proxy, mut scene) = scene("old connections swallow everything, new ones work").await;
    scene.is_just_renewed().await;
    scene.over();
    proxy.freeze_old();
    scene.is_stale().await;
    scene.recovers(Lease::Kept).await
}

async fn all_connections_swallowed_for_less_than_the_ttl() -> Row {
    let (_etcd, proxy, mut scene) = scene("every connection swallows everything for 2 s").await;
    scene.is_just_renewed().await;
    proxy.freeze();
    sleep(Duration::from_secs(2)).await;
    proxy.thaw();
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn all_connections_swallowed_for_more_than_the_ttl() -> Row {
    let (_etcd, proxy, mut scene) = scene("every connection swallows everything for 10 s").await;
    proxy.freeze();
    scene.is_stale().await;
    scene.joins("10.0.0.4:80").await;
    sleep(2 * TTL).await;
    proxy.thaw();
    scene.over();
    scene.recovers(Lease::New).await
}

async fn new_connections_swallowed() -> Row {
    let (_etcd, proxy, mut scene) =
        scene("new connections swallow everything, then the old are cut, for 2 s").await;
    proxy.freeze_new();
    scene.is_just_renewed().await;
    proxy.cut();
    sleep(Duration::from_secs(2)).await;
    proxy.thaw();
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn new_connections_refused() -> Row {
    let (_etcd, proxy, mut scene) = scene("new connections refused and the old cut, for 10 s").await;
    proxy.refuse_new();
    sleep(Duration::from_secs(1)).await;
    proxy.cut();
    scene.is_stale().await;
    scene.joins("10.0.0.4:80").await;
    sleep(2 * TTL).await;
    proxy.thaw();
    scene.over();
    scene.recovers(Lease::New).await
}

async fn slow() -> Row {
    let (_etcd, proxy, mut scene) = scene("everything 200 ms late, each way").await;
    proxy.delay(Duration::from_millis(200));
    scene.joins("10.0.0.4:80").await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

/// A way that works and one that does not: where both were up when it began, and the one in use fails.
async fn one_of_two_ways_swallowed() -> Row {
    let etcd = Etcd::start().await;
    let ways = [Proxy::start(etcd.endpoint()).await, Proxy::start(etcd.endpoint()).await];
    let config = EtcdConfig::new(ways.each_ref().map(Proxy::endpoint));
    let fault = "one of two ways swallows everything, then only the other";
    let mut scene = Scene::new(fault, config, Truth::at([etcd.endpoint()])).await;
    scene.is_just_renewed().await;
    ways[0].freeze();
    sleep(2 * TTL).await;
    ways[0].thaw();
    scene.is_just_renewed().await;
    ways[1].freeze();
    scene.over();
    scene.recovers(Lease::Kept).await
}
