//! A restarted etcd, and the requests of all its clients (thundering herd).
//!
//! A client that reconnects makes two requests for a registration, to keep it and to look at it, and two for a watch, to
//! list and to watch; all in the same moment if nothing spread them. The bounds, with the other requests of that time: at
//! most 3 in a second, and 0.8 in any tenth of a second. The first shows that no client retries without need, and nothing
//! about how requests are spread; the second does. 0.25 to 0.57 were measured, the most after the shortest outage, on two
//! cores of which other processes had one or none.
//!
//! First a control shows that the second bound can be broken at all: the same requests, made by etcd-client in one moment,
//! must break it. 1.03 to 1.35 were measured.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, GetOptions, WatchOptions, WatchStream};
use futures_util::future::join_all;
use hither_core::{
    Discovery, Registration, RegistrationConfig, RegistrationHandle, RegistrationStatus, ServiceView,
    keep_registered,
};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use tokio::sync::Barrier;
use tokio::time::{Instant, sleep};

use crate::door::{Door, peak};
use crate::support::{Etcd, LONG, instance, put};
use crate::table::{Table, quantile};

/// Each with a registry, and so a connection, of its own.
const PROCESSES: usize = 100;

/// How many services each of them serves, and how many others it watches.
const EACH: usize = 10;

const SECOND: Duration = Duration::from_secs(1);

const TTL: Duration = Duration::from_secs(10);

/// The most requests in a tenth of a second, for each registration and watch.
const BOUND: f64 = 0.8;

/// How often the requests that nothing spreads are made.
const ROUNDS: usize = 5;

pub(crate) async fn measure(table: &mut Table) {
    let unspread = raw(table).await;
    let mut etcd = Etcd::start().await;
    let door = Door::open(etcd.endpoint()).await;
    let fleet = Fleet::start(&door).await;
    for outage in [SECOND, 5 * SECOND, 30 * SECOND] {
        table.title(&format!("etcd killed for {outage:?}, under {}", of_all("")));
        door.came();
        sleep(5 * SECOND).await;
        let calm = door.came().len() / 5;
        etcd.kill();
        sleep(outage).await;
        door.came();
        etcd = etcd.start_again().await;
        let since = Instant::now();
        fleet.is_well().await;
        let took = since.elapsed();
        // Until the last renewal that was not due meanwhile.
        sleep(5 * SECOND).await;
        table.line("requests at etcd in a second before", &calm.to_string());
        table.line("all registered and fresh after", &format!("{:.2} s", took.as_secs_f64()));
        let came = all_that_came(&door, &etcd).await;
        table.bounded("the most requests in a second, for each", each(&came, SECOND), 3.0);
        let spread = each(&came, SECOND / 10);
        table.bounded("the most requests in a tenth of a second, for each", spread, BOUND);
        table
            .line("that many without spreading, ratio", &format!("{unspread:.2} {:>8.2}", spread / unspread));
    }
}

fn of_all(kind: &str) -> String {
    format!("{PROCESSES} {kind}processes with {EACH} registrations and {EACH} watches each")
}

/// When each request came since etcd started.
async fn all_that_came(door: &Door, etcd: &Etcd) -> Vec<Instant> {
    let counted = etcd.requests().await.total() as usize;
    let came = door.came();
    assert!(came.len() >= counted, "etcd counted {counted} requests, and only {} came", came.len());
    came
}

/// What it is when nothing is spread: the median of some rounds.
async fn raw(table: &mut Table) -> f64 {
    let mut etcd = Etcd::start().await;
    let door = Door::open(etcd.endpoint()).await;
    let mut fleet = Vec::new();
    for process in 0..PROCESSES {
        fleet.push(Raw::start(&door, process).await);
    }
    let mut peaks = Vec::new();
    for _ in 0..ROUNDS {
        etcd.kill();
        sleep(SECOND).await;
        door.came();
        let all = Arc::new(Barrier::new(PROCESSES));
        let coming = fleet.iter().map(|raw| tokio::spawn(raw.clone().comes_back(Arc::clone(&all))));
        let coming: Vec<_> = coming.collect();
        etcd = etcd.start_again().await;
        let watches: Vec<_> = join_all(coming).await.into_iter().map(Result::unwrap).collect();
        peaks.push(each(&all_that_came(&door, &etcd).await, SECOND / 10));
        drop(watches);
    }
    table.title(&format!("etcd killed for {SECOND:?}, under {}, unspread", of_all("raw ")));
    let rounds: Vec<_> = peaks.iter().map(|peak| format!("{peak:.2}")).collect();
    table.line("the most requests in a tenth of a second, for each, by round", &rounds.join(" "));
    let median = quantile(&peaks, 0.5);
    table.breaks("median of these: the bound would not hold", median, BOUND);
    median
}

