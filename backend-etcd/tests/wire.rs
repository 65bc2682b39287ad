//! The records in etcd, byte for byte, and what other writers may put there.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{Client, LeaseGrantOptions, Txn, TxnOp};
use hither_core::{
    Catalog, Claim, ErrorKind, Instance, InstanceState, Registrar, Registration, Resolver, ServiceName,
    Target,
};
use hither_etcd::EtcdRegistry;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use serde_json::Value;
use support::{comes_to, get, ids, instance, put, register, registration, shared, unique_service};

/// A registry whose keys no other test touches.
async fn apart() -> (EtcdRegistry, Client, String) {
    let etcd = shared().await;
    let prefix = format!("apart-{:016x}/", fastrand::u64(..));
    let registry = EtcdRegistry::connect(etcd.config().with_prefix(&prefix)).unwrap();
    (registry, etcd.client().await, prefix)
}

fn vectors(of: &str) -> Vec<Value> {
    let vectors: Value = serde_json::from_str(include_str!("vectors.json")).unwrap();
    let vectors = vectors[of].as_array().unwrap().clone();
    assert!(!vectors.is_empty());
    vectors
}

fn text<'a>(vector: &'a Value, field: &str) -> &'a str {
    vector[field].as_str().unwrap_or_else(|| panic!("{field} of {vector}"))
}

