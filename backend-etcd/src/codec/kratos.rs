//! go-kratos: a `ServiceInstance` as JSON, with endpoints that are URLs.

use hither_core::{Address, AddressKind, Error, ErrorKind, Instance, Result, ServiceName};
use serde_json::{Map, Value};

use super::json::escape_like_go;
use super::tags::{entries, text, with_entries};
use super::{Foreign, Undecodable};

/// The value of `instance`, byte for byte as kratos writes it.
///
/// # Errors
/// `InvalidArgument` for a host that is not valid in a URL, where every reader would see another host.
pub(super) fn encode(service: &ServiceName, instance: &Instance, tls: bool) -> Result<String> {
    let scheme = if tls { "grpcs" } else { "grpc" };
    let weight = (instance.weight() != Instance::DEFAULT_WEIGHT).then(|| instance.weight().to_string());
    let endpoint = |address: &Address| match address.kind() {
        // Kratos's own clients look for `grpc` and skip it.
        AddressKind::Unix(_) => Ok(address.to_string()),
        AddressKind::Host { host, .. } if !is_host_of_a_url(host) => {
            let message =
                format!("the layout of kratos has no place for {address}: its host is not valid in a URL");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
        _ => Ok(format!("{scheme}://{address}?isSecure={tls}")),
    };
    let endpoints = instance.addresses().iter().map(endpoint).collect::<Result<Vec<_>>>()?;
    // In the order of kratos's fields.
    Ok(escape_like_go(format!(
        r#"{{"id":{},"name":{},"version":{},"metadata":{},"endpoints":{}}}"#,
        Value::from(instance.id().as_str()),
        Value::from(service.as_str()),
        Value::from(instance.version().unwrap_or_default()),
        entries(instance, &[("weight", weight)]),
        Value::from(endpoints),
    )))
}

/// Whether Go's `url.Parse` reads it unchanged as a host.
fn is_host_of_a_url(host: &str) -> bool {
    host.chars().all(|c| !c.is_ascii() || c.is_ascii_alphanumeric() || r#"-._~!$&'()*+,;=<>""#.contains(c))
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
    // Where the balancers of kratos look for it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_would_read_as_another_in_a_url_is_refused() {
        let service: ServiceName = "svc".parse().unwrap();
        for address in ["/:0", "a/b:1", "a?b:1", "a#b:1", "me@host:1", "a%41:1", "http://127.0.0.1:1"] {
            let instance =
                Instance::new("10.0.0.1:80".parse().unwrap()).with_address(address.parse().unwrap());
            let error = encode(&service, &instance, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(address), "{error}");
        }
        for address in ["greeter.internal:80", "a_b-c:1", "svc.例え.jp:80", "[2001:db8::1]:443"] {
            let instance = Instance::new(address.parse().unwrap());
            let value = serde_json::from_str(&encode(&service, &instance, true).unwrap()).unwrap();
            assert_eq!(decode(&value).unwrap().instance.addresses(), instance.addresses());
        }
    }
}
