//! Entries of metadata (tags) in which the frameworks keep what their format has no field for.

use std::collections::BTreeMap;

use hither_core::{Address, Instance, InstanceState};
use serde_json::{Map, Value};

use super::Undecodable;

pub(super) fn address(value: Option<&Value>) -> Result<Address, Undecodable> {
    let text = value.and_then(Value::as_str).ok_or_else(|| Undecodable::new("the value has no address"))?;
    text.parse().map_err(|error: hither_core::Error| Undecodable::new(error.message().to_owned()))
}

/// A text member that is not empty.
pub(super) fn text<'a>(value: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    value.get(name)?.as_str().filter(|text| !text.is_empty())
}

/// Adds entries of metadata to `instance`: fields of ours that have no other place in the format, and the rest as metadata.
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

/// The inverse of [`with_entries`]; null where there are no entries, as Go writes a nil map.
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
