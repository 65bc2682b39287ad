//! The conformance kit on the directory of files, all of it, in real time: files know no other.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hither_core::conformance::{Harness, Profile};
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
        // A level below, so that it can be taken away.
        let registry = root.path().join("registry");
        std::fs::create_dir(&registry).unwrap();
        Self { reader: DirectoryRegistry::new(registry), root }
    }
}

#[async_trait]
impl Harness for Directory {
    fn profile(&self) -> Profile {
        // A watch looks ten times a second, on a machine that may be busy.
        Profile::default().with_granularity(Duration::from_millis(500))
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

    async fn remove_record(&self, service: &ServiceName, id: &InstanceId) -> bool {
        std::fs::remove_file(self.reader.file(service, id)).is_ok()
    }

    async fn cut(&self) -> bool {
        let (here, away) = (self.root.path().join("registry"), self.root.path().join("away"));
        std::fs::rename(&here, &away).unwrap();
        // Who only looks now and then sees nothing shorter than a look.
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            std::fs::rename(&away, &here).unwrap();
        });
        true
    }
}

hither_core::conformance_tests! {
    #[tokio::test]
    harness: Directory::new();
}
