//! The data of etcd: compacted, wiped, restored from a copy, and changed by others.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions};
use futures_util::future::join_all;
use hither_core::{Claim, Registrar, Registration, RegistrationStatus};
use hither_etcd::EtcdConfig;
use tokio::time::sleep;

use crate::report::Row;
use crate::scene::{Lease, Scene, TTL, Truth};
use crate::support::{Etcd, Proxy, delete, get, instance, put, put_many, unique_service};

crate::faults! {
    compacted_while_connected
    compacted_while_disconnected
    wiped
    wiped_and_written_to
    older_copy_put_back
    older_copy_without_us_put_back
    older_copy_with_our_predecessor_put_back
    out_of_space
    events_come_late_and_again
    key_deleted
    all_keys_deleted
    lease_revoked
    put_without_a_lease
    changed_under_our_lease
    garbage_over_our_record
    poison_under_the_prefix
    taken_over
    returns_after_its_successor
    more_than_four_mebibytes
}

async fn scene(fault: &'static str) -> (Etcd, Scene) {
    let etcd = Etcd::start().await;
    let scene = Scene::new(fault, etcd.config(), Truth::at([etcd.endpoint()])).await;
    (etcd, scene)
}

/// The same with a way to etcd that can be lost.
async fn scene_with_a_way(fault: &'static str) -> (Etcd, Proxy, Scene) {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let truth = Truth::at([etcd.endpoint()]);
    let scene = Scene::new(fault, EtcdConfig::new([proxy.endpoint()]), truth).await;
    (etcd, proxy, scene)
}

async fn compact(client: &mut Client) {
    let now = client.get("any", None).await.unwrap().header().unwrap().revision();
    client.compact(now, Some(CompactionOptions::new().with_physical())).await.unwrap();
}

