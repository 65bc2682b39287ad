//! One server of a service.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Address, Error, ErrorKind, InstanceId, Result};

/// Whether an instance takes new calls.
///
/// There is no state for an instance that is not ready or not healthy: a snapshot leaves it out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum InstanceState {
    /// Takes new calls.
    #[default]
    Up,
    /// Finishes the calls in flight and should get no new ones: it is about to leave.
    Draining,
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Up => "up",
            Self::Draining => "draining",
        })
    }
}

impl FromStr for InstanceState {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` when the text is not `up` or `draining`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "up" => Ok(Self::Up),
            "draining" => Ok(Self::Draining),
            _ => {
                let why = format!("instance state {text:?} is not known (expected up or draining)");
                Err(Error::new(ErrorKind::InvalidArgument, why))
            }
        }
    }
}

/// One server of a service: its addresses and attributes.
///
/// ```
/// use hither_core::{Address, Instance};
///
/// let instance = Instance::new("10.0.0.7:8001".parse()?).with_zone("eu-1a").with_metadata("shard", "3");
/// assert_eq!(instance.id().as_str(), "10.0.0.7:8001");
/// assert_eq!(instance.metadata()["shard"], "3");
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(into = "serde_form::Form", try_from = "serde_form::Form")
)]
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
    /// The weight of an instance for which none is set.
    pub const DEFAULT_WEIGHT: u32 = 1;

    /// Returns an instance at `address` whose id is the text of the address.
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

    /// Adds another address of the same server, such as its IPv6 address.
    #[must_use]
    pub fn with_address(mut self, address: Address) -> Self {
        self.addresses.push(address);
        self
    }

    /// Sets the weight, relative to the other instances: weight 2 gets twice the calls of weight 1, and 0 gets none
    /// while others are ready.
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

    /// Sets one entry of the metadata; an earlier one with the same key is replaced.
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

    /// The weight; 1 unless set.
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// The zone, if set.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The version, if set.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Whether it takes new calls.
    pub fn state(&self) -> InstanceState {
        self.state
    }

    /// The metadata, sorted by key.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }
}

/// The form of an instance in JSON and the like: what is not set is left out.
#[cfg(feature = "serde")]
mod serde_form {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::{Instance, InstanceState};
    use crate::{Address, Error, ErrorKind, InstanceId, Result};

    #[derive(serde::Serialize, serde::Deserialize)]
    pub(super) struct Form {
        /// The text of the first address, unless set.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<InstanceId>,
        addresses: Vec<Address>,
        #[serde(default = "default_weight", skip_serializing_if = "is_default_weight")]
        weight: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zone: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        #[serde(default, skip_serializing_if = "is_default_state")]
        state: InstanceState,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metadata: BTreeMap<String, String>,
    }

    fn default_weight() -> u32 {
        Instance::DEFAULT_WEIGHT
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default_weight(weight: &u32) -> bool {
        *weight == Instance::DEFAULT_WEIGHT
    }

    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_default_state(state: &InstanceState) -> bool {
        *state == InstanceState::default()
    }

    impl From<Instance> for Form {
        fn from(instance: Instance) -> Self {
            // Destructured, so that a new field cannot be forgotten here.
            let Instance { id, addresses, weight, zone, version, state, metadata } = instance;
            let is_default = addresses.first().is_some_and(|address| InstanceId::from(address) == id);
            let text = |text: Option<Arc<str>>| text.map(|text| text.to_string());
            let id = if is_default { None } else { Some(id) };
            Self { id, addresses, weight, zone: text(zone), version: text(version), state, metadata }
        }
    }

    impl TryFrom<Form> for Instance {
        type Error = Error;

        fn try_from(form: Form) -> Result<Self> {
            let Form { id, addresses, weight, zone, version, state, metadata } = form;
            let first = addresses.first().ok_or_else(|| {
                Error::new(ErrorKind::InvalidArgument, "an instance needs at least one address")
            })?;
            let id = id.unwrap_or_else(|| InstanceId::from(first));
            let (zone, version) = (zone.map(Into::into), version.map(Into::into));
            Ok(Self { id, addresses, weight, zone, version, state, metadata })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_written_and_parsed_as_text() {
        for state in [InstanceState::Up, InstanceState::Draining] {
            assert_eq!(state.to_string().parse::<InstanceState>().unwrap(), state);
        }
        assert!("Up".parse::<InstanceState>().is_err());
    }

    #[cfg(feature = "serde")]
    mod serde {
        use super::*;

        fn full() -> Instance {
            Instance::new("10.0.0.1:80".parse().unwrap())
                .with_id("one".parse().unwrap())
                .with_address("[::1]:80".parse().unwrap())
                .with_weight(3)
                .with_zone("eu-1a")
                .with_version("1.2")
                .with_state(InstanceState::Draining)
                .with_metadata("a", "\"\u{0}é")
        }

        #[test]
        fn an_instance_survives_json() {
            for instance in [full(), Instance::new("unix:///run/a.sock".parse().unwrap())] {
                let json = serde_json::to_string(&instance).unwrap();
                assert_eq!(serde_json::from_str::<Instance>(&json).unwrap(), instance, "{json}");
            }
        }

        #[test]
        fn what_is_not_set_is_left_out() {
            let plain = Instance::new("10.0.0.1:80".parse().unwrap());
            assert_eq!(serde_json::to_string(&plain).unwrap(), r#"{"addresses":["10.0.0.1:80"]}"#);
        }

        #[test]
        fn an_invalid_instance_is_refused() {
            for json in [
                "{}",
                r#"{"addresses":[]}"#,
                r#"{"addresses":["nowhere"]}"#,
                r#"{"addresses":["a:1"],"id":""}"#,
                r#"{"addresses":["a:1"],"state":"asleep"}"#,
                r#"{"addresses":["a:1"],"weight":-1}"#,
            ] {
                assert!(serde_json::from_str::<Instance>(json).is_err(), "{json}");
            }
        }
    }
}