#[tokio::test]
async fn a_plain_registration_is_what_go_writes_on_a_lease_of_its_own() {
    let etcd = shared().await;
    let (registry, client) = (etcd.registry(), etcd.client().await);
    let service: ServiceName = "grpc-demo/grpc/discover-demo".parse().unwrap();
    let mut leases = Vec::new();
    for (port, ttl) in [(8001, 10), (8002, 20)] {
        let instance = instance(&format!("127.0.0.1:{port}"));
        let registration =
            Registration::new(service.clone(), instance).unwrap().with_ttl(Duration::from_secs(ttl)).unwrap();
        let lease = registry.register(&registration, Claim::TakeOver).await.unwrap();
        assert_eq!(lease.ttl(), Duration::from_secs(ttl));

        let record = get(&client, &format!("grpc-demo/grpc/discover-demo/127.0.0.1:{port}")).await.unwrap();
        assert_eq!(record.value, format!(r#"{{"Op":0,"Addr":"127.0.0.1:{port}","Metadata":null}}"#));
        let granted = client.clone().lease_time_to_live(record.lease, None).await.unwrap();
        assert_eq!(granted.granted_ttl(), i64::try_from(ttl).unwrap());
        leases.push((record.lease, lease));
    }
    assert_ne!(leases[0].0, leases[1].0);
    leases[0].1.revoke().await.unwrap();
    assert_eq!(get(&client, "grpc-demo/grpc/discover-demo/127.0.0.1:8001").await, None);
    assert!(get(&client, "grpc-demo/grpc/discover-demo/127.0.0.1:8002").await.is_some());
}

#[tokio::test]
async fn fields_unknown_to_go_are_written_into_one_more_member() {
    let (registry, client, prefix) = apart().await;
    let service = unique_service();
    let instance = Instance::new("10.0.0.1:80".parse().unwrap())
        .with_id("greeter-1".parse().unwrap())
        .with_address("unix:///run/greeter.sock".parse().unwrap())
        .with_weight(3)
        .with_zone("eu-1a")
        .with_version("1.2")
        .with_state(InstanceState::Draining)
        .with_metadata("a<b", "c&d");
    let _lease = registry.register(&registration(&service, instance.clone()), Claim::TakeOver).await.unwrap();
    assert_eq!(
        get(&client, &format!("{prefix}{service}/greeter-1")).await.unwrap().value,
        concat!(
            r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null,"Hither":{"addresses":["unix:///run/greeter.sock"],"#,
            r#""metadata":{"a\u003cb":"c\u0026d"},"state":"draining","version":"1.2","weight":3,"zone":"eu-1a"}}"#
        )
    );
    assert_eq!(*registry.resolve(&service).await.unwrap().iter().next().unwrap().as_ref(), instance);
}

#[tokio::test]
async fn we_write_what_go_writes() {
    let (registry, client, prefix) = apart().await;
    for vector in vectors("encode") {
        let (service, address) = (unique_service(), text(&vector, "address"));
        let _lease = register(&registry, &service, address).await;
        let record = get(&client, &format!("{prefix}{service}/{address}")).await.unwrap();
        assert_eq!(record.value, text(&vector, "value"), "{vector}");
    }
}

#[tokio::test]
async fn records_of_go_are_read_as_go_reads_them() {
    for vector in vectors("decode") {
        let (registry, client, prefix) = apart().await;
        let service: ServiceName = text(&vector, "service").parse().unwrap();
        put(&client, &format!("{prefix}{}", text(&vector, "key")), text(&vector, "value"), 0).await;
        let snapshot = registry.resolve(&service).await.unwrap();
        if text(&vector, "expect") == "skip" {
            assert_eq!((ids(&snapshot).len(), registry.skipped_records()), (0, 1), "{vector}");
            continue;
        }
        let [instance] = &snapshot.iter().collect::<Vec<_>>()[..] else {
            panic!("{vector} gives {snapshot:?}")
        };
        let id = text(&vector, "key").strip_prefix(&format!("{service}/")).unwrap();
        assert_eq!(instance.id().as_str(), id, "{vector}");
        assert_eq!(instance.address().to_string(), text(&vector, "address"), "{vector}");
        assert_eq!(*instance.metadata(), as_map(&vector["metadata"]), "{vector}");
        assert_eq!((instance.state(), instance.weight()), (InstanceState::Up, Instance::DEFAULT_WEIGHT));
        assert_eq!(registry.skipped_records(), 0, "{vector}");
    }
}

/// Go's JSON value as a map of strings: an object gives its entries, anything else but null one.
fn as_map(metadata: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match metadata {
        Value::Null => BTreeMap::new(),
        Value::Object(map) => map.iter().map(|(key, value)| (key.clone(), text(value))).collect(),
        other => BTreeMap::from([("Metadata".to_owned(), text(other))]),
    }
}

#[tokio::test]
async fn a_target_names_the_service_that_go_finds_under_its_prefix() {
    let etcd = shared().await;
    let client = etcd.client().await;
    for vector in vectors("targets") {
        let target: Target = text(&vector, "target").parse().unwrap();
        assert_eq!(target.endpoint(), text(&vector, "service"), "{vector}");
        if target.endpoint().starts_with('/') {
            // Go reads such a key; a service name of ours has no empty segment, and the error names the remedy.
            let error = target.service().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.report().contains("prefix"), "{}", error.report());
            continue;
        }
        let service = target.service().unwrap();
        let address = "10.0.0.1:80";
        let mut lease = register(&etcd.registry(), &service, address).await;
        assert!(get(&client, &format!("{}{address}", text(&vector, "prefix"))).await.is_some(), "{vector}");
        lease.revoke().await.unwrap();
    }
}

#[tokio::test]
async fn a_prefix_reaches_keys_with_a_leading_slash() {
    let etcd = shared().await;
    let service = unique_service();
    put(&etcd.client().await, &format!("/{service}/a"), r#"{"Op":0,"Addr":"h:1"}"#, 0).await;
    let registry = EtcdRegistry::connect(etcd.config().with_prefix("/")).unwrap();
    assert_eq!(ids(&registry.resolve(&service).await.unwrap()), ["a"]);
}

#[tokio::test]
async fn keys_below_a_service_belong_to_it_only_by_gos_rule() {
    let (registry, client, prefix) = apart().await;
    let service: ServiceName = "a".parse().unwrap();
    for (key, address) in [("a/x", "h:1"), ("a/b/y", "h:2"), ("a/unix:///run/z", "unix:///run/z")] {
        put(&client, &format!("{prefix}{key}"), format!(r#"{{"Op":0,"Addr":"{address}"}}"#), 0).await;
    }
    assert_eq!(ids(&registry.resolve(&service).await.unwrap()), ["unix:///run/z", "x"]);
    assert_eq!(registry.services(None).await.unwrap(), [service.clone(), "a/b".parse().unwrap()]);

    let config = shared().await.config().with_prefix(&prefix).with_nested_ids(true);
    let go = EtcdRegistry::connect(config).unwrap();
    assert_eq!(ids(&go.resolve(&service).await.unwrap()), ["b/y", "unix:///run/z", "x"]);
}

#[tokio::test]
async fn each_version_of_an_undecodable_record_is_counted_once() {
    let (registry, client, prefix) = apart().await;
    let service = unique_service();
    let key = format!("{prefix}{service}/bad");
    put(&client, &key, "bad", 0).await;
    let mut watch = registry.watch(&service).await.unwrap();
    for _ in 0..3 {
        registry.resolve(&service).await.unwrap();
    }
    assert_eq!(registry.skipped_records(), 1);
    put(&client, &key, "worse", 0).await;
    put(&client, &format!("{prefix}{service}/good"), r#"{"Addr":"h:1"}"#, 0).await;
    comes_to(&mut watch, &["good"]).await;
    assert_eq!(registry.skipped_records(), 2);
}

#[tokio::test]
async fn a_record_that_becomes_undecodable_is_gone_in_the_watch_as_in_a_listing() {
    let (registry, client, prefix) = apart().await;
    let service = unique_service();
    let key = format!("{prefix}{service}/a");
    put(&client, &key, r#"{"Addr":"h:1"}"#, 0).await;
    let mut watch = registry.watch(&service).await.unwrap();
    comes_to(&mut watch, &["a"]).await;
    put(&client, &key, "no longer", 0).await;
    comes_to(&mut watch, &[]).await;
    assert_eq!(ids(&registry.resolve(&service).await.unwrap()).len(), 0);
}

#[tokio::test]
async fn a_lease_id_of_another_owner_is_not_used() {
    let (registry, client, prefix) = apart().await;
    let service: ServiceName = "svc".parse().unwrap();
    let key = |id: &str| format!("{prefix}svc/{id}");
    let _first = register(&registry, &service, "a:1").await;
    // They are numbered.
    let next = get(&client, &key("a:1")).await.unwrap().lease + 1;
    let taken = LeaseGrantOptions::new().with_id(next);
    client.clone().lease_grant(600, Some(taken)).await.unwrap();
    let _second = register(&registry, &service, "b:1").await;
    assert_eq!(get(&client, &key("b:1")).await.unwrap().lease, next + 1);
}

#[tokio::test]
async fn no_record_under_a_prefix_fails_a_listing_or_a_watch() {
    let (registry, client, prefix) = apart().await;
    let service: ServiceName = "svc".parse().unwrap();
    let mut watch = registry.watch(&service).await.unwrap();
    let records = proptest::collection::vec((key_suffix(), value()), 100);
    let config = Config { failure_persistence: None, ..Config::default() };
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => fastrand::u64(..),
    };
    println!("PROPTEST_RNG_SEED={seed}");
    let mut runner = TestRunner::new(Config { rng_seed: RngSeed::Fixed(seed), ..config });
    for _ in 0..10 {
        let records: BTreeMap<_, _> = records.new_tree(&mut runner).unwrap().current().into_iter().collect();
        let puts = records.into_iter().map(|(suffix, value)| {
            let key = [prefix.as_bytes(), b"svc", &suffix].concat();
            TxnOp::put(key, value, None)
        });
        client.clone().txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
    let _lease = register(&registry, &service, "good:1").await;
    let listed = registry.resolve(&service).await.unwrap();
    assert!(ids(&listed).contains(&"good:1"));
    assert!(registry.skipped_records() > 0);
    registry.services(None).await.unwrap();
    let all = ids(&listed);
    let watched = comes_to(&mut watch, &all).await;
    assert_eq!(watched.diff(&listed), [], "what is applied event by event is what is listed");
}

/// What may follow the service in a key, and sometimes what does not.
fn key_suffix() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "/[a-c/:]{0,6}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..12),
        proptest::collection::vec(any::<u8>(), 0..12).prop_map(|bytes| [b"/".as_slice(), &bytes].concat()),
    ]
}

/// Records, near-records and noise.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let near = (
        prop_oneof![Just("Addr"), Just("addr"), Just("ADDR"), Just("Add")],
        prop_oneof!["[a-c]{1,3}:[0-9]{1,5}", ".{0,8}", Just(r"\\ud800".to_owned())],
        prop_oneof![Just("null".to_owned()), "[0-9e.-]{1,5}", Just(r#"{"a":[1]}"#.to_owned()), ".{0,8}"],
        prop_oneof![
            Just("{}".to_owned()),
            Just(r#"{"weight":-1,"addresses":[1,"b:2"]}"#.to_owned()),
            ".{0,8}"
        ],
    );
    prop_oneof![
        near.prop_map(|(field, address, metadata, extra)| {
            format!(r#"{{"Op":0,"{field}":"{address}","Metadata":{metadata},"Hither":{extra}}}"#).into_bytes()
        }),
        proptest::collection::vec(any::<u8>(), 0..64),
    ]
}
