//! A client that starts while etcd is down.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::path::Path;
use std::time::Duration;

use hither_core::{Discovery, Freshness, ServiceView};
use support::{Etcd, LONG, register, unique_service};
use tokio::time::timeout;

fn discovery(etcd: &Etcd, directory: &Path) -> Discovery {
    Discovery::builder(etcd.registry()).cache_dir(directory).build()
}

async fn comes_to(view: &mut ServiceView, fresh: bool, count: usize) {
    let wanted = async {
        while view.current().freshness.is_fresh() != fresh || view.current().instances().count() != count {
            view.changed().await.unwrap();
        }
    };
    assert!(timeout(LONG, wanted).await.is_ok(), "{:?}", view.current());
}

#[tokio::test]
async fn a_client_that_starts_while_etcd_is_down_uses_its_cache_and_then_etcd() {
    let mut etcd = Etcd::start().await;
    let (service, directory) = (unique_service(), tempfile::tempdir().unwrap());
    let registry = etcd.registry();
    let _a = register(&registry, &service, "a:1").await;
    let mut b = register(&registry, &service, "b:1").await;

    let mut before = discovery(&etcd, directory.path()).service(&service);
    comes_to(&mut before, true, 2).await;
    let written = timeout(LONG, async {
        while std::fs::read_dir(directory.path())
            .unwrap()
            .all(|file| !file.unwrap().file_name().to_string_lossy().ends_with(".json"))
        {
            tokio::task::yield_now().await;
        }
    });
    written.await.expect("it is on disk");
    drop(before);

    etcd.kill();
    let mut cold = discovery(&etcd, directory.path()).service(&service);
    let found = cold.wait_ready(Duration::from_secs(5)).await.unwrap();
    assert_eq!(support::ids(&found), ["a:1", "b:1"]);
    let Freshness::Stale { age, .. } = cold.current().freshness else { panic!("etcd is down") };
    assert!(age < LONG, "{age:?}");

    // It takes up what it had, and goes on from there.
    let _etcd = etcd.start_again().await;
    comes_to(&mut cold, true, 2).await;
    while b.revoke().await.is_err() {}
    comes_to(&mut cold, true, 1).await;
}
