//! Watches of a real etcd with a history: compacted, wiped, restored.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, Permission};
use futures_util::StreamExt;
use hither_core::{ErrorKind, Resolver, ServiceName, Snapshot, SnapshotStream};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use support::{
    Etcd, LONG, Proxy, comes_to, delete, ends, ids, instance, next, put, put_many, register, registration,
    shared, unique_service, watch,
};
use tokio::time::{Instant, sleep, timeout};

/// Watches on from a snapshot, and reads the first one.
async fn resume(registry: &EtcdRegistry, since: &Snapshot) -> (SnapshotStream, Snapshot) {
    let watch = registry.watch(since.service());
    let mut watch = timeout(LONG, watch).await.unwrap().unwrap();
    let first = next(&mut watch).await.unwrap().unwrap();
    (watch, first)
}

fn is_same_arc(before: &Snapshot, after: &Snapshot, id: &str) -> bool {
    let of = |snapshot: &Snapshot| {
        let found = snapshot.iter().find(|instance| instance.id().as_str() == id);
        found.map(Arc::as_ptr)
    };
    of(before).is_some() && of(before) == of(after)
}

#[tokio::test]
async fn a_new_watch_begins_with_the_present_and_keeps_what_does_not_change() {
    let (registry, service) = (shared().await.registry(), unique_service());
    let _stays = register(&registry, &service, "stays:1").await;
    let mut leaves = register(&registry, &service, "leaves:1").await;
    let mut changes = register(&registry, &service, "changes:1").await;
    let since = comes_to(&mut watch(&registry, &service).await, &["changes:1", "leaves:1", "stays:1"]).await;

    leaves.revoke().await.unwrap();
    changes.update(&registration(&service, instance("changes:1").with_weight(5))).await.unwrap();
    let _joins = register(&registry, &service, "joins:1").await;
    let (mut watch, first) = resume(&registry, &since).await;
    assert_eq!(ids(&first), ["changes:1", "joins:1", "stays:1"]);
    assert_eq!(first.iter().next().unwrap().weight(), 5);

    changes.revoke().await.unwrap();
    let last = comes_to(&mut watch, &["joins:1", "stays:1"]).await;
    assert!(is_same_arc(&first, &last, "stays:1"));
}