async fn compacted_while_connected() -> Row {
    let (_etcd, mut scene) = scene("history compacted under an open watch").await;
    for round in 0..5 {
        scene.joins(&format!("10.0.1.{round}:80")).await;
        scene.note().await;
        compact(&mut scene.client().await).await;
    }
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn compacted_while_disconnected() -> Row {
    let (_etcd, proxy, mut scene) = scene_with_a_way("history compacted while disconnected").await;
    scene.is_just_renewed().await;
    proxy.refuse_new();
    // What makes the proxy see to it is not the cut: until it has, a new connection may still come through.
    sleep(Duration::from_millis(100)).await;
    proxy.cut();
    scene.is_stale().await;
    let mut client = scene.client().await;
    for round in 0..5 {
        scene.joins(&format!("10.0.1.{round}:80")).await;
    }
    delete(&client, &format!("{}/10.0.0.2:80", scene.service())).await;
    scene.note().await;
    compact(&mut client).await;
    proxy.thaw();
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn wiped() -> Row {
    let (mut etcd, mut scene) = scene("data wiped").await;
    etcd.kill();
    scene.is_stale().await;
    etcd.wipe();
    scene.another_past();
    let _etcd = etcd.start_again().await;
    scene.loses(Some(&["10.0.0.2:80", "10.0.0.3:80"]));
    // At first there is no instance, or ours alone; others that join would be counted.
    scene.is_fresh_and_right().await;
    scene.over();
    scene.recovers(Lease::New).await
}

/// So quick that no client was disconnected for long, and with more written to it than before.
async fn wiped_and_written_to() -> Row {
    let (mut etcd, mut scene) = scene("data wiped, and as many revisions written at once").await;
    etcd.kill();
    etcd.wipe();
    scene.another_past();
    let etcd = etcd.start_again().await;
    let client = etcd.client().await;
    for _ in 0..50 {
        put(&client, "other", "", 0).await;
    }
    scene.loses(None);
    scene.over();
    scene.recovers(Lease::New).await
}

async fn older_copy_put_back() -> Row {
    let (mut etcd, mut scene) = scene("an older copy of the data put back, with our lease").await;
    etcd.kill();
    etcd.back_up();
    let mut etcd = etcd.start_again().await;
    scene.joins("10.0.0.4:80").await;
    delete(&scene.client().await, &format!("{}/10.0.0.2:80", scene.service())).await;
    scene.is_fresh_and_right().await;
    etcd.kill();
    etcd.restore();
    scene.another_past();
    let _etcd = etcd.start_again().await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn older_copy_without_us_put_back() -> Row {
    let mut etcd = Etcd::start().await;
    etcd.stop().await;
    etcd.back_up();
    let mut etcd = etcd.start_again().await;
    let fault = "an older copy of the data put back, from before us";
    let mut scene = Scene::new(fault, etcd.config(), Truth::at([etcd.endpoint()])).await;
    etcd.kill();
    etcd.restore();
    scene.another_past();
    let _etcd = etcd.start_again().await;
    scene.loses(None);
    scene.over();
    scene.recovers(Lease::New).await
}

/// As with a backup from before the last deployment: our key has the record of a process that is gone.
async fn older_copy_with_our_predecessor_put_back() -> Row {
    let mut etcd = Etcd::start().await;
    let service = unique_service();
    let predecessor =
        Registration::new(service.clone(), instance("10.0.0.1:80")).unwrap().with_ttl(TTL).unwrap();
    let lease = etcd.registry().register(&predecessor, Claim::TakeOver).await.unwrap();
    etcd.stop().await;
    etcd.back_up();
    drop(lease);
    let mut etcd = etcd.start_again().await;
    let fault = "an older copy of the data put back, with our predecessor";
    let config = etcd.config();
    let mut scene =
        Scene::in_service(fault, service, config.clone(), config, Truth::at([etcd.endpoint()])).await;
    etcd.kill();
    etcd.restore();
    scene.another_past();
    let _etcd = etcd.start_again().await;
    scene.loses(None);
    scene.over();
    scene.recovers(Lease::New).await
}

/// Reads and renewals go on; nothing can be written until an operator has made room.
async fn out_of_space() -> Row {
    let etcd = Etcd::start_with(&["--quota-backend-bytes", "4000000"]).await;
    let truth = Truth::at([etcd.endpoint()]);
    let mut scene = Scene::new("etcd out of space for 10 s", etcd.config(), truth).await;
    let mut client = scene.client().await;
    let large = "x".repeat(500_000);
    while client.put("other", large.as_str(), None).await.is_ok() {}
    sleep(2 * TTL).await;
    assert!(client.put("other", "", None).await.is_err(), "there is still no space");
    let status = scene.handle.status();
    assert!(matches!(status, RegistrationStatus::Registered), "it renews without writing: {status:?}");
    scene.note().await;
    compact(&mut client).await;
    client.defragment().await.unwrap();
    let member = client.status().await.unwrap().header().unwrap().member_id();
    let mut of_member = AlarmOptions::new();
    of_member.with_member(member);
    client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of_member)).await.unwrap();
    scene.over();
    scene.recovers(Lease::Kept).await
}

/// The watcher compares with a listing all the time, whose answer is on its way together with events from before it.
async fn events_come_late_and_again() -> Row {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    proxy.delay(Duration::from_millis(20));
    let config = EtcdConfig::new([proxy.endpoint()]).with_resync_interval(Duration::from_millis(50));
    let fault = "events come after a listing that has them, and again";
    let mut scene = Scene::new(fault, config, Truth::at([etcd.endpoint()])).await;
    let client = scene.client().await;
    let writing = (0..8).map(|writer| {
        let (client, key) = (client.clone(), format!("{}/10.0.2.{writer}:80", scene.service()));
        async move {
            for round in 0..250 {
                put(&client, &key, format!(r#"{{"Addr":"10.0.2.{writer}:{}"}}"#, round + 1), 0).await;
                if round % 3 == 0 {
                    delete(&client, &key).await;
                }
                sleep(Duration::from_millis(2)).await;
            }
        }
    });
    join_all(writing).await;
    scene.loses(None);
    // Each new watch begins with the last events of the one before it.
    for _ in 0..3 {
        proxy.cut();
        sleep(Duration::from_secs(1)).await;
    }
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn key_deleted() -> Row {
    let (_etcd, mut scene) = scene("our key deleted by hand").await;
    delete(&scene.client().await, &scene.key()).await;
    scene.over();
    scene.recovers(Lease::PutBack).await
}

async fn all_keys_deleted() -> Row {
    let (_etcd, mut scene) = scene("all keys of the service deleted by hand").await;
    let mut client = scene.client().await;
    // An operator's mistake looks the same as all instances vanishing at once.
    scene.loses(Some(&["10.0.0.2:80", "10.0.0.3:80"]));
    let all = etcd_client::DeleteOptions::new().with_prefix();
    client.delete(format!("{}/", scene.service()), Some(all)).await.unwrap();
    scene.over();
    scene.recovers(Lease::PutBack).await
}

async fn lease_revoked() -> Row {
    let (_etcd, mut scene) = scene("our lease revoked by hand").await;
    scene.client().await.lease_revoke(scene.lease()).await.unwrap();
    scene.over();
    scene.recovers(Lease::New).await
}

async fn put_without_a_lease() -> Row {
    let (_etcd, mut scene) = scene("our record put again by a Go manager, without a lease").await;
    let value = r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}"#;
    put(&scene.client().await, &scene.key(), value, 0).await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn changed_under_our_lease() -> Row {
    let (_etcd, mut scene) = scene("our record changed by hand, on our lease").await;
    put(&scene.client().await, &scene.key(), r#"{"Addr":"10.9.9.9:80"}"#, scene.lease()).await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn garbage_over_our_record() -> Row {
    let (_etcd, mut scene) = scene("garbage put over our record by hand").await;
    put(&scene.client().await, &scene.key(), &b"\xff\x00{"[..], 0).await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn poison_under_the_prefix() -> Row {
    let (_etcd, mut scene) = scene("undecodable records under the prefix").await;
    let client = scene.client().await;
    for (number, poison) in
        [&b""[..], b"\xff\xfe", b"null", b"{", b"{\"Addr\":7}", b"[[[[", b"{\"Addr\":\"\"}"]
            .into_iter()
            .chain([b"[".repeat(100_000).as_slice()])
            .enumerate()
    {
        put(&client, &format!("{}/poison-{number}", scene.service()), poison, 0).await;
    }
    // Also over a good one, which is gone then.
    put(&client, &format!("{}/10.0.0.2:80", scene.service()), "10", 0).await;
    scene.over();
    scene.recovers(Lease::Kept).await
}

async fn taken_over() -> Row {
    let (etcd, mut scene) = scene("another process takes our id over").await;
    let desired = Registration::new(scene.service().clone(), instance("10.0.0.1:80"))
        .unwrap()
        .with_ttl(4 * TTL)
        .unwrap();
    let _theirs = etcd.registry().register(&desired, Claim::TakeOver).await.unwrap();
    scene.over();
    scene.yields().await
}

async fn returns_after_its_successor() -> Row {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let truth = Truth::at([etcd.endpoint()]);
    let config = EtcdConfig::new([proxy.endpoint()]);
    let fault = "an owner returns from a partition after its successor registered";
    let mut scene = Scene::new(fault, config, truth).await;
    proxy.freeze();
    scene.is_stale().await;
    let client = scene.client().await;
    while get(&client, &scene.key()).await.is_some() {
        sleep(Duration::from_millis(50)).await;
    }
    let desired = Registration::new(scene.service().clone(), instance("10.0.0.1:80"))
        .unwrap()
        .with_ttl(12 * TTL)
        .unwrap();
    let _successor = etcd.registry().register(&desired, Claim::IfVacant).await.unwrap();
    proxy.thaw();
    scene.over();
    scene.yields().await
}

/// 10,000 instances of 3,000 bytes: a page of the listing has 6 MB.
async fn more_than_four_mebibytes() -> Row {
    const COUNT: usize = 10_000;
    let (_etcd, proxy, mut scene) =
        scene_with_a_way("10,000 instances, more than 4 MiB, come while disconnected").await;
    proxy.refuse_new();
    sleep(Duration::from_millis(100)).await;
    proxy.cut();
    scene.is_stale().await;
    let client = scene.client().await;
    let padding = "x".repeat(3000);
    let record = |at: usize| {
        let value = format!(r#"{{"Op":0,"Addr":"h{at}:80","Metadata":"{padding}"}}"#);
        (format!("{}/h{at}:80", scene.service()), value)
    };
    put_many(&client, 0, (0..COUNT).map(record)).await;
    proxy.thaw();
    scene.over();
    scene.recovers(Lease::Either).await
}
