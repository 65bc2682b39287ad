//! An etcd that comes back, and everybody wants something of it.
//!
//! Who comes back makes two requests for a registration, to keep it and to look at it, and three for a watch, to see
//! whether it can go on, to list, and to watch: 2.5 for each on average, and in the same moment if nothing spread them.
//! The bounds are: not more than 3 in a second, with all that goes on anyway, and 0.8 in any tenth of a second.

use std::time::Duration;

use hither_core::{
    Discovery, KeepAliveConfig, Registration, RegistrationHandle, RegistrationStatus, ServiceView,
    keep_registered,
};
use hither_etcd::EtcdRegistry;
use tokio::time::{Instant, sleep};

use crate::support::{Etcd, LONG, Sampler, instance};
use crate::table::Table;

/// Each with a registry, and so a connection, of its own.
const PROCESSES: usize = 100;

/// How many services each of them serves, and how many others it watches.
const EACH: usize = 10;

const SECOND: Duration = Duration::from_secs(1);

const TTL: Duration = Duration::from_secs(10);

pub(crate) async fn measure(table: &mut Table) {
    let mut etcd = Etcd::start().await;
    let fleet = Fleet::start(&etcd).await;
    for outage in [SECOND, 5 * SECOND, 30 * SECOND] {
        table.title(&format!(
            "etcd killed for {outage:?}, under {PROCESSES} processes with {EACH} registrations and {EACH} watches each"
        ));
        let calm = &etcd.requests().await;
        sleep(5 * SECOND).await;
        let calm = (&etcd.requests().await - calm).total() as f64 / 5.0;
        etcd.kill();
        sleep(outage).await;
        let sampler = Sampler::start(etcd.endpoint(), Duration::from_millis(50));
        etcd = etcd.start_again().await;
        let since = Instant::now();
        fleet.is_well().await;
        let took = since.elapsed();
        // Until the last renewal that was not due meanwhile.
        sleep(5 * SECOND).await;
        table.line("requests at etcd in a second before", &format!("{calm:.0}"));
        table.line("all registered and fresh after", &format!("{:.2} s", took.as_secs_f64()));
        let each = |window: Duration| sampler.peak(window) as f64 / (2 * PROCESSES * EACH) as f64;
        table.bounded("the most requests in a second, for each", each(SECOND), 3.0);
        table.bounded("the most requests in a tenth of a second, for each", each(SECOND / 10), 0.8);
    }
}

struct Fleet {
    registered: Vec<RegistrationHandle>,
    views: Vec<ServiceView>,
}

impl Fleet {
    async fn start(etcd: &Etcd) -> Self {
        let mut fleet = Self { registered: Vec::new(), views: Vec::new() };
        for process in 0..PROCESSES {
            let registry = EtcdRegistry::connect(etcd.options()).unwrap();
            let discovery = Discovery::from(registry.clone());
            for at in 0..EACH {
                let address = instance(&format!("10.0.0.{process}:{}", 80 + at));
                let registration = Registration::new(service(at), address).with_ttl(TTL);
                fleet.registered.push(keep_registered(
                    registry.clone(),
                    registration,
                    KeepAliveConfig::default(),
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
            now.freshness.is_fresh() && now.instances().len() == PROCESSES
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
