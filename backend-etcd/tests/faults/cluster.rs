//! A cluster of three, of which one or two are lost.

use std::time::Duration;

use hither_etcd::EtcdConfig;
use tokio::time::sleep;

use crate::report::Row;
use crate::scene::{Lease, Scene, Truth};
use crate::support::Cluster;

crate::faults! {
    leader_killed
    leader_killed_and_back
    leader_frozen
    leader_frozen_and_back
    followers_killed
    members_frozen
    quorum_lost
    quorum_lost_for_long
    quorum_frozen
    members_isolated
    followers_starved
    rolling_restart
}

const SECOND: Duration = Duration::from_secs(1);

/// The default: it has to outlast an election and the renewals that fail until then.
const TTL: Duration = Duration::from_secs(10);

async fn scene(fault: &'static str) -> (Cluster, Scene) {
    let cluster = Cluster::start().await;
    let scene = Scene::with_ttl(fault, TTL, cluster.config(), Truth::at(cluster.endpoints())).await;
    (cluster, scene)
}

async fn leader_killed() -> Row {
    let (mut cluster, mut scene) = scene("cluster: leader killed").await;
    let (leader, _) = cluster.leader().await;
    scene.over();
    cluster.kill(leader);
    scene.recovers(Lease::Kept).await
}

async fn leader_killed_and_back() -> Row {
    let (mut cluster, mut scene) = scene("cluster: leader killed, and back after 20 s").await;
    let (leader, _) = cluster.leader().await;
    cluster.kill(leader);
    scene.joins("10.0.0.4:80").await;
    sleep(2 * TTL).await;
    cluster.start_again(&[leader]).await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn leader_frozen() -> Row {
    let (cluster, mut scene) = scene("cluster: leader frozen").await;
    let (leader, _) = cluster.leader().await;
    scene.is_just_renewed().await;
    scene.over();
    let _frozen = cluster.freeze(leader);
    scene.recovers(Lease::Kept).await
}

async fn leader_frozen_and_back() -> Row {
    let (cluster, mut scene) = scene("cluster: leader frozen for 20 s").await;
    let (leader, _) = cluster.leader().await;
    let frozen = cluster.freeze(leader);
    sleep(2 * TTL).await;
    drop(frozen);
    scene.over();
    // An old leader that resumes may revoke leases that it believes to have expired: etcd-io/etcd#15247, until 3.4.31 and 3.5.13.
    scene.recovers(Lease::Either).await
}

/// One of the two is the one that is talked to, as often as not.
async fn followers_killed() -> Row {
    let (mut cluster, mut scene) = scene("cluster: one follower killed for 4 s, then the other").await;
    let (_, followers) = cluster.leader().await;
    for follower in followers {
        cluster.kill(follower);
        scene.joins(&format!("10.0.1.{follower}:80")).await;
        sleep(4 * SECOND).await;
        cluster.start_again(&[follower]).await;
    }
    scene.over();
    scene.recovers(Lease::Kept).await
}

/// The member in use is among them, and so is the leader.
async fn members_frozen() -> Row {
    let (cluster, mut scene) = scene("cluster: each member in turn frozen for 6 s").await;
    for member in 0..3 {
        cluster.leader().await;
        let frozen = cluster.freeze(member);
        let newcomer = format!("10.0.1.{member}:80");
        scene.joins_where(&newcomer, &others(&cluster, member)).await;
        scene.shows(&newcomer).await;
        sleep(6 * SECOND).await;
        drop(frozen);
    }
    scene.over();
    // As in `leader_frozen_and_back`.
    scene.recovers(Lease::Either).await
}

async fn quorum_killed_for(fault: &'static str, outage: Duration) -> Row {
    let (mut cluster, mut scene) = scene(fault).await;
    let (leader, [follower, _]) = cluster.leader().await;
    scene.note().await;
    cluster.kill(leader);
    cluster.kill(follower);
    scene.is_stale().await;
    sleep(outage).await;
    cluster.start_again(&[leader, follower]).await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn quorum_lost() -> Row {
    quorum_killed_for("cluster: two killed for 2 s", 2 * SECOND).await
}

async fn quorum_lost_for_long() -> Row {
    quorum_killed_for("cluster: two killed for 20 s, more than the TTL", 2 * TTL).await
}

async fn quorum_frozen() -> Row {
    let (cluster, mut scene) = scene("cluster: two frozen for more than 20 s").await;
    let (_, [one, other]) = cluster.leader().await;
    let frozen = [cluster.freeze(one), cluster.freeze(other)];
    scene.is_stale().await;
    sleep(2 * TTL).await;
    drop(frozen);
    scene.over();
    // The leader has stepped down meanwhile, and the new one gives every lease its whole TTL.
    scene.recovers(Lease::Kept).await
}

/// One of them is the member in use: it goes on serving stale data to clients that do not require a leader.
async fn members_isolated() -> Row {
    let (cluster, mut scene) = scene("cluster: each member in turn cut off from the others").await;
    for member in 0..3 {
        cluster.leader().await;
        scene.is_just_renewed().await;
        cluster.isolate(member).await;
        let newcomer = format!("10.0.1.{member}:80");
        scene.joins_where(&newcomer, &others(&cluster, member)).await;
        // From the others: this one cannot know.
        scene.shows(&newcomer).await;
        sleep(4 * SECOND).await;
        cluster.heal();
        sleep(2 * SECOND).await;
    }
    scene.over();
    scene.recovers(Lease::Kept).await
}

/// A follower whose disk has stopped: it has a leader, and answers what it knows, but learns nothing. Only the followers are
/// talked to, so that one of them is the one.
async fn followers_starved() -> Row {
    let cluster = Cluster::start().await;
    let (_, followers) = cluster.leader().await;
    let endpoints = cluster.endpoints();
    let config = EtcdConfig::new(followers.map(|follower| endpoints[follower].clone()));
    let fault = "cluster: one follower learns nothing new, then the other";
    let mut scene = Scene::with_ttl(fault, TTL, config, Truth::at(endpoints)).await;
    for follower in followers {
        scene.is_just_renewed().await;
        cluster.starve(follower).await;
        let newcomer = format!("10.0.1.{follower}:80");
        scene.joins_where(&newcomer, &others(&cluster, follower)).await;
        scene.shows(&newcomer).await;
        cluster.feed();
        sleep(2 * SECOND).await;
    }
    scene.over();
    scene.recovers(Lease::Kept).await
}

fn others(cluster: &Cluster, member: usize) -> Vec<String> {
    let endpoints = cluster.endpoints().into_iter().enumerate();
    endpoints.filter(|(at, _)| *at != member).map(|(_, endpoint)| endpoint).collect()
}

async fn rolling_restart() -> Row {
    let (mut cluster, mut scene) = scene("cluster: all members restarted, one after the other").await;
    for member in 0..3 {
        cluster.kill(member);
        sleep(SECOND).await;
        cluster.start_again(&[member]).await;
        scene.joins(&format!("10.0.1.{member}:80")).await;
    }
    scene.over();
    scene.recovers(Lease::Kept).await
}
