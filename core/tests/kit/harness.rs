//! Backends that each break one promise: hither-memory behind one defect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hither_core::conformance::{Harness, HarnessConfig, Write};
use hither_core::{
    Catalog, Error, ErrorKind, InstanceId, Registrar, Resolver, Result, ServiceName, Snapshot,
};
use hither_memory::{MemoryRegistry, Operation};
use tokio::sync::{Mutex, Semaphore, watch};

use crate::defect::Defect;
use crate::lease::SharedLease;

/// One registry behind a defect.
#[derive(Debug)]
pub(crate) struct Broken(Arc<Scene>);

/// What all handles of the registry share.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) registry: MemoryRegistry,
    pub(crate) defect: Defect,
    pub(crate) garbage: watch::Sender<bool>,
    pub(crate) cut: watch::Sender<bool>,
    /// All services that ever had an instance, and with [`Defect::RemembersExpiredOwners`] all instances.
    pub(crate) seen: Mutex<Vec<ServiceName>>,
    pub(crate) registering: AtomicUsize,
    silent: AtomicBool,
    /// Whether a call has had no response.
    was_lost: AtomicBool,
}

/// One handle of the registry.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) scene: Arc<Scene>,
    pub(crate) registry: MemoryRegistry,
    pub(crate) leases: Arc<Mutex<Vec<SharedLease>>>,
    pub(crate) answered: Mutex<Vec<InstanceId>>,
    /// What was resolved last, of each service.
    pub(crate) last: Mutex<Vec<Snapshot>>,
    /// What was watched.
    pub(crate) watched: Arc<Mutex<Vec<Snapshot>>>,
    pub(crate) watches: watch::Sender<usize>,
    /// For those that make one call at a time.
    pub(crate) turn: Semaphore,
}

impl Broken {
    pub(crate) fn new(defect: Defect) -> Self {
        Self(Arc::new(Scene {
            registry: MemoryRegistry::new(),
            defect,
            garbage: watch::Sender::new(false),
            cut: watch::Sender::new(false),
            seen: Mutex::default(),
            registering: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
            was_lost: AtomicBool::new(false),
        }))
    }
}

impl Backend {
    pub(crate) fn new(scene: &Arc<Scene>, registry: MemoryRegistry) -> Self {
        Self {
            scene: Arc::clone(scene),
            registry,
            leases: Arc::default(),
            answered: Mutex::default(),
            last: Mutex::default(),
            watched: Arc::default(),
            watches: watch::Sender::new(0),
            turn: Semaphore::new(1),
        }
    }
}

impl Scene {
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Makes one call as a backend with this defect does.
    pub(crate) async fn call<T, F>(&self, operation: Operation, attempt: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        if self.defect == Defect::NeverRecovers && self.was_lost.load(Ordering::Relaxed) {
            return Err(defect(ErrorKind::Unavailable));
        }
        loop {
            let result = attempt().await;
            let Err(error) = &result else { return result };
            if !is_no_response(error) {
                return result;
            }
            let has_failed = self.was_lost.swap(true, Ordering::Relaxed);
            let waits = error.kind() == ErrorKind::Timeout && self.is_silent();
            if waits && self.defect.has_no_deadline(operation, has_failed) {
                continue;
            }
            return match self.defect {
                Defect::ReportsPermanentErrors => Err(error.clone().with_retryable(false)),
                Defect::ReportsUnexpectedErrors => Err(defect(ErrorKind::Unexpected)),
                _ => result,
            };
        }
    }
}

#[async_trait]
impl Harness for Broken {
    fn config(&self) -> HarnessConfig {
        HarnessConfig::default()
            .with_granularity(Duration::from_millis(2))
            .with_deadline(MemoryRegistry::DEADLINE + Duration::from_millis(1))
    }

    async fn registrar(&self) -> Arc<dyn Registrar> {
        Arc::new(Backend::new(&self.0, self.0.registry.connect()))
    }

    async fn resolver(&self) -> Arc<dyn Resolver> {
        Arc::new(Backend::new(&self.0, self.0.registry.clone()))
    }

    async fn catalog(&self) -> Option<Arc<dyn Catalog>> {
        Some(Arc::new(Backend::new(&self.0, self.0.registry.clone())))
    }

    async fn put_garbage(&self, service: &ServiceName) -> bool {
        self.0.registry.faults().put_garbage(service, &InstanceId::new("garbage").unwrap());
        self.0.garbage.send_replace(true);
        true
    }

    async fn delete_record(&self, service: &ServiceName, id: &InstanceId) -> bool {
        self.0.registry.faults().delete_record(service, id)
    }

    async fn cut(&self) -> bool {
        self.0.registry.faults().stop();
        self.0.registry.faults().start();
        self.0.cut.send_replace(true);
        true
    }

    async fn make_unreachable(&self) -> bool {
        self.0.registry.faults().stop();
        true
    }

    async fn make_silent(&self) -> bool {
        self.0.registry.faults().freeze();
        self.0.silent.store(true, Ordering::Relaxed);
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
        self.0.registry.faults().lose_next_response_of(operation);
        true
    }

    async fn restore(&self) {
        self.0.registry.faults().start();
        self.0.registry.faults().thaw();
        self.0.silent.store(false, Ordering::Relaxed);
    }
}

pub(crate) fn defect(kind: ErrorKind) -> Error {
    Error::new(kind, "the defect")
}

pub(crate) fn is_no_response(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout)
}
