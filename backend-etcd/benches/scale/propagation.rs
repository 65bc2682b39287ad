//! How long after it was registered a server is known to a watcher.

use std::time::Duration;

use etcd_client::{Client, EventType, PutOptions, WatchOptions, WatchStream};
use futures_util::StreamExt;
use hither_core::{
    Claim, Discovery, InstanceId, Registrar, Resolver, ServiceName, ServiceView, SnapshotStream,
};
use hither_etcd::EtcdRegistry;
use tokio::time::{Instant, sleep};

use crate::support::{Etcd, instance, put_many, registration};
use crate::table::{Table, quantile};

const ROUNDS: u32 = 200;

/// Longer than a view gathers changes: each of these comes alone.
const PAUSE: Duration = Duration::from_millis(60);

pub(crate) async fn measure(table: &mut Table) {
    let etcd = Etcd::start().await;
    for count in [10, 10_000] {
        of_service(&etcd, count, table).await;
    }
}

async fn of_service(etcd: &Etcd, count: usize, table: &mut Table) {
    let (client, registry) = (etcd.client().await, etcd.registry());
    let service: ServiceName = format!("propagation-{count}").parse().unwrap();
    let records = (0..count).map(|at| {
        let address = format!("10.0.{}.{}:80", at / 256, at % 256);
        (format!("{service}/{address}"), format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#))
    });
    put_many(&client, 0, records).await;
    let mut watchers = Watchers::new(client, registry.clone(), &service).await;
    let before = etcd.requests().await;
    let [mut raw, mut watch, mut view] = [(); 3].map(|()| Times::default());
    for round in 1..=ROUNDS {
        watchers.raw(&format!("10.1.0.1:{round}"), &mut raw).await;
        watchers.hither(&format!("10.2.0.1:{round}"), &mut watch, &mut view).await;
    }
    let did = &etcd.requests().await - &before;
    table.title(&format!(
        "a server registers, and a watcher of a service of {count} knows it, {ROUNDS} rounds: etcd-client raw, hither"
    ));
    for (which, ours) in [("watch", watch), ("view", view)] {
        for (name, part) in [("p50", 0.5), ("p99", 0.99)] {
            let of = |times: &Times| (quantile(&times.called, part), quantile(&times.returned, part));
            let ((raw_called, raw_returned), (called, returned)) = (of(&raw), of(&ours));
            table.beside(&format!("{name}, {which}: since it was called; ratio"), raw_called, called);
            table.apart(&format!("{name}, {which}: since the call returned"), raw_returned, returned);
        }
    }
    table.bounded("listings that the changes cost", did.of("Range") as f64, 0.0);
}

/// When a watcher knew of each registration, in seconds.
#[derive(Debug, Default)]
struct Times {
    /// Since it was called for.
    called: Vec<f64>,
    /// Since the call returned: below zero where the watcher knew first, as often as not.
    returned: Vec<f64>,
}

impl Times {
    fn push(&mut self, called: Instant, returned: Instant, known: Instant) {
        let since_called = |at: Instant| at.duration_since(called).as_secs_f64();
        self.called.push(since_called(known));
        self.returned.push(since_called(known) - since_called(returned));
    }
}

/// One raw watch and two of hither's, on the same service.
struct Watchers {
    client: Client,
    registry: EtcdRegistry,
    service: ServiceName,
    raw: WatchStream,
    watch: SnapshotStream,
    view: ServiceView,
}

impl Watchers {
    async fn new(client: Client, registry: EtcdRegistry, service: &ServiceName) -> Self {
        let config = WatchOptions::new().with_prefix();
        let raw = client.watch_client().watch(format!("{service}/"), Some(config)).await.unwrap();
        let mut watch = registry.watch(service).await.unwrap();
        watch.next().await.unwrap().unwrap();
        let view = Discovery::new(registry.clone()).service(service);
        view.wait_ready(Duration::from_secs(10)).await.unwrap();
        Self { client, registry, service: service.clone(), raw, watch, view }
    }

    /// Registers and watches with nothing but etcd-client.
    async fn raw(&mut self, address: &str, times: &mut Times) {
        let key = format!("{}/{address}", self.service);
        let value = format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#);
        let called = Instant::now();
        let (client, stream) = (&mut self.client, &mut self.raw);
        let put = async {
            let lease = client.lease_grant(60, None).await.unwrap().id();
            client.put(key.as_str(), value, Some(PutOptions::new().with_lease(lease))).await.unwrap();
            (lease, Instant::now())
        };
        let ((lease, returned), known) = tokio::join!(put, receives(stream, &key, EventType::Put));
        times.push(called, returned, known);
        let id = InstanceId::nested(address).unwrap();
        watches(&mut self.watch, &id, true).await;
        views(&mut self.view, &id, true).await;
        sleep(PAUSE).await;
        self.client.lease_revoke(lease).await.unwrap();
        self.wait_for_removal(&key, &id).await;
    }

    /// Registers and watches with hither.
    async fn hither(&mut self, address: &str, watch: &mut Times, view: &mut Times) {
        let (id, key) = (InstanceId::nested(address).unwrap(), format!("{}/{address}", self.service));
        let desired = registration(&self.service, instance(address));
        let registry = &self.registry;
        let called = Instant::now();
        let register = async {
            let lease = registry.register(&desired, Claim::TakeOver).await.unwrap();
            (lease, Instant::now())
        };
        let watched = watches(&mut self.watch, &id, true);
        let viewed = views(&mut self.view, &id, true);
        let ((mut lease, returned), watched, viewed) = tokio::join!(register, watched, viewed);
        watch.push(called, returned, watched);
        view.push(called, returned, viewed);
        sleep(PAUSE).await;
        lease.revoke().await.unwrap();
        self.wait_for_removal(&key, &id).await;
    }

    async fn wait_for_removal(&mut self, key: &str, id: &InstanceId) {
        receives(&mut self.raw, key, EventType::Delete).await;
        watches(&mut self.watch, id, false).await;
        views(&mut self.view, id, false).await;
        sleep(PAUSE).await;
    }
}

/// When a watch shows it, or shows it no more.
async fn watches(watch: &mut SnapshotStream, id: &InstanceId, there: bool) -> Instant {
    while watch.next().await.unwrap().unwrap().get(id).is_some() != there {}
    Instant::now()
}

/// The same of a view.
async fn views(view: &mut ServiceView, id: &InstanceId, there: bool) -> Instant {
    while view.current().snapshot.unwrap().get(id).is_some() != there {
        view.changed().await.unwrap();
    }
    Instant::now()
}

/// When a raw watch receives the event.
async fn receives(stream: &mut WatchStream, key: &str, of: EventType) -> Instant {
    loop {
        let response = stream.message().await.unwrap().unwrap();
        let is_it = response
            .events()
            .iter()
            .any(|event| event.event_type() == of && event.kv().unwrap().key() == key.as_bytes());
        if is_it {
            return Instant::now();
        }
    }
}
