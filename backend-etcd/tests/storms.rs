//! Many clients that are refused, or not answered, are no burden for etcd (thundering herd).
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::time::Duration;

use hither_core::{
    Discovery, Registration, RegistrationConfig, RegistrationHandle, ServiceName, ServiceView,
    keep_registered,
};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use support::{Etcd, Requests, documented_roles, instance};
use tokio::time::{Instant, sleep};

/// So many registrations, and so many services watched, of one process.
const EACH: u64 = 30;

const LASTS: Duration = Duration::from_secs(10);

/// Dropping it ends all of them.
struct Crowd {
    _registered: Vec<RegistrationHandle>,
    _views: Vec<ServiceView>,
}

fn crowd(config: &EtcdConfig) -> Crowd {
    let registry = EtcdRegistry::connect(config.clone()).unwrap();
    let discovery = Discovery::new(registry.clone());
    let service = |number: u64| format!("greeter/{number}").parse::<ServiceName>().unwrap();
    let keep = |number: u64| {
        let registration = Registration::new(service(number), instance("10.0.0.1:80")).unwrap();
        keep_registered(registry.clone(), registration, RegistrationConfig::default())
    };
    Crowd {
        _registered: (0..EACH).map(keep).collect(),
        _views: (0..EACH).map(|number| discovery.service(&service(number))).collect(),
    }
}

/// The requests to etcd while this lasts.
async fn asked(etcd: &Etcd) -> Requests {
    let before = etcd.requests().await;
    sleep(LASTS).await;
    &etcd.requests().await - &before
}

async fn guarded() -> Etcd {
    let etcd = Etcd::start_with(&["--bcrypt-cost", "4"]).await;
    documented_roles(etcd.endpoint(), "secret", &[]).await;
    etcd.client().await.auth_enable().await.unwrap();
    etcd
}

#[tokio::test]
async fn a_wrong_password_is_not_retried_all_the_time() {
    let etcd = guarded().await;
    let _crowd = crowd(&etcd.config().with_user("server", "wrong"));
    let since = Instant::now();
    let asked = asked(&etcd).await;
    // One in two seconds for all of them, and never anything else.
    let most = since.elapsed().as_secs() / 2 + 1;
    assert!((3..=most).contains(&asked.of("Authenticate")), "{asked:?}, and at most {most}");
    assert_eq!(asked.total(), asked.of("Authenticate"), "{asked:?}");
}

#[tokio::test]
async fn a_missing_permission_costs_no_authentication_and_few_requests() {
    let etcd = guarded().await;
    // Anybody gets a lease; what is refused is the record, under a prefix where it may do nothing.
    let _crowd = crowd(&etcd.config().with_prefix("elsewhere").with_user("client", "secret"));
    let asked = asked(&etcd).await;
    assert!(asked.of("Authenticate") <= 1, "{asked:?}");
    // A registration is tried every 2.5 s on average, by three requests; a watch every 7.5 s, by one.
    assert!(asked.total() < EACH * (4 * 3 + 2 + 4), "{asked:?}");
}

#[tokio::test]
async fn an_etcd_that_froze_does_not_resume_to_a_backlog_of_renewals() {
    let etcd = Etcd::start().await;
    let _crowd = crowd(&etcd.config());
    sleep(Duration::from_secs(2)).await;
    let before = etcd.requests().await;
    let frozen = etcd.freeze();
    sleep(2 * LASTS).await;
    drop(frozen);
    sleep(Duration::from_secs(1)).await;
    let asked = &etcd.requests().await - &before;
    // For each lease one renewal that was on its way when it froze and one when it awoke, by which its owner learns that
    // it is gone, and what was due just then: 28 to 88 were measured. A client that retried each half second would leave 40 for each.
    assert!(asked.of("LeaseKeepAlive") <= 5 * EACH, "{asked:?}");
    // With it the new leases, records and watches: 42 to 112 were measured.
    assert!(asked.total() <= 10 * EACH, "{asked:?}");
}