/// One process of a fleet that has nothing but etcd-client.
#[derive(Clone)]
struct Raw {
    client: Client,
    /// Leases and the keys on them.
    registered: Vec<(i64, String)>,
}

impl Raw {
    async fn start(door: &Door, process: usize) -> Self {
        let mut client = Client::connect([door.endpoint()], None).await.unwrap();
        let mut registered = Vec::new();
        for at in 0..EACH {
            let lease = client.lease_grant(60, None).await.unwrap().id();
            let address = format!("10.0.0.{process}:{}", 80 + at);
            let key = format!("{}/{address}", service(at));
            put(&client, &key, format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#), lease).await;
            registered.push((lease, key));
        }
        Self { client, registered }
    }

    /// Asks for what hither asks for when etcd is back, in the moment in which `all` are connected.
    async fn comes_back(self, all: Arc<Barrier>) -> Vec<WatchStream> {
        while self.client.clone().status().await.is_err() {
            sleep(SECOND / 100).await;
        }
        all.wait().await;
        let registered = self.registered.into_iter().map(|(lease, key)| {
            let mut client = self.client.clone();
            async move {
                client.lease_keep_alive(lease).await.unwrap();
                assert_eq!(client.get(key, None).await.unwrap().count(), 1);
            }
        });
        let watched = (0..EACH).map(|at| {
            let (mut client, prefix) = (self.client.clone(), format!("{}/", service(at)));
            async move {
                client.get(prefix.as_str(), Some(GetOptions::new().with_prefix())).await.unwrap();
                client.watch(prefix, Some(WatchOptions::new().with_prefix())).await.unwrap()
            }
        });
        tokio::join!(join_all(registered), join_all(watched)).1
    }
}

/// The most requests within any `window`, for each registration and each watch.
fn each(came: &[Instant], window: Duration) -> f64 {
    peak(came, window) as f64 / (2 * PROCESSES * EACH) as f64
}

struct Fleet {
    registered: Vec<RegistrationHandle>,
    views: Vec<ServiceView>,
}

impl Fleet {
    async fn start(door: &Door) -> Self {
        let mut fleet = Self { registered: Vec::new(), views: Vec::new() };
        for process in 0..PROCESSES {
            let registry = EtcdRegistry::connect(EtcdConfig::new([door.endpoint()])).unwrap();
            let discovery = Discovery::new(registry.clone());
            for at in 0..EACH {
                let address = instance(&format!("10.0.0.{process}:{}", 80 + at));
                let registration = Registration::new(service(at), address).unwrap().with_ttl(TTL).unwrap();
                fleet.registered.push(keep_registered(
                    registry.clone(),
                    registration,
                    RegistrationConfig::default(),
                ));
                fleet.views.push(discovery.service(&service(at)));
            }
        }
        fleet.is_well().await;
        fleet
    }

    /// Waits until all are registered, and every view is fresh and whole.
    async fn is_well(&self) {
        let begun = Instant::now();
        let is_registered =
            |handle: &RegistrationHandle| matches!(handle.status(), RegistrationStatus::Registered);
        let is_whole = |view: &ServiceView| {
            let now = view.current();
            now.freshness.is_fresh() && now.instances().count() == PROCESSES
        };
        while !self.registered.iter().all(is_registered) || !self.views.iter().all(is_whole) {
            assert!(begun.elapsed() < LONG, "the fleet does not recover");
            sleep(SECOND / 20).await;
        }
    }
}

fn service(at: usize) -> hither_core::ServiceName {
    format!("service-{at}").parse().unwrap()
}
