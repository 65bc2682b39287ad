//! The whole conformance kit on a real etcd.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::conformance::{Harness, HarnessConfig, Write};
use hither_core::{Catalog, InstanceId, Registrar, Resolver, ServiceName};
use hither_etcd::{EtcdConfig, EtcdRegistry, Layout};
use support::{Etcd, Proxy, shared};

/// Short, because behaviours wait for it, and long enough for a busy machine.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A prefix in the etcd that all tests share. All handles connect through a proxy of their own, which disturbs only
/// them.
#[derive(Debug)]
struct OnEtcd {
    config: EtcdConfig,
    prefix: String,
    etcd: &'static Etcd,
    proxy: Proxy,
    reader: EtcdRegistry,
}

impl OnEtcd {
    async fn new(layout: Layout) -> Self {
        let etcd = shared().await;
        let prefix = format!("kit-{:016x}/", fastrand::u64(..));
        let proxy = Proxy::start(etcd.endpoint()).await;
        let config = EtcdConfig::new([proxy.endpoint()])
            .with_layout(layout)
            .with_prefix(&prefix)
            .with_connect_timeout(TIMEOUT)
            .with_request_timeout(TIMEOUT)
            .with_probe_interval(Duration::from_millis(500));
        let reader = EtcdRegistry::connect(config.clone()).unwrap();
        Self { config, prefix, etcd, proxy, reader }
    }

    fn key(&self, service: &ServiceName, id: &InstanceId) -> String {
        format!("{}{service}/{id}", self.prefix)
    }
}

#[async_trait]
impl Harness for OnEtcd {
    fn config(&self) -> HarnessConfig {
        // etcd grants whole seconds and at least 2, and looks for expired leases twice a second. The record of a registration
        // whose response was lost is looked for after a timeout, and has to be there still.
        HarnessConfig::default()
            .with_min_ttl(2 * TIMEOUT)
            .with_granularity(Duration::from_millis(1500))
            .with_settle(Duration::from_secs(10))
            .with_deadline(6 * TIMEOUT)
    }

    async fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::new(EtcdRegistry::connect(self.config.clone()).unwrap())
    }

    async fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::new(self.reader.clone())
    }

    async fn catalog(&self) -> Option<Arc<dyn Catalog>> {
        Some(Arc::new(self.reader.clone()))
    }

    async fn put_garbage(&self, service: &ServiceName) -> bool {
        let key = self.key(service, &InstanceId::new("garbage").unwrap());
        support::put(&self.etcd.client().await, &key, b"\xff{".as_slice(), 0).await;
        true
    }

    async fn delete_record(&self, service: &ServiceName, id: &InstanceId) -> bool {
        support::delete(&self.etcd.client().await, &self.key(service, id)).await;
        true
    }

    async fn cut(&self) -> bool {
        self.proxy.cut();
        true
    }

    async fn make_unreachable(&self) -> bool {
        self.proxy.refuse_new();
        self.proxy.cut();
        true
    }

    async fn make_silent(&self) -> bool {
        self.proxy.freeze();
        true
    }

    async fn lose_next_response(&self, write: Write, service: &ServiceName, id: &InstanceId) -> bool {
        match write {
            // After the request that has the key: the lease was granted before, with a response.
            Write::Register | Write::Renew | Write::Update => {
                self.proxy.mute_after(self.key(service, id).as_bytes());
            }
            // Only the id of the lease is in the request.
            Write::Revoke => self.proxy.mute_after_next(),
            _ => return false,
        }
        true
    }

    async fn restore(&self) {
        self.proxy.heal();
    }
}

hither_core::conformance_tests! {
    #[tokio::test]
    harness: OnEtcd::new(Layout::EtcdNaming).await;
}

mod kratos {
    use super::*;

    hither_core::conformance_tests! {
        #[tokio::test]
        harness: OnEtcd::new(Layout::Kratos).await;
        ignore lost_response = "the layout of a value does not change how it is written: shown above";
        ignore outage = "the layout of a value does not change how it is written: shown above";
        ignore silence = "the layout of a value does not change how it is written: shown above";
    }
}
