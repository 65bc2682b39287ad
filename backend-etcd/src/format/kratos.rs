//! go-kratos: a `ServiceInstance` as JSON, with endpoints that are URLs.

use hither_core::{Address, Instance, ServiceName};
use serde_json::{Map, Value};

use super::Undecodable;
use super::encode::escape_like_go;
use super::foreign::{Foreign, entries, text, with_entries};

/// The value of `instance`, byte for byte as kratos writes it.
pub(super) fn encode(service: &ServiceName, instance: &Instance) -> String {
    let weight = (instance.weight() != Instance::DEFAULT_WEIGHT).then(|| instance.weight().to_string());
    let endpoint = |address: &Address| match address {
        // Kratos's own clients look for `grpc` and pass it over.
        Address::Unix(_) => address.to_string(),
        address => format!("grpc://{address}?isSecure=false"),
    };
    let endpoints: Vec<_> = instance.addresses().iter().map(endpoint).collect();
    // In the order of kratos's fields.
    escape_like_go(format!(
        r#"{{"id":{},"name":{},"version":{},"metadata":{},"endpoints":{}}}"#,
        Value::from(instance.id().as_str()),
        Value::from(service.as_str()),
        Value::from(instance.version().unwrap_or_default()),
        entries(instance, &[("weight", weight)]),
        Value::from(endpoints),
    ))
}

pub(super) fn decode(value: &Map<String, Value>) -> Result<Foreign, Undecodable> {
    let endpoints = value.get("endpoints").and_then(Value::as_array).into_iter().flatten();
    let grpc = endpoints.filter_map(Value::as_str).filter_map(|endpoint| {
        if endpoint.starts_with("unix:") {
            return endpoint.parse::<Address>().ok();
        }
        let rest = endpoint.strip_prefix("grpc://").or_else(|| endpoint.strip_prefix("grpcs://"))?;
        let host = rest.split(['?', '/', '#']).next()?;
        host.parse::<Address>().ok()
    });
    let mut grpc = grpc.peekable();
    let Some(first) = grpc.next() else {
        return Err(Undecodable::new("an instance of kratos has no gRPC endpoint"));
    };
    let mut instance = grpc.fold(Instance::new(first), Instance::with_address);
    if let Some(version) = text(value, "version") {
        instance = instance.with_version(version);
    }
    let mut metadata = value.get("metadata").cloned();
    // Where its own balancers look for it.
    let weight = metadata.as_mut().and_then(Value::as_object_mut).and_then(|entries| {
        let weight = entries.get("weight")?.as_str()?.parse().ok()?;
        entries.remove("weight");
        Some(weight)
    });
    if let Some(weight) = weight {
        instance = instance.with_weight(weight);
    }
    let service = text(value, "name").map(str::to_owned);
    Ok(Foreign { service, instance: with_entries(instance, metadata.as_ref()) })
}
