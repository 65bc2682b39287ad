//! Fleets of go-kratos, go-zero and kitex, which a service joins.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use hither_core::{Catalog, Claim, ErrorKind, Instance, InstanceState, Registrar, Resolver, ServiceName};
use hither_etcd::{EtcdRegistry, Layout};
use support::{comes_to, delete, get, ids, instance, put, registration, shared, unique_service};

async fn registry(layout: Layout) -> EtcdRegistry {
    EtcdRegistry::connect(shared().await.config().with_layout(layout)).unwrap()
}

/// A record as a server of the framework writes it, and its meaning. `SERVICE` is replaced by the service.
struct Vector {
    layout: Layout,
    key: &'static str,
    value: &'static str,
    meaning: fn(Instance) -> Instance,
}

const fn vector(
    layout: Layout,
    key: &'static str,
    value: &'static str,
    meaning: fn(Instance) -> Instance,
) -> Vector {
    Vector { layout, key, value, meaning }
}

/// With the prefixes that they have by default.
const READ: &[Vector] = &[
    vector(Layout::GoZero, "SERVICE/7587874813701447054", "10.0.0.1:80", |bare| bare),
    vector(Layout::GoZero, "SERVICE/12", "[2001:db8::1]:80", |_| instance("[2001:db8::1]:80")),
    vector(
        Layout::Kratos,
        "/microservices/SERVICE/8f2c",
        r#"{"id":"8f2c","name":"SERVICE","version":"v1.0.0","metadata":{"env":"prod"},"endpoints":["http://10.0.0.1:8000?isSecure=false","grpc://10.0.0.1:80?isSecure=false\u0026x=1"]}"#,
        |bare| bare.with_version("v1.0.0").with_metadata("env", "prod"),
    ),
    vector(
        Layout::Kratos,
        "/microservices/SERVICE/8f2d",
        r#"{"id":"8f2d","name":"SERVICE","version":"","metadata":{"weight":"7"},"endpoints":["grpcs://10.0.0.1:80"]}"#,
        |bare| bare.with_weight(7),
    ),
    vector(
        Layout::Kitex,
        "kitex/registry-etcd/SERVICE/10.0.0.1:80",
        r#"{"network":"tcp","address":"10.0.0.1:80","weight":10,"tags":null}"#,
        |bare| bare.with_weight(10),
    ),
    vector(
        Layout::Kitex,
        "kitex/registry-etcd/SERVICE/10.0.0.1:80",
        r#"{"network":"tcp","address":"10.0.0.1:80","weight":0,"tags":{"cluster":"a"}}"#,
        |bare| bare.with_weight(10).with_metadata("cluster", "a"),
    ),
];

#[tokio::test]
async fn the_servers_of_each_are_found() {
    let client = shared().await.client().await;
    for vector in READ {
        let service = unique_service();
        let filled = |text: &str| text.replace("SERVICE", service.as_str());
        let key = filled(vector.key);
        let registry = registry(vector.layout).await;
        let mut watch = registry.watch(&service).await.unwrap();
        comes_to(&mut watch, &[]).await;
        put(&client, &key, filled(vector.value), 0).await;
        let id = key.rsplit_once('/').unwrap().1;
        let snapshot = comes_to(&mut watch, &[id]).await;
        let expected = (vector.meaning)(instance("10.0.0.1:80")).with_id(id.parse().unwrap());
        assert_eq!(**snapshot.iter().next().unwrap(), expected, "{key}");
        assert!(registry.services(None).await.unwrap().contains(&service), "{key}");
        // What is deleted has no value by which to know it.
        delete(&client, &key).await;
        comes_to(&mut watch, &[]).await;
    }
}

fn full() -> Instance {
    instance("10.0.0.1:80")
        .with_weight(3)
        .with_zone("eu-1a")
        .with_version("1.2")
        .with_metadata("a<b", "c&d")
        .with_state(InstanceState::Draining)
}

/// What we write, byte for byte as Go's `encoding/json` does: plain, and with every field.
const WRITTEN: &[(Layout, &str, &str, &str)] = &[
    (Layout::GoZero, "SERVICE/10.0.0.1:80", "10.0.0.1:80", "10.0.0.1:80"),
    (
        Layout::Kratos,
        "/microservices/SERVICE/10.0.0.1:80",
        r#"{"id":"10.0.0.1:80","name":"SERVICE","version":"","metadata":null,"endpoints":["grpc://10.0.0.1:80?isSecure=false"]}"#,
        r#"{"id":"10.0.0.1:80","name":"SERVICE","version":"1.2","metadata":{"a\u003cb":"c\u0026d","state":"draining","weight":"3","zone":"eu-1a"},"endpoints":["grpc://10.0.0.1:80?isSecure=false"]}"#,
    ),
    (
        Layout::KratosTls,
        "/microservices/SERVICE/10.0.0.1:80",
        r#"{"id":"10.0.0.1:80","name":"SERVICE","version":"","metadata":null,"endpoints":["grpcs://10.0.0.1:80?isSecure=true"]}"#,
        r#"{"id":"10.0.0.1:80","name":"SERVICE","version":"1.2","metadata":{"a\u003cb":"c\u0026d","state":"draining","weight":"3","zone":"eu-1a"},"endpoints":["grpcs://10.0.0.1:80?isSecure=true"]}"#,
    ),
    (
        Layout::Kitex,
        "kitex/registry-etcd/SERVICE/10.0.0.1:80",
        r#"{"network":"tcp","address":"10.0.0.1:80","weight":10,"tags":null}"#,
        r#"{"network":"tcp","address":"10.0.0.1:80","weight":3,"tags":{"a\u003cb":"c\u0026d","state":"draining","version":"1.2","zone":"eu-1a"}}"#,
    ),
];

