//! go-micro: a service with its nodes as JSON. Only read.

use hither_core::Instance;
use serde_json::{Map, Value};

use super::tags::{address, text, with_entries};
use super::{Foreign, Undecodable};

/// Decodes a service of go-micro with its one node.
pub(super) fn decode(value: &Map<String, Value>) -> Result<Foreign, Undecodable> {
    let node = value.get("nodes").and_then(|nodes| nodes.get(0)).and_then(Value::as_object);
    let node = node.ok_or_else(|| Undecodable::new("a service of go-micro has no node"))?;
    let mut instance = Instance::new(address(node.get("address"))?);
    if let Some(version) = text(value, "version") {
        instance = instance.with_version(version);
    }
    // As in the key.
    let service = text(value, "name").map(|name| name.replace('/', "-"));
    Ok(Foreign { service, instance: with_entries(instance, node.get("metadata")) })
}