#[tokio::test]
async fn a_compaction_while_disconnected_does_not_matter() {
    let etcd = Etcd::start().await;
    let (registry, service) = (etcd.registry(), unique_service());
    let mut client = etcd.client().await;
    let mut leaves = register(&registry, &service, "leaves:1").await;
    let _stays = register(&registry, &service, "stays:1").await;
    let since = comes_to(&mut watch(&registry, &service).await, &["leaves:1", "stays:1"]).await;
    leaves.revoke().await.unwrap();
    let _joins = register(&registry, &service, "joins:1").await;
    compact(&mut client).await;
    let (mut watch, first) = resume(&registry, &since).await;
    assert_eq!(ids(&first), ["joins:1", "stays:1"]);
    put(&client, &format!("{service}/later"), r#"{"Addr":"later:1"}"#, 0).await;
    comes_to(&mut watch, &["joins:1", "later", "stays:1"]).await;
}

#[tokio::test]
async fn a_compaction_under_an_open_watch_does_not_matter() {
    let etcd = Etcd::start().await;
    let (registry, service) = (etcd.registry(), unique_service());
    let mut client = etcd.client().await;
    let mut watch = watch(&registry, &service).await;
    put(&client, &format!("{service}/0"), r#"{"Addr":"h:1"}"#, 0).await;
    comes_to(&mut watch, &["0"]).await;
    for round in 1..5 {
        put(&client, &format!("{service}/{round}"), r#"{"Addr":"h:1"}"#, 0).await;
        compact(&mut client).await;
    }
    comes_to(&mut watch, &["0", "1", "2", "3", "4"]).await;
}

async fn compact(client: &mut Client) {
    let now = revision(client).await;
    client.compact(now, None).await.unwrap();
}

#[tokio::test]
async fn a_wiped_etcd_is_noticed_even_if_it_looks_like_the_old_one() {
    let mut etcd = Etcd::start().await;
    let (registry, service) = (etcd.registry(), unique_service());
    let mut client = etcd.client().await;
    for _ in 0..20 {
        put(&client, "other", "", 0).await;
    }
    let _old = register(&registry, &service, "old:1").await;
    let mut before = watch(&registry, &service).await;
    let since = comes_to(&mut before, &["old:1"]).await;
    let then = revision(&mut client).await;

    etcd.kill();
    assert_eq!(ends(&mut before).await.kind(), ErrorKind::Unavailable);
    etcd.wipe();
    let etcd = etcd.start_again().await;

    // The cluster id is the same, and its revision is below that of `since`, then the same, then above.
    let mut client = etcd.client().await;
    for goal in [0, then, then + 20] {
        while revision(&mut client).await < goal {
            put(&client, "other", "", 0).await;
        }
        let (mut watch, first) = resume_in_time(&registry, &since).await;
        assert_eq!(ids(&first).len(), 0, "at {goal}");
        put(&client, &format!("{service}/new"), r#"{"Addr":"new:1"}"#, 0).await;
        comes_to(&mut watch, &["new"]).await;
        delete(&client, &format!("{service}/new")).await;
        comes_to(&mut watch, &[]).await;
    }
}

/// Up to the copy the two pasts are the same, our newest record included; after it one has lost another record.
#[tokio::test]
async fn an_older_copy_of_the_data_that_has_caught_up_is_noticed() {
    let mut etcd = Etcd::start().await;
    let (registry, service) = (etcd.registry(), unique_service());
    let _older = register(&registry, &service, "older:1").await;
    let mut leaves = register(&registry, &service, "leaves:1").await;
    let _stays = register(&registry, &service, "stays:1").await;
    etcd.kill();
    etcd.back_up();
    let mut etcd = etcd.start_again().await;
    drop(resume_in_time(&registry, &Snapshot::new(service.clone(), [])).await);
    leaves.revoke().await.unwrap();
    for _ in 0..5 {
        put(&etcd.client().await, "other", "", 0).await;
    }
    let since = comes_to(&mut watch(&registry, &service).await, &["older:1", "stays:1"]).await;
    let then = revision(&mut etcd.client().await).await;

    for newcomer in [false, true] {
        etcd.kill();
        etcd.restore();
        etcd = etcd.start_again().await;
        let mut client = etcd.client().await;
        if newcomer {
            // There are as many as before, but not the same.
            put(&client, &format!("{service}/comes:1"), r#"{"Addr":"comes:1"}"#, 0).await;
            delete(&client, &format!("{service}/leaves:1")).await;
            delete(&client, &format!("{service}/older:1")).await;
        }
        while revision(&mut client).await < then {
            put(&client, "other", "", 0).await;
        }
        let (_watch, first) = resume_in_time(&registry, &since).await;
        let expected: &[&str] =
            if newcomer { &["comes:1", "stays:1"] } else { &["leaves:1", "older:1", "stays:1"] };
        assert_eq!(ids(&first), expected);
    }
}

async fn revision(client: &mut Client) -> i64 {
    client.get("any", None).await.unwrap().header().unwrap().revision()
}

/// Tries until etcd is back: a backend makes one attempt.
async fn resume_in_time(registry: &EtcdRegistry, since: &Snapshot) -> (SnapshotStream, Snapshot) {
    let deadline = Instant::now() + LONG;
    while registry.resolve(since.service()).await.is_err() {
        assert!(Instant::now() < deadline, "etcd does not come back");
    }
    resume(registry, since).await
}

#[tokio::test]
async fn a_resync_without_a_change_yields_nothing() {
    let etcd = Etcd::start().await;
    let service = unique_service();
    let config = etcd.config().with_resync_interval(Duration::from_millis(20));
    let registry = EtcdRegistry::connect(config).unwrap();
    let _a = register(&registry, &service, "a:1").await;
    let mut watch = watch(&registry, &service).await;
    let before = comes_to(&mut watch, &["a:1"]).await;
    let quiet = timeout(Duration::from_secs(1), watch.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    // And between resyncs that never end, every change is received.
    let client = etcd.client().await;
    for round in 0..50 {
        let key = format!("{service}/b");
        put(&client, &key, format!(r#"{{"Addr":"b:{}"}}"#, round + 1), 0).await;
        let after = comes_to(&mut watch, &["a:1", "b"]).await;
        assert!(is_same_arc(&before, &after, "a:1"));
        delete(&client, &key).await;
        comes_to(&mut watch, &["a:1"]).await;
    }
}

/// An etcd may lose an event: until 3.4.31 and 3.5.13 after a compaction, until 3.4.36 and 3.5.18 where a watch begins.
#[tokio::test]
async fn a_resync_repairs_lost_events() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let service = unique_service();
    // A probe without an answer would have it listed too.
    let config = EtcdConfig::new([proxy.endpoint()])
        .with_probe_interval(10 * LONG)
        .with_resync_interval(Duration::from_secs(1));
    let registry = EtcdRegistry::connect(config).unwrap();
    let _a = register(&etcd.registry(), &service, "a:1").await;
    let _b = register(&etcd.registry(), &service, "b:1").await;
    let mut watch = watch(&registry, &service).await;
    comes_to(&mut watch, &["a:1", "b:1"]).await;
    // By an event: the first snapshot is that of a listing, before which there is no stream of which anything is lost.
    let _c = register(&etcd.registry(), &service, "c:1").await;
    let before = comes_to(&mut watch, &["a:1", "b:1", "c:1"]).await;
    // Lost on its way, while the connection is a good one.
    proxy.drop_stream_data();
    put(&etcd.client().await, &format!("{service}/a:1"), r#"{"Addr":"d:1"}"#, 0).await;
    let repaired = next(&mut watch).await.unwrap().unwrap();
    assert_eq!(repaired.diff(&registry.resolve(&service).await.unwrap()), []);
    assert_eq!(repaired.iter().next().unwrap().address().to_string(), "d:1");
    assert!(is_same_arc(&before, &repaired, "b:1"));
    assert_eq!(proxy.connections(), 1);
}

/// The revision of the listing is compacted before the watch begins: etcd cancels the watch, and leaves the stream open.
#[tokio::test]
async fn a_watch_that_etcd_refuses_in_the_stream_ends_with_the_reason() {
    for (fault, kind, retryable) in [
        ("compaction", ErrorKind::Unavailable, true),
        ("role", ErrorKind::PermissionDenied, false),
        ("token", ErrorKind::Unauthenticated, true),
    ] {
        let etcd = guarded(if fault == "token" { "3" } else { "300" }).await;
        let proxy = Proxy::start(etcd.endpoint()).await;
        let root = ConnectOptions::new().with_user("root", "secret");
        let mut root = Client::connect([etcd.endpoint()], Some(root)).await.unwrap();
        let config =
            EtcdConfig::new([proxy.endpoint()]).with_user("client", "secret").with_request_timeout(LONG);
        let registry = EtcdRegistry::connect(config).unwrap();
        let service: ServiceName = "svc".parse().unwrap();
        registry.resolve(&service).await.unwrap();

        let listings = etcd.requests().await.of("Range");
        proxy.delay(Duration::from_secs(1));
        let watching = timeout(LONG, registry.watch(&service));
        let between = async {
            let listing = async { while etcd.requests().await.of("Range") == listings {} };
            timeout(LONG, listing).await.expect("it lists");
            // The answer is on its way, and what follows it has not begun.
            proxy.freeze();
            match fault {
                "compaction" => {
                    put(&root, "other", "", 0).await;
                    put(&root, "other", "", 0).await;
                    compact(&mut root).await;
                }
                "role" => drop(root.user_revoke_role("client", "client").await.unwrap()),
                // etcd looks once in a second for those that have expired.
                _ => sleep(Duration::from_millis(5500)).await,
            }
            proxy.thaw();
        };
        let (watched, ()) = tokio::join!(watching, between);
        let error = match watched.unwrap() {
            Ok(mut watch) => ends(&mut watch).await,
            Err(error) => error,
        };
        assert_eq!((error.kind(), error.is_retryable()), (kind, retryable), "{fault}: {error}");
        if retryable {
            let watch = timeout(LONG, registry.watch(&service)).await.unwrap();
            comes_to(&mut watch.unwrap(), &[]).await;
        }
    }
}

/// An etcd on which user `client` may read the service `svc`, and whose tokens live for so many seconds.
async fn guarded(token_ttl: &str) -> Etcd {
    let etcd = Etcd::start_with(&["--bcrypt-cost", "4", "--auth-token-ttl", token_ttl]).await;
    let mut client = etcd.client().await;
    for (name, permission) in
        [("root", None), ("client", Some(Permission::read("svc/").with_range_end("svc0")))]
    {
        client.user_add(name, "secret", None).await.unwrap();
        client.role_add(name).await.unwrap();
        client.user_grant_role(name, name).await.unwrap();
        if let Some(permission) = permission {
            client.role_grant_permission(name, permission).await.unwrap();
        }
    }
    client.auth_enable().await.unwrap();
    etcd
}

#[tokio::test]
async fn thousands_of_instances_are_listed_in_pages_and_leave_all_at_once() {
    const COUNT: usize = 5000;
    // A response is cut into pieces above this and half a MiB more.
    let etcd = Etcd::start_with(&["--max-request-bytes", "65536"]).await;
    let (registry, service) = (etcd.registry(), unique_service());
    let mut client = etcd.client().await;
    let lease = client.lease_grant(600, None).await.unwrap().id();
    let id = |at: usize| format!("{at:05}-{}", "x".repeat(200));
    let record = |at: usize| {
        (format!("{service}/{}", id(at)), format!(r#"{{"Op":0,"Addr":"h:{}","Metadata":null}}"#, at + 1))
    };
    put_many(&client, lease, (0..COUNT).map(record)).await;
    let mut watch = watch(&registry, &service).await;
    let first = next(&mut watch).await.unwrap().unwrap();
    assert_eq!(first.len(), COUNT);
    assert_eq!(first.iter().nth(COUNT - 1).unwrap().id().as_str(), id(COUNT - 1));

    client.lease_revoke(lease).await.unwrap();
    let second = next(&mut watch).await.unwrap().unwrap();
    assert_eq!(second.len(), 0, "one revision is never seen by half");
}
