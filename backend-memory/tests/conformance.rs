//! The conformance kit, all of it, under paused time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::conformance::{Harness, Profile};
use hither_core::{Catalog, InstanceId, Registrar, Resolver, ServiceName};
use hither_memory::MemoryRegistry;

#[derive(Debug)]
struct Memory(MemoryRegistry);

#[async_trait]
impl Harness for Memory {
    fn profile(&self) -> Profile {
        Profile::default().with_granularity(Duration::from_millis(2))
    }

    async fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::new(self.0.connect())
    }

    async fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::new(self.0.clone())
    }

    async fn catalog(&self) -> Option<Arc<dyn Catalog>> {
        Some(Arc::new(self.0.clone()))
    }

    async fn put_garbage(&self, service: &ServiceName) -> bool {
        InstanceId::new("garbage").map(|id| self.0.faults().put_garbage(service, &id)).is_ok()
    }

    async fn remove_record(&self, service: &ServiceName, id: &InstanceId) -> bool {
        self.0.faults().delete_record(service, id)
    }

    async fn cut(&self) -> bool {
        self.0.faults().stop();
        self.0.faults().start();
        true
    }
}

hither_core::conformance_tests! {
    #[tokio::test(start_paused = true)]
    harness: Memory(MemoryRegistry::new());
}
