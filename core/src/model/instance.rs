//! What a server says about itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{Address, InstanceId};

/// Whether an instance takes new calls.
///
/// What is not ready or not healthy has no state: it is left out of a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum InstanceState {
    /// Takes calls.
    #[default]
    Up,
    /// Is about to leave: it still serves, and should get no new calls.
    Draining,
}

/// One server of a service: where it is, and what it says about itself.
///
/// ```
/// use hither_core::{Address, Instance};
///
/// let instance = Instance::new("10.0.0.7:8001".parse()?).with_zone("eu-1a").with_metadata("shard", "3");
/// assert_eq!(instance.id().as_str(), "10.0.0.7:8001");
/// assert_eq!(instance.metadata()["shard"], "3");
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    id: InstanceId,
    addresses: Vec<Address>,
    weight: u32,
    zone: Option<Arc<str>>,
    version: Option<Arc<str>>,
    state: InstanceState,
    metadata: BTreeMap<String, String>,
}

impl Instance {
    /// The weight of an instance that does not state one.
    pub const DEFAULT_WEIGHT: u32 = 1;

    /// An instance at `address` whose id is the address text.
    pub fn new(address: Address) -> Self {
        Self {
            id: InstanceId::from(&address),
            addresses: vec![address],
            weight: Self::DEFAULT_WEIGHT,
            zone: None,
            version: None,
            state: InstanceState::Up,
            metadata: BTreeMap::new(),
        }
    }

    /// Sets the id.
    #[must_use]
    pub fn with_id(mut self, id: InstanceId) -> Self {
        self.id = id;
        self
    }

    /// Adds a further address of the same server, such as its IPv6 one.
    #[must_use]
    pub fn with_address(mut self, address: Address) -> Self {
        self.addresses.push(address);
        self
    }

    /// Sets the weight: an instance of weight 2 asks for twice the calls of one of weight 1, 0 asks for none.
    /// Only weighted policies look at it.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Sets the zone, such as `eu-1a`.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<Arc<str>>) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Sets the version of the software.
    #[must_use]
    pub fn with_version(mut self, version: impl Into<Arc<str>>) -> Self {
        self.version = Some(version.into());
        self
    }

    /// Sets the state.
    #[must_use]
    pub fn with_state(mut self, state: InstanceState) -> Self {
        self.state = state;
        self
    }

    /// Adds one entry of metadata, replacing an earlier one under the same key.
    #[must_use]
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// The id, unique within the service.
    pub fn id(&self) -> &InstanceId {
        &self.id
    }

    /// The first address.
    pub fn address(&self) -> &Address {
        // There is always one: `new` puts it there and nothing removes any.
        &self.addresses[0]
    }

    /// All addresses of this one server, at least one.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The weight; 1 unless stated.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The zone, if stated.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The version, if stated.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether it takes new calls.
    pub fn state(&self) -> InstanceState {
        self.state
    }

    /// Everything else, sorted by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}
