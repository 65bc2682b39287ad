//! A registry in memory, and the registrations of servers in it.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::time::Duration;

use hither_core::{Claim, Discovery, Instance, InstanceState, Lease, Registrar, Registration, ServiceName};
use hither_memory::MemoryRegistry;

/// The service that all tests call.
pub(crate) const SERVICE: &str = "greeter";

#[derive(Debug)]
pub(crate) struct Registry {
    memory: MemoryRegistry,
    discovery: Discovery,
    leases: BTreeMap<String, Box<dyn Lease>>,
}

impl Registry {
    pub(crate) fn new() -> Self {
        let memory = MemoryRegistry::new();
        Self { discovery: Discovery::new(memory.clone()), memory, leases: BTreeMap::new() }
    }

    pub(crate) fn service() -> ServiceName {
        SERVICE.parse().unwrap()
    }

    /// Registers or updates an instance whose id is its address.
    pub(crate) async fn up(&mut self, address: &str) {
        self.put(Instance::new(address.parse().unwrap())).await;
    }

    pub(crate) async fn draining(&mut self, address: &str) {
        self.put(Instance::new(address.parse().unwrap()).with_state(InstanceState::Draining)).await;
    }

    pub(crate) async fn put(&mut self, instance: Instance) {
        let id = instance.id().to_string();
        let registration = Registration::new(Self::service(), instance)
            .unwrap()
            .with_ttl(Duration::from_secs(24 * 3600))
            .unwrap();
        if let Some(lease) = self.leases.get_mut(&id) {
            return lease.update(&registration).await.unwrap();
        }
        let lease = self.memory.register(&registration, Claim::TakeOver).await.unwrap();
        self.leases.insert(id, lease);
    }

    /// Removes a record.
    pub(crate) async fn leave(&mut self, id: &str) {
        self.leases.remove(id).unwrap().revoke().await.unwrap();
    }

    /// The one discovery of all channels of a test.
    pub(crate) fn discovery(&self) -> Discovery {
        self.discovery.clone()
    }
}

impl Deref for Registry {
    type Target = MemoryRegistry;

    fn deref(&self) -> &MemoryRegistry {
        &self.memory
    }
}
