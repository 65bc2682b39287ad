//! Many registrations of one process, and many instances of one service.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Txn, TxnOp};
use futures_util::StreamExt;
use futures_util::future::{join_all, select_all};
use hither_core::{Catalog, Claim, Discovery, Registrar, Resolver, Snapshot};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use support::{
    Etcd, LONG, Proxy, comes_to, delete, ids, instance, next, put, put_many, register, registration,
    unique_service,
};
use tokio::sync::watch;
use tokio::time::timeout;

/// What `EtcdRegistry` documents.
const AT_ONCE: u64 = 64;

#[tokio::test]
async fn no_more_registrations_than_documented_are_written_at_a_time() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    // Neither deadline is reached by what is late.
    let config = EtcdConfig::new([proxy.endpoint()]).with_connect_timeout(LONG).with_request_timeout(LONG);
    let registry = EtcdRegistry::connect(config).unwrap();
    let service = unique_service();
    // What follows the first answers takes this long to arrive, and then does not: so only what went out at once did.
    proxy.delay(Duration::from_millis(300));
    let registrations: Vec<_> =
        (1..=3 * AT_ONCE).map(|port| registration(&service, instance(&format!("10.0.0.1:{port}")))).collect();
    let mut registering: Vec<_> =
        registrations.iter().map(|registration| registry.register(registration, Claim::TakeOver)).collect();
    let (first, _, others) = select_all(registering.drain(..)).await;
    proxy.freeze();
    let mut leases = vec![first.unwrap()];
    assert_eq!(etcd.requests().await.of("LeaseGrant"), AT_ONCE);
    proxy.thaw();
    for lease in timeout(LONG, join_all(others)).await.unwrap() {
        leases.push(lease.unwrap());
    }
    assert_eq!(etcd.requests().await.of("LeaseGrant"), 3 * AT_ONCE);
}

#[tokio::test]
async fn a_change_in_a_service_of_ten_thousand_lists_nothing_anew() {
    const COUNT: usize = 10_000;
    let etcd = Etcd::start().await;
    let (client, service) = (etcd.client().await, unique_service());
    let address = |at: usize| format!("10.0.{}.{}:80", at / 256, at % 256);
    let value = |address: &str| format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#);
    let record = |at: usize| (format!("{service}/{}", address(at)), value(&address(at)));
    put_many(&client, 0, (0..COUNT).map(record)).await;

    let mut view = Discovery::new(etcd.registry()).service(&service);
    let whole = view.wait_ready(LONG).await.unwrap();
    assert_eq!(whole.len(), COUNT);
    let before = etcd.requests().await;
    for change in 0..20 {
        let key = format!("{service}/{}", address(change));
        let expected = if change % 2 == 0 {
            delete(&client, &key).await;
            COUNT - change / 2 - 1
        } else {
            put(&client, &key, value("10.9.9.9:80"), 0).await;
            COUNT - change / 2 - 1
        };
        let shown = timeout(LONG, async {
            loop {
                let shown = view.changed().await.unwrap().snapshot.unwrap();
                if shown.diff(&whole).len() == change + 1 {
                    return shown;
                }
            }
        });
        assert_eq!(shown.await.unwrap().len(), expected);
    }
    let did = &etcd.requests().await - &before;
    assert_eq!((did.of("Range"), did.of("Txn")), (0, 0), "{did:?}");
    // Nor is anything decoded anew.
    let shown = view.current().snapshot.unwrap();
    let kept = |at: usize| Arc::ptr_eq(whole.iter().nth(at).unwrap(), shown.iter().nth(at - 10).unwrap());
    assert!((COUNT - 100..COUNT).all(kept));
}