#[tokio::test]
async fn a_server_is_registered_in_the_format_of_the_fleet_until_it_leaves() {
    let client = shared().await.client().await;
    for (layout, key, plain, with_all) in WRITTEN {
        let (registry, service) = (registry(*layout).await, unique_service());
        let filled = |text: &str| text.replace("SERVICE", service.as_str());
        let key = filled(key);
        let mut watch = registry.watch(&service).await.unwrap();
        let desired = registration(&service, instance("10.0.0.1:80"));
        let mut lease = registry.register(&desired, Claim::TakeOver).await.unwrap();
        assert_eq!(get(&client, &key).await.unwrap().value, filled(plain));
        comes_to(&mut watch, &["10.0.0.1:80"]).await;

        lease.update(&registration(&service, full())).await.unwrap();
        let record = get(&client, &key).await.unwrap();
        assert_eq!(record.value, filled(with_all));
        delete(&client, &key).await;
        lease.renew().await.unwrap();
        assert_eq!(get(&client, &key).await, Some(record), "put back");
        // As one of their tools puts it, without a lease.
        put(&client, &key, filled(plain), 0).await;
        lease.renew().await.unwrap();
        assert_eq!(get(&client, &key).await.unwrap().value, filled(with_all));

        // Another process takes it over, and the first yields.
        let other = self::registry(*layout).await;
        let mut successor = other.register(&desired, Claim::TakeOver).await.unwrap();
        assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::Superseded);
        lease.revoke().await.unwrap();
        successor.renew().await.unwrap();
        successor.revoke().await.unwrap();
        assert_eq!(get(&client, &key).await, None);
        comes_to(&mut watch, &[]).await;
    }
}

#[tokio::test]
async fn an_address_that_a_format_cannot_write_is_refused() {
    let (registry, service) = (registry(Layout::GoZero).await, unique_service());
    let desired = registration(&service, instance("unix:///run/a.sock"));
    let error = registry.register(&desired, Claim::TakeOver).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.message().contains("unix:///run/a.sock"), "{error}");
    let good = registration(&service, instance("10.0.0.1:80"));
    let mut lease = registry.register(&good, Claim::TakeOver).await.unwrap();
    let moved = instance("unix:///run/a.sock").with_id("10.0.0.1:80".parse().unwrap());
    assert_eq!(
        lease.update(&registration(&service, moved)).await.unwrap_err().kind(),
        ErrorKind::InvalidArgument
    );
    lease.renew().await.unwrap();
}

#[tokio::test]
async fn records_of_all_formats_under_one_prefix_are_distinguished() {
    let (service, client): (ServiceName, _) = (unique_service(), shared().await.client().await);
    let prefix = format!("mixed-{:016x}", fastrand::u64(..));
    let records = [
        ("naming", r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null}"#.to_owned()),
        ("zero", "10.0.0.2:80".to_owned()),
        ("kratos", format!(r#"{{"id":"kratos","name":"{service}","endpoints":["grpc://10.0.0.3:80"]}}"#)),
        ("kitex", r#"{"network":"tcp","address":"10.0.0.4:80","weight":10,"tags":null}"#.to_owned()),
        ("micro", format!(r#"{{"name":"{service}","nodes":[{{"id":"micro","address":"10.0.0.5:80"}}]}}"#)),
        // As its key has it: go-micro writes a slash of the name as a hyphen there.
        (
            "micro-2",
            format!(
                r#"{{"name":"{}","nodes":[{{"address":"10.0.0.8:80"}}]}}"#,
                service.as_str().replace('-', "/")
            ),
        ),
        // Those that cannot be used, and one of another service.
        ("no-endpoint", format!(r#"{{"id":"x","name":"{service}","endpoints":["http://10.0.0.6:80"]}}"#)),
        ("no-node", r#"{"nodes":[]}"#.to_owned()),
        ("nobodys", r#"{"id":"x"}"#.to_owned()),
        ("others", r#"{"id":"others","name":"other","endpoints":["grpc://10.0.0.7:80"]}"#.to_owned()),
    ];
    for (id, value) in &records {
        put(&client, &format!("{prefix}/{service}/{id}"), value.as_str(), 0).await;
    }
    for layout in [Layout::EtcdNaming, Layout::Kratos, Layout::KratosTls, Layout::GoZero, Layout::Kitex] {
        let config = shared().await.config().with_layout(layout).with_prefix(&prefix);
        let registry = EtcdRegistry::connect(config).unwrap();
        let snapshot = registry.resolve(&service).await.unwrap();
        let (mut expected, mut skipped) = (vec!["kitex", "kratos", "micro", "micro-2", "naming", "zero"], 4);
        if layout != Layout::GoZero {
            expected.pop();
            skipped += 1;
        }
        assert_eq!(ids(&snapshot), expected, "{layout}");
        assert_eq!(registry.skipped_records(), skipped, "{layout}");
    }
}
