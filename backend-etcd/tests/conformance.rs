//! The conformance kit, all of it, on a real etcd.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::conformance::{Harness, Profile};
use hither_core::{Catalog, InstanceId, Registrar, Resolver, ServiceName};
use hither_etcd::{EtcdConfig, EtcdRegistry, Layout};
use support::{Etcd, Proxy, shared};

/// A prefix in the etcd that all tests share. Readers come through a proxy, which can take it away from them.
#[derive(Debug)]
struct OnEtcd {
    layout: Layout,
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
        let config = EtcdConfig::new([proxy.endpoint()]).with_layout(layout).with_prefix(&prefix);
        Self { layout, etcd, proxy, reader: EtcdRegistry::connect(config).unwrap(), prefix }
    }
}

#[async_trait]
impl Harness for OnEtcd {
    fn profile(&self) -> Profile {
        // etcd grants whole seconds and no less than 2, and looks for expired leases twice a second.
        Profile::default().with_min_ttl(Duration::from_secs(2)).with_granularity(Duration::from_millis(1500))
    }

    async fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::new(
            EtcdRegistry::connect(self.etcd.config().with_layout(self.layout).with_prefix(&self.prefix))
                .unwrap(),
        )
    }

    async fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::new(self.reader.clone())
    }

    async fn catalog(&self) -> Option<Arc<dyn Catalog>> {
        Some(Arc::new(self.reader.clone()))
    }

    async fn put_garbage(&self, service: &ServiceName) -> bool {
        let key = format!("{}{service}/garbage", self.prefix);
        support::put(&self.etcd.client().await, &key, b"\xff{".as_slice(), 0).await;
        true
    }

    async fn remove_record(&self, service: &ServiceName, id: &InstanceId) -> bool {
        support::delete(&self.etcd.client().await, &format!("{}{service}/{id}", self.prefix)).await;
        true
    }

    async fn cut(&self) -> bool {
        self.proxy.cut();
        true
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
    }
}
