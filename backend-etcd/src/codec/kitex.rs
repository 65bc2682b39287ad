//! kitex: network, address, weight and tags as JSON.

use hither_core::{AddressKind, Instance};
use serde_json::{Map, Value};

use super::json::escape_like_go;
use super::tags::{address, entries, with_entries};
use super::{Foreign, Undecodable};

/// The weight of a kitex server that sets none.
const DEFAULT_WEIGHT: u32 = 10;

/// The value of `instance`, byte for byte as kitex writes it.
pub(super) fn encode(instance: &Instance) -> String {
    let (network, address) = match instance.address().kind() {
        AddressKind::Unix(path) => ("unix", path.display().to_string()),
        _ => ("tcp", instance.address().to_string()),
    };
    let weight = match instance.weight() {
        Instance::DEFAULT_WEIGHT => DEFAULT_WEIGHT,
        weight => weight,
    };
    let version = instance.version().map(str::to_owned);
    // In the order of kitex's fields.
    escape_like_go(format!(
        r#"{{"network":"{network}","address":{},"weight":{weight},"tags":{}}}"#,
        Value::from(address),
        entries(instance, &[("version", version)]),
    ))
}

pub(super) fn decode(value: &Map<String, Value>) -> Result<Foreign, Undecodable> {
    let address = match value.get("network").and_then(Value::as_str) {
        Some("unix") => {
            let path = value.get("address").and_then(Value::as_str).unwrap_or_default();
            address(Some(&Value::from(format!("unix://{path}"))))?
        }
        _ => address(value.get("address"))?,
    };
    let weight = value.get("weight").and_then(Value::as_i64).and_then(|weight| u32::try_from(weight).ok());
    let weight = weight.filter(|weight| *weight > 0).unwrap_or(DEFAULT_WEIGHT);
    let mut instance = Instance::new(address).with_weight(weight);
    let mut tags = value.get("tags").cloned();
    let version = tags.as_mut().and_then(Value::as_object_mut).and_then(|tags| tags.remove("version"));
    if let Some(version) = version.as_ref().and_then(Value::as_str) {
        instance = instance.with_version(version);
    }
    Ok(Foreign { service: None, instance: with_entries(instance, tags.as_ref()) })
}
