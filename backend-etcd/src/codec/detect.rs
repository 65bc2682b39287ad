//! Records of other frameworks, and telling whose a value is.

use std::collections::BTreeMap;

use hither_core::{Address, Instance, InstanceState};
use serde_json::{Map, Value};

use super::{Undecodable, kitex, kratos};

/// A record of another framework.
#[derive(Debug)]
pub(super) struct Foreign {
    /// The service that it says to be of, if it says so.
    pub(super) service: Option<String>,
    /// With the address for its id.
    pub(super) instance: Instance,
}

/// Reads what is no record of `naming/endpoints`; `None` where it is nobody's whom we know.
///
/// Go's lenient decoder would take most of these for an endpoint without an address.
pub(super) fn record(value: &[u8]) -> Option<Result<Foreign, Undecodable>> {
    let value: Map<String, Value> = serde_json::from_slice(value).ok()?;
    if value.contains_key("nodes") {
        Some(go_micro(&value))
    } else if value.contains_key("endpoints") && value.contains_key("id") {
        Some(kratos::decode(&value))
    } else if value.contains_key("address") && value.contains_key("network") {
        Some(kitex::decode(&value))
    } else {
        None
    }
}

/// `host:port`, as go-zero writes it.
pub(super) fn bare_address(value: &[u8]) -> Option<Foreign> {
    let address: Address = std::str::from_utf8(value).ok()?.parse().ok()?;
    let is_of_tcp = matches!(address, Address::Socket(_) | Address::Host { .. });
    is_of_tcp.then(|| Foreign { service: None, instance: Instance::new(address) })
}

/// A service of go-micro's with its one node.
fn go_micro(value: &Map<String, Value>) -> Result<Foreign, Undecodable> {
    let node = value.get("nodes").and_then(|nodes| nodes.get(0)).and_then(Value::as_object);
    let node = node.ok_or_else(|| Undecodable::new("a service of go-micro has no node"))?;
    let mut instance = Instance::new(address(node.get("address"))?);
    if let Some(version) = text(value, "version") {
        instance = instance.with_version(version);
    }
    // As it stands in the key.
    let service = text(value, "name").map(|name| name.replace('/', "-"));
    Ok(Foreign { service, instance: with_entries(instance, node.get("metadata")) })
}

pub(super) fn address(value: Option<&Value>) -> Result<Address, Undecodable> {
    let text = value.and_then(Value::as_str).ok_or_else(|| Undecodable::new("the value has no address"))?;
    text.parse().map_err(|error: hither_core::Error| Undecodable::new(error.message().to_owned()))
}

/// A text that is there and not empty.
pub(super) fn text<'a>(value: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// What is said in entries of metadata: ours, and what the format has no other place for.
pub(super) fn with_entries(mut instance: Instance, entries: Option<&Value>) -> Instance {
    for (key, value) in entries.and_then(Value::as_object).into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        instance = match (key.as_str(), value.as_str()) {
            ("zone", zone) => instance.with_zone(zone),
            ("state", "draining") => instance.with_state(InstanceState::Draining),
            _ => instance.with_metadata(key, value),
        };
    }
    instance
}

/// The entries of metadata that say the same; null where there are none, as a map of Go's that was never made.
pub(super) fn entries(instance: &Instance, more: &[(&str, Option<String>)]) -> Value {
    let mut entries: BTreeMap<&str, String> = BTreeMap::new();
    for (key, value) in instance.metadata() {
        entries.insert(key, value.clone());
    }
    entries.extend(more.iter().filter_map(|(key, value)| Some((*key, value.clone()?))));
    if let Some(zone) = instance.zone() {
        entries.insert("zone", zone.to_owned());
    }
    if instance.state() == InstanceState::Draining {
        entries.insert("state", "draining".to_owned());
    }
    match entries.is_empty() {
        true => Value::Null,
        false => entries.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect(),
    }
}
