//! The whole conformance kit, under paused time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::conformance::{Harness, HarnessConfig, Write};
use hither_core::{Catalog, InstanceId, Registrar, Resolver, ServiceName};
use hither_memory::{MemoryRegistry, Operation};

#[derive(Debug)]
struct Memory(MemoryRegistry);

#[async_trait]
impl Harness for Memory {
    fn config(&self) -> HarnessConfig {
        HarnessConfig::default()
            .with_granularity(Duration::from_millis(2))
            .with_deadline(MemoryRegistry::DEADLINE + Duration::from_millis(1))
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

    async fn delete_record(&self, service: &ServiceName, id: &InstanceId) -> bool {
        self.0.faults().delete_record(service, id)
    }

    async fn cut(&self) -> bool {
        self.0.faults().stop();
        self.0.faults().start();
        true
    }

    async fn make_unreachable(&self) -> bool {
        self.0.faults().stop();
        true
    }

    async fn make_silent(&self) -> bool {
        self.0.faults().freeze();
        true
    }

    async fn lose_next_response(&self, write: Write, _service: &ServiceName, _id: &InstanceId) -> bool {
        let operation = match write {
            Write::Register => Operation::Register,
            Write::Renew => Operation::Renew,
            Write::Update => Operation::Update,
            Write::Revoke => Operation::Revoke,
            _ => return false,
        };
        self.0.faults().lose_next_response_of(operation);
        true
    }

    async fn restore(&self) {
        self.0.faults().start();
        self.0.faults().thaw();
    }
}

hither_core::conformance_tests! {
    #[tokio::test(start_paused = true)]
    harness: Memory(MemoryRegistry::new());
}
