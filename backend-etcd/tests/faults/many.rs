//! One process that watches a thousand services.

use futures_util::future::join_all;
use hither_core::{Discovery, ServiceName, ServiceView};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::report::Row;
use crate::scene::{Lease, Scene, Truth};
use crate::support::{Etcd, LONG, Proxy, put_many};

crate::faults! {
    watched_by_one_process
}

const COUNT: usize = 1000;

fn service(at: usize) -> ServiceName {
    format!("many/{at}").parse().unwrap()
}

/// A record of each service.
fn records(address: &str) -> impl Iterator<Item = (String, String)> {
    let value = format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#);
    let key = format!("/{address}");
    (0..COUNT).map(move |at| (format!("{}{key}", service(at)), value.clone()))
}

/// Until every view is fresh, and has so many instances.
async fn all_have(views: &mut [ServiceView], instances: usize) {
    let has = views.iter_mut().map(|view| async move {
        loop {
            let now = view.current();
            if now.freshness.is_fresh() && now.instances().count() == instances {
                return;
            }
            view.changed().await.unwrap();
        }
    });
    timeout(LONG, join_all(has)).await.expect("every view has them");
}

/// Looks at all that each view shows, until there are two, for the instance that stays.
fn never_lose(discovery: &Discovery) -> Vec<JoinHandle<()>> {
    let looks = |mut view: ServiceView| async move {
        loop {
            let shown = view.current();
            let ids: Vec<_> = shown.instances().map(|instance| instance.id().as_str()).collect();
            assert!(ids.contains(&"10.0.0.1:80"), "{ids:?}");
            if ids.contains(&"10.0.0.2:80") {
                return;
            }
            view.changed().await.unwrap();
        }
    };
    (0..COUNT).map(|at| tokio::spawn(looks(discovery.service(&service(at))))).collect()
}

async fn watched_by_one_process() -> Row {
    let mut etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    put_many(&etcd.client().await, 0, records("10.0.0.1:80")).await;
    // However slow the machine is: a deadline would rotate them onto another connection.
    let config = EtcdConfig::new([proxy.endpoint()]).with_request_timeout(LONG).with_connect_timeout(LONG);
    let registry = EtcdRegistry::connect(config).unwrap();
    let discovery = Discovery::new(registry);
    let mut views: Vec<_> = (0..COUNT).map(|at| discovery.service(&service(at))).collect();
    all_have(&mut views, 1).await;
    let stays = never_lose(&discovery);
    assert_eq!(proxy.connections(), 1, "a thousand watches share one connection");

    let fault = "1,000 services watched by one process, etcd killed and restarted";
    let mut scene = Scene::new(fault, etcd.config(), Truth::at([etcd.endpoint()])).await;
    etcd.kill();
    scene.is_stale().await;
    let etcd = etcd.start_again().await;
    scene.over();
    let client = etcd.client().await;
    // Each receives what happens in its service, whether it was back by then or not.
    put_many(&client, 0, records("10.0.0.2:80")).await;
    all_have(&mut views, 2).await;
    join_all(stays).await.into_iter().for_each(|stays| stays.unwrap());
    let one_again = async {
        while proxy.open_connections() != 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, one_again).await.expect("they share one connection again, and leave no other");
    scene.recovers(Lease::Kept).await
}
