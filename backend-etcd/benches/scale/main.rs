//! How it does at scale.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a bench that cannot go on ends")]

#[path = "../../tests/support/mod.rs"]
mod support;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Client, PutOptions};
use futures_util::future::join_all;
use hither_core::{KeepAliveConfig, Registration, RegistrationStatus, keep_registered};
use support::{Etcd, Sampler};
use tokio::time::{Instant, sleep};

const COUNT: usize = 10_000;

async fn raw(etcd: &Etcd, concurrency: usize) -> Duration {
    let client = etcd.client().await;
    client.clone().status().await.unwrap();
    let next = Arc::new(AtomicUsize::new(0));
    let since = Instant::now();
    let workers = (0..concurrency).map(|_| {
        let (client, next) = (client.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            let mut client: Client = client;
            let mut leases = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= COUNT {
                    return leases;
                }
                let lease = client.lease_grant(10, None).await.unwrap().id();
                let key = format!("raw/10.0.0.1:{at}");
                let value = format!(r#"{{"Op":0,"Addr":"10.0.0.1:{at}","Metadata":null}}"#);
                client.put(key, value, Some(PutOptions::new().with_lease(lease))).await.unwrap();
                leases.push(lease);
            }
        })
    });
    let leases = join_all(workers).await;
    let took = since.elapsed();
    join_all(leases.into_iter().map(|leases| {
        let mut client = client.clone();
        tokio::spawn(async move {
            for lease in leases.unwrap() {
                client.lease_revoke(lease).await.unwrap();
            }
        })
    }))
    .await;
    took
}

fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let mut fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11);
    (fields.next().unwrap().parse::<f64>().unwrap() + fields.next().unwrap().parse::<f64>().unwrap()) / 100.0
}

async fn hither(etcd: &Etcd, hold: Duration) -> Duration {
    let registry = etcd.registry();
    let since = Instant::now();
    let handles: Vec<_> = (0..COUNT)
        .map(|at| {
            let registration =
                Registration::new("hither".parse().unwrap(), support::instance(&format!("10.0.0.1:{}", at + 1)));
            keep_registered(registry.clone(), registration, KeepAliveConfig::default())
        })
        .collect();
    let late = tokio::spawn(async move {});
    let _ = late.await;
    for handle in &handles {
        handle.registered().await.unwrap();
    }
    let took = since.elapsed();
    if !hold.is_zero() {
        let retrying = Arc::new(AtomicUsize::new(0));
        let before = etcd.requests().await;
        let cpu_before = cpu();
        let sampler = Sampler::start(etcd.endpoint(), Duration::from_millis(100));
        let until = Instant::now() + hold;
        while Instant::now() < until {
            sleep(Duration::from_millis(50)).await;
            let now = handles.iter().filter(|h| !matches!(h.status(), RegistrationStatus::Registered));
            let mut count = 0;
            for h in now {
                count += 1;
                if retrying.fetch_add(1, Ordering::Relaxed) < 10 {
                    eprintln!("{:?}", h.status());
                }
            }
            if count > 0 { eprintln!("{count} not registered"); }
        }
        let did = &etcd.requests().await - &before;
        println!("held {hold:?}: {} requests/s (peak/s {} peak/0.1s {}), etcd cpu {:.2}, ours {:.2}; {did:?}",
            did.total() as f64 / hold.as_secs_f64(), sampler.peak(Duration::from_millis(1050)), sampler.peak(Duration::from_millis(150)),
            did.cpu / hold.as_secs_f64(), (cpu() - cpu_before) / hold.as_secs_f64());
    }
    let since = Instant::now();
    let left = join_all(handles.iter().map(|handle| handle.deregister())).await;
    println!("left in {:?}, {} unconfirmed", since.elapsed(), left.iter().filter(|left| left.is_err()).count());
    took
}

#[tokio::main]
async fn main() {
    let etcd = Etcd::start().await;
    let concurrency: usize = std::env::var("N").map_or(128, |n| n.parse().unwrap());
    for round in 0..3 {
        let raw = raw(&etcd, concurrency).await;
        let hither = hither(&etcd, if round == 2 { Duration::from_secs(30) } else { Duration::ZERO }).await;
        println!("raw {raw:?} hither {hither:?} {:.2}", hither.as_secs_f64() / raw.as_secs_f64());
    }
}
