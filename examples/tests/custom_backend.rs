//! The conformance kit on the directory of files, in real time: records expire by the time of the system.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::conformance::{Harness, HarnessConfig};
use hither_core::{Catalog, InstanceId, Registrar, Resolver, ServiceName};
use hither_examples::directory::DirectoryRegistry;
use tempfile::TempDir;

#[derive(Debug)]
struct Directory {
    root: TempDir,
    reader: DirectoryRegistry,
}

impl Directory {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        // A level below, so that it can be renamed.
        let registry = root.path().join("registry");
        std::fs::create_dir(&registry).unwrap();
        Self { reader: DirectoryRegistry::new(registry), root }
    }
}

#[async_trait]
impl Harness for Directory {
    fn config(&self) -> HarnessConfig {
        // A watch reads the directory ten times a second, on a machine that may be busy; and nothing renews what a behaviour
        // has registered for the smallest TTL.
        HarnessConfig::default()
            .with_min_ttl(Duration::from_secs(3))
            .with_granularity(Duration::from_millis(500))
            .with_settle(Duration::from_secs(10))
    }

    async fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::new(DirectoryRegistry::new(self.root.path().join("registry")))
    }

    async fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::new(self.reader.clone())
    }

    async fn catalog(&self) -> Option<Arc<dyn Catalog>> {
        Some(Arc::new(self.reader.clone()))
    }

    async fn put_garbage(&self, service: &ServiceName) -> bool {
        let file = self.reader.file(service, &InstanceId::new("garbage").unwrap());
        std::fs::write(file, "this is no record").is_ok()
    }

    async fn delete_record(&self, service: &ServiceName, id: &InstanceId) -> bool {
        std::fs::remove_file(self.reader.file(service, id)).is_ok()
    }

    async fn cut(&self) -> bool {
        self.make_unreachable().await;
        let directory = self.root.path().to_owned();
        // A watch that polls does not see an interruption shorter than its interval.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(2)).await;
            rename(&directory, "away", "registry");
        });
        true
    }

    async fn make_unreachable(&self) -> bool {
        rename(self.root.path(), "registry", "away");
        true
    }

    async fn restore(&self) {
        rename(self.root.path(), "away", "registry");
    }
}

fn rename(directory: &Path, from: &str, to: &str) {
    std::fs::rename(directory.join(from), directory.join(to)).unwrap();
}

hither_core::conformance_tests! {
    #[tokio::test]
    harness: Directory::new();
    ignore contention = "a file has no compare-and-swap";
    ignore lost_response = "a write to a file cannot lose its response";
    ignore silence = "a local file system does not fall silent";
}
