//! Instances that never change.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;

use crate::{Instance, Resolver, Result, ServiceName, Snapshot, SnapshotStream};

/// A resolver that gives the same instances for whatever service is asked: for addresses from a configuration
/// file, and for tests.
///
/// ```
/// use hither_core::{Instance, Resolver, StaticResolver};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let resolver = StaticResolver::new([Instance::new("10.0.0.7:8001".parse()?)]);
/// assert_eq!(resolver.resolve(&"greeter".parse()?).await?.len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct StaticResolver {
    instances: Vec<Arc<Instance>>,
}

impl StaticResolver {
    /// A resolver of these instances.
    pub fn new(instances: impl IntoIterator<Item = Instance>) -> Self {
        Self { instances: instances.into_iter().map(Arc::new).collect() }
    }

    fn snapshot(&self, service: &ServiceName) -> Snapshot {
        Snapshot::new(service.clone(), self.instances.iter().cloned())
    }
}

#[async_trait]
impl Resolver for StaticResolver {
    async fn resolve(&self, service: &ServiceName) -> Result<Snapshot> {
        Ok(self.snapshot(service))
    }

    async fn watch(&self, service: &ServiceName, _since: Option<Snapshot>) -> Result<SnapshotStream> {
        let snapshot = self.snapshot(service);
        Ok(Box::pin(stream::once(async { Ok(snapshot) }).chain(stream::pending())))
    }
}
