//! The registration under one service: what the program wants of it, and what the lifecycle makes of that.

use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hither_core::{
    Instance, InstanceState, Registrar, Registration, RegistrationConfig, RegistrationHandle, ServiceName,
    keep_registered,
};

use crate::error::{Error, ErrorKind, Result};

/// One service of a server. Dropping it deregisters in the background, best effort.
#[derive(Debug)]
pub(super) struct ServiceRegistration {
    service: ServiceName,
    desired: Mutex<Desired>,
    /// From the start on.
    handle: OnceLock<RegistrationHandle>,
}

#[derive(Debug)]
struct Desired {
    /// As the program wants it.
    registration: Registration,
    /// Counts the program's updates.
    version: u64,
    /// Whether it is `Draining` whatever the program wants.
    is_draining: bool,
    /// Whether the program's updates are over.
    is_closed: bool,
}

impl Desired {
    /// What the registry is to have.
    fn instance(&self) -> Instance {
        let instance = self.registration.instance().clone();
        if self.is_draining { instance.with_state(InstanceState::Draining) } else { instance }
    }
}

impl ServiceRegistration {
    pub(super) fn new(registration: Registration) -> Self {
        let service = registration.service().clone();
        let desired = Desired { registration, version: 0, is_draining: false, is_closed: false };
        Self { service, desired: Mutex::new(desired), handle: OnceLock::new() }
    }

    pub(super) fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The registration itself, once it is started.
    pub(super) fn handle(&self) -> Option<&RegistrationHandle> {
        self.handle.get()
    }

    /// Starts to register, in the background.
    pub(super) fn start(&self, registrar: &Arc<dyn Registrar>, config: RegistrationConfig) {
        // Under the lock, so that an update reaches either the registration or its handle.
        let desired = self.desired();
        let registration = desired.registration.clone();
        self.handle.get_or_init(|| keep_registered(Arc::clone(registrar), registration, config));
    }

    /// Changes what the program wants. `describe` is the program's code: it runs without a lock, and again if another
    /// update came in between.
    pub(super) fn update(&self, describe: &impl Fn(Instance) -> Instance) -> Result<()> {
        loop {
            let (current, version) = {
                let desired = self.desired();
                (desired.registration.clone(), desired.version)
            };
            let instance = describe(current.instance().clone());
            let registration = current.with_instance(instance)?;
            let mut desired = self.desired();
            if desired.is_closed {
                return Err(closed());
            }
            if desired.version == version {
                desired.registration = registration;
                desired.version += 1;
                self.send(&desired);
                return Ok(());
            }
        }
    }

    /// Ends the program's updates.
    pub(super) fn close(&self) {
        self.desired().is_closed = true;
    }

    /// Makes it `Draining` whatever the program wants; what is returned waits until the registry has that.
    pub(super) fn announce_draining(&self) -> Option<BoxFuture<'_, hither_core::Result<()>>> {
        let handle = self.handle.get()?;
        let mut desired = self.desired();
        desired.is_draining = true;
        // Polled once under the lock, it cannot overtake an update of the program.
        let mut update = handle.update(desired.instance()).boxed();
        Some(match (&mut update).now_or_never() {
            Some(outcome) => ready(outcome).boxed(),
            None => update,
        })
    }

    /// Registers again what was withdrawn, in the state that the program wants.
    pub(super) fn enter(&self) {
        let mut desired = self.desired();
        if std::mem::take(&mut desired.is_draining) {
            self.send(&desired);
        }
        if let Some(handle) = self.handle.get() {
            handle.restore();
        }
    }

    fn send(&self, desired: &Desired) {
        if let Some(handle) = self.handle.get() {
            // Polled once it is the desired state, and retried in the background; what the registry refuses is logged.
            let _ = handle.update(desired.instance()).now_or_never();
        }
    }

    fn desired(&self) -> MutexGuard<'_, Desired> {
        // Each change is one assignment.
        self.desired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the server is shutting down, or has ended")
}
