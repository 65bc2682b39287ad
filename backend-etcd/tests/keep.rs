//! `keep_registered` on a real etcd that dies and comes back.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use hither_core::{
    Registration, RegistrationConfig, RegistrationHandle, RegistrationStatus, ServiceName, keep_registered,
};
use hither_etcd::EtcdRegistry;
use support::{Etcd, LONG, Raw, get, instance, unique_service};
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(5);
const ADDRESS: &str = "10.0.0.1:80";

async fn registered(etcd: &Etcd, service: &ServiceName) -> RegistrationHandle {
    let config = etcd
        .config()
        .with_connect_timeout(Duration::from_millis(500))
        .with_request_timeout(Duration::from_millis(500));
    let registry = EtcdRegistry::connect(config).unwrap();
    let registration = Registration::new(service.clone(), instance(ADDRESS)).unwrap().with_ttl(TTL).unwrap();
    let handle = keep_registered(registry, registration, RegistrationConfig::default());
    timeout(LONG, handle.registered()).await.unwrap().unwrap();
    handle
}

async fn comes_to(handle: &RegistrationHandle, is_so: impl Fn(&RegistrationStatus) -> bool) {
    let mut statuses = Box::pin(handle.statuses());
    let wanted = async {
        while let Some(status) = statuses.next().await {
            if is_so(&status) {
                return;
            }
        }
        panic!("it stays {:?}", handle.status());
    };
    timeout(LONG, wanted).await.unwrap_or_else(|_| panic!("it is {:?}", handle.status()));
}

async fn record(etcd: &Etcd, service: &ServiceName) -> Option<Raw> {
    get(&etcd.client().await, &format!("{service}/{ADDRESS}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_returns_with_its_data_has_the_registration_on_the_same_lease() {
    let mut etcd = Etcd::start().await;
    let service = unique_service();
    let handle = registered(&etcd, &service).await;
    let before = record(&etcd, &service).await.unwrap();
    etcd.kill();
    comes_to(&handle, |status| matches!(status, RegistrationStatus::Retrying { .. })).await;
    let etcd = etcd.start_again().await;
    assert_eq!(record(&etcd, &service).await.as_ref(), Some(&before), "it was never away");
    comes_to(&handle, |status| matches!(status, RegistrationStatus::Registered)).await;
    // etcd gave the lease a full TTL when it came back: only one that is renewed outlives the next.
    sleep(TTL + Duration::from_secs(2)).await;
    assert_eq!(record(&etcd, &service).await, Some(before));
    handle.deregister().await.unwrap();
    assert_eq!(record(&etcd, &service).await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_etcd_has_the_registration_again_within_a_ttl() {
    let mut etcd = Etcd::start().await;
    let service = unique_service();
    let handle = registered(&etcd, &service).await;
    let before = record(&etcd, &service).await.unwrap();
    etcd.kill();
    comes_to(&handle, |status| matches!(status, RegistrationStatus::Retrying { .. })).await;
    etcd.wipe();
    let etcd = etcd.start_again().await;
    let answering = Instant::now();
    let after = loop {
        if let Some(record) = record(&etcd, &service).await {
            break record;
        }
        // On a busy machine it takes a moment longer.
        assert!(answering.elapsed() < TTL + Duration::from_secs(3), "{:?}", handle.status());
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(after.value, before.value);
    assert_ne!(after.lease, before.lease);
    comes_to(&handle, |status| matches!(status, RegistrationStatus::Registered)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deregistration_during_an_outage_is_final() {
    let mut etcd = Etcd::start().await;
    let service = unique_service();
    let handle = registered(&etcd, &service).await;
    etcd.kill();
    comes_to(&handle, |status| matches!(status, RegistrationStatus::Retrying { .. })).await;
    let leaving = async { handle.deregister().await };
    let coming_back = etcd.start_again();
    let (_, etcd) = tokio::join!(leaving, coming_back);
    let answering = Instant::now();
    while record(&etcd, &service).await.is_some() {
        assert!(answering.elapsed() < TTL + Duration::from_secs(2), "{:?}", handle.status());
        sleep(Duration::from_millis(20)).await;
    }
    comes_to(&handle, RegistrationStatus::is_final).await;
    assert_eq!(record(&etcd, &service).await, None);
}