/// All pages of a listing are of one revision, and one of which that is compacted meanwhile is an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_of_many_pages_is_of_one_revision() {
    const COUNT: usize = 5000;
    let etcd = Etcd::start().await;
    let (registry, client, service) = (etcd.registry(), etcd.client().await, unique_service());
    let value = r#"{"Op":0,"Addr":"h:1","Metadata":null}"#;
    let key = |id: &str| format!("{service}/{id}");
    put_many(&client, 0, (0..COUNT).map(|at| (key(&format!("m{at:04}")), value.to_owned()))).await;
    // One moves from before all of them to behind all of them and back, all the time: it is always at one place.
    let (first, last) = (key("a"), key("z"));
    put(&client, &first, value, 0).await;
    let (stop, stops) = watch::channel((false, false));
    let mover = tokio::spawn({
        let mut client = client.clone();
        async move {
            let (mut from, mut to) = (first, last);
            loop {
                let (ends, compacts) = *stops.borrow();
                if ends {
                    return;
                }
                let moves = [TxnOp::delete(from.as_str(), None), TxnOp::put(to.as_str(), value, None)];
                let moved = client.txn(Txn::new().and_then(moves)).await.unwrap();
                if compacts {
                    client.compact(moved.header().unwrap().revision(), None).await.unwrap();
                }
                std::mem::swap(&mut from, &mut to);
            }
        }
    });
    let is_whole = |listed: &Snapshot| {
        let ends = ["a", "z"].map(|id| listed.get(&id.parse().unwrap()).is_some());
        listed.len() == COUNT + 1 && ends[0] != ends[1]
    };
    for _ in 0..20 {
        let listed = registry.resolve(&service).await.unwrap();
        assert!(is_whole(&listed), "{} instances", listed.len());
    }
    stop.send_replace((false, true));
    let mut compacted = 0;
    for _ in 0..20 {
        match registry.resolve(&service).await {
            Ok(listed) => assert!(is_whole(&listed), "{} instances", listed.len()),
            Err(error) => {
                assert!(error.is_retryable() && error.message().contains("compacted"), "{error}");
                compacted += 1;
            }
        }
    }
    assert!(compacted > 0);
    stop.send_replace((true, false));
    mover.await.unwrap();
}

/// More than a client takes by default, in one event.
#[tokio::test]
async fn an_event_of_six_mebibytes_stalls_no_watch() {
    let etcd = Etcd::start_with(&["--max-request-bytes", "16777216"]).await;
    let (registry, client, service) = (etcd.registry(), etcd.client().await, unique_service());
    let mut watch = support::watch(&registry, &service).await;
    comes_to(&mut watch, &[]).await;
    put(&client, &format!("{service}/large"), "x".repeat(6 << 20), 0).await;
    let _good = register(&registry, &service, "good:1").await;
    let good = next(&mut watch).await.expect("it goes on").expect("it is the same watch");
    assert_eq!(ids(&good), ["good:1"]);
}

/// Larger together than a response may be, and than any sensible record.
#[tokio::test]
async fn large_values_under_a_prefix_stall_no_listing() {
    let etcd = Etcd::start().await;
    let (client, service) = (etcd.client().await, unique_service());
    let config = etcd.config().with_resync_interval(Duration::from_millis(500)).with_request_timeout(LONG);
    let registry = EtcdRegistry::connect(config).unwrap();
    let mut before = support::watch(&registry, &service).await;
    comes_to(&mut before, &[]).await;
    let large = "x".repeat(1_400_000);
    for at in 0..50 {
        put(&client, &format!("{service}/{at:02}-large"), large.as_str(), 0).await;
    }
    let _good = register(&registry, &service, "good:1").await;
    comes_to(&mut before, &["good:1"]).await;
    assert_eq!(ids(&registry.resolve(&service).await.unwrap()), ["good:1"]);
    comes_to(&mut support::watch(&registry, &service).await, &["good:1"]).await;
    assert!(registry.services(None).await.unwrap().contains(&service));
    // Longer than until the next comparison with a listing.
    let quiet = timeout(Duration::from_secs(2), before.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    assert_eq!(registry.skipped_records(), 50);
}
