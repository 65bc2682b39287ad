//! Ten thousand registrations of one process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, PutOptions};
use futures_util::future::join_all;
use hither_core::{
    Registration, RegistrationConfig, RegistrationHandle, RegistrationStatus, keep_registered,
};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use tokio::time::{Instant, sleep};

use crate::door::{Door, peak};
use crate::support::{Etcd, LONG, instance};
use crate::table::{Table, quantile};

const COUNT: usize = 10_000;

/// As many as an `EtcdRegistry` writes at a time.
const AT_ONCE: usize = 64;

const ROUNDS: usize = 5;

/// The time for which they are renewed, in units of the TTL.
const TTLS: u32 = 3;

const TTL: Duration = Duration::from_secs(10);

pub(crate) async fn measure(table: &mut Table) {
    let etcd = Etcd::start().await;
    table.title(&format!(
        "{COUNT} registrations of one process, {AT_ONCE} at a time, medians of {ROUNDS} rounds"
    ));
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        // The second of a round runs on an etcd with more data.
        let (raw, ours) = if round % 2 == 0 {
            let raw = raw(&etcd).await;
            (raw, hither(&etcd).await)
        } else {
            let ours = hither(&etcd).await;
            (raw(&etcd).await, ours)
        };
        let (raw, ours) = (raw.as_secs_f64(), ours.as_secs_f64());
        table.beside("grant and put: etcd-client raw, hither, ratio", raw, ours);
        ratios.push(ours / raw);
    }
    table.bounded("median of the ratios", quantile(&ratios, 0.5), 2.0);
    hold(&etcd, table).await;
}

/// The same grants and puts, sent as they are; how long that took.
async fn raw(etcd: &Etcd) -> Duration {
    let client = etcd.client().await;
    client.clone().status().await.unwrap();
    let next = Arc::new(AtomicUsize::new(0));
    let since = Instant::now();
    let workers = (0..AT_ONCE).map(|_| tokio::spawn(raw_worker(client.clone(), Arc::clone(&next))));
    let leases = join_all(workers).await;
    let took = since.elapsed();
    let revoking = leases.into_iter().map(|leases| {
        let mut client = client.clone();
        tokio::spawn(async move {
            for lease in leases.unwrap() {
                client.lease_revoke(lease).await.unwrap();
            }
        })
    });
    join_all(revoking).await;
    took
}

async fn raw_worker(mut client: Client, next: Arc<AtomicUsize>) -> Vec<i64> {
    let mut leases = Vec::new();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        if at >= COUNT {
            return leases;
        }
        let lease = client.lease_grant(TTL.as_secs() as i64, None).await.unwrap().id();
        let address = address(at);
        let value = format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#);
        let config = PutOptions::new().with_lease(lease);
        client.put(format!("raw/{address}"), value, Some(config)).await.unwrap();
        leases.push(lease);
    }
}

fn address(at: usize) -> String {
    format!("10.0.0.1:{}", at + 1)
}

async fn register_all(registry: &EtcdRegistry) -> Vec<RegistrationHandle> {
    // So many that leave at once wait for their turn.
    let config = RegistrationConfig::default().with_deregister_timeout(LONG);
    let keep = |at: usize| {
        let registration = Registration::new("hither".parse().unwrap(), instance(&address(at)))
            .unwrap()
            .with_ttl(TTL)
            .unwrap();
        keep_registered(registry.clone(), registration, config.clone())
    };
    let handles: Vec<_> = (0..COUNT).map(keep).collect();
    for handle in &handles {
        handle.registered().await.unwrap();
    }
    handles
}

async fn leave(handles: Vec<RegistrationHandle>) {
    let left = join_all(handles.iter().map(RegistrationHandle::deregister)).await;
    left.into_iter().for_each(Result::unwrap);
}

async fn hither(etcd: &Etcd) -> Duration {
    let registry = etcd.registry();
    // As raw: connected.
    hither_core::Resolver::resolve(&registry, &"hither".parse().unwrap()).await.unwrap();
    let since = Instant::now();
    let handles = register_all(&registry).await;
    let took = since.elapsed();
    leave(handles).await;
    took
}

/// Lets them be for some TTLs: how evenly their renewals come, and whether any is ever late.
async fn hold(etcd: &Etcd, table: &mut Table) {
    let door = Door::open(etcd.endpoint()).await;
    let registry = EtcdRegistry::connect(EtcdConfig::new([door.endpoint()])).unwrap();
    let handles = register_all(&registry).await;
    door.came();
    let (since, mut late) = (Instant::now(), 0);
    while since.elapsed() < TTLS * TTL {
        sleep(Duration::from_millis(50)).await;
        let is_late =
            |handle: &&RegistrationHandle| !matches!(handle.status(), RegistrationStatus::Registered);
        late = late.max(handles.iter().filter(is_late).count());
    }
    let came = door.came();
    let mean = came.len() as f64 / since.elapsed().as_secs_f64();
    table.line("held: requests at etcd in a second, two a renewal", &format!("{mean:.0}"));
    table.bounded("the worst second, in means", peak(&came, Duration::from_secs(1)) as f64 / mean, 2.0);
    table.bounded("the most that were late at a time", late as f64, 0.0);
    leave(handles).await;
}
