//! Go's `naming/endpoints`: written byte for byte as `encoding/json` writes it, and read as leniently.

use std::collections::BTreeMap;

use hither_core::{Address, Instance, InstanceId, InstanceState};
use serde_json::{Map, Value};

use super::Undecodable;
use super::json::escape_like_go;

/// The content of a value, not yet validated.
#[derive(Debug, Default)]
pub(super) struct GoEndpoint {
    pub(super) address: String,
    pub(super) metadata: Value,
    pub(super) extra: Value,
}

impl GoEndpoint {
    pub(super) fn into_instance(self, id: InstanceId) -> Result<Instance, Undecodable> {
        if self.address.is_empty() {
            // Go would give "" to its balancer. Records of go-kratos and go-micro decode like this, too.
            return Err(Undecodable::new("the value has no Addr"));
        }
        let address: Address = self
            .address
            .parse()
            .map_err(|error: hither_core::Error| Undecodable::new(error.message().to_owned()))?;
        let mut instance = Instance::new(address).with_id(id);
        for (key, value) in entries(self.metadata) {
            instance = instance.with_metadata(key, value);
        }
        Ok(with_extra(instance, self.extra))
    }
}

/// Go's `Metadata` as a map: an object becomes its entries, anything else but null the one entry `Metadata`.
fn entries(metadata: Value) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::String(text) => text,
        other => other.to_string(),
    };
    match metadata {
        Value::Null => BTreeMap::new(),
        Value::Object(map) => map.into_iter().map(|(key, value)| (key, text(value))).collect(),
        other => BTreeMap::from([("Metadata".to_owned(), text(other))]),
    }
}

/// Adds the content of the extra member. What a later version may write there is ignored, not refused.
fn with_extra(mut instance: Instance, extra: Value) -> Instance {
    let Value::Object(extra) = extra else { return instance };
    for (name, value) in extra {
        match (name.as_str(), value) {
            ("addresses", Value::Array(addresses)) => {
                for address in addresses.iter().filter_map(|address| address.as_str()?.parse().ok()) {
                    instance = instance.with_address(address);
                }
            }
            ("weight", Value::Number(weight)) => {
                if let Some(weight) = weight.as_u64() {
                    instance = instance.with_weight(u32::try_from(weight).unwrap_or(u32::MAX));
                }
            }
            ("zone", Value::String(zone)) => instance = instance.with_zone(zone),
            ("version", Value::String(version)) => instance = instance.with_version(version),
            ("state", Value::String(state)) if state == "draining" => {
                instance = instance.with_state(InstanceState::Draining);
            }
            ("metadata", metadata @ Value::Object(_)) => {
                for (key, value) in entries(metadata) {
                    instance = instance.with_metadata(key, value);
                }
            }
            _ => {}
        }
    }
    instance
}

/// The value of `instance`: `{"Op":0,"Addr":"…","Metadata":null}`.
///
/// `Metadata` stays `null`: Go clients of 2021 to 2025 panic or hang on anything else there. What Go has no field
/// for goes into one extra member, which Go ignores and which is left out when it is empty.
pub(super) fn encode(instance: &Instance) -> String {
    let address = Value::from(instance.address().to_string());
    let mut value = format!(r#"{{"Op":0,"Addr":{address},"Metadata":null"#);
    let extra = extra(instance);
    if !extra.is_empty() {
        value.push_str(r#","Hither":"#);
        value.push_str(&Value::Object(extra).to_string());
    }
    value.push('}');
    escape_like_go(value)
}

/// The fields of `instance` that have no place elsewhere in the record, in the form of the vocabulary: what is not set is
/// left out. So a field that the vocabulary gains is written, too.
fn extra(instance: &Instance) -> Map<String, Value> {
    let Ok(Value::Object(mut extra)) = serde_json::to_value(instance) else { return Map::new() };
    // The key has the id, and `Addr` the first address.
    extra.remove("id");
    let addresses: Vec<_> = instance.addresses().iter().skip(1).map(ToString::to_string).collect();
    match addresses.is_empty() {
        true => extra.remove("addresses"),
        false => extra.insert("addresses".into(), addresses.into()),
    };
    extra
}

#[cfg(test)]
mod tests {
    use super::super::document::Document;
    use super::*;

    fn record(value: &[u8]) -> Result<GoEndpoint, Undecodable> {
        Document::parse(value)?.into_endpoint()
    }

    fn metadata(json: &str) -> BTreeMap<String, String> {
        let value = format!(r#"{{"Addr":"h:1","Metadata":{json}}}"#);
        let instance = record(value.as_bytes()).unwrap().into_instance("h:1".parse().unwrap()).unwrap();
        instance.metadata().clone()
    }

    fn one(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn gos_metadata_becomes_a_map_of_strings() {
        assert_eq!(metadata("null"), BTreeMap::new());
        assert_eq!(metadata("{}"), BTreeMap::new());
        assert_eq!(metadata(r#""text""#), one("Metadata", "text"));
        assert_eq!(metadata(r#""""#), one("Metadata", ""));
        assert_eq!(metadata("[1, \"a\"]"), one("Metadata", r#"[1,"a"]"#));
        assert_eq!(metadata("42"), one("Metadata", "42"));
        assert_eq!(metadata(r#"{"k": "v"}"#), one("k", "v"));
        assert_eq!(metadata(r#"{"k": {"b": [true, null]}}"#), one("k", r#"{"b":[true,null]}"#));
        assert_eq!(metadata(r#"{"k": null}"#), one("k", "null"));
    }

    #[test]
    fn half_a_surrogate_pair_reads_as_the_replacement_character() {
        assert_eq!(metadata(r#""\ud83d\ude00""#), one("Metadata", "😀"));
        assert_eq!(metadata(r#""\ud800""#), one("Metadata", "\u{fffd}"));
        assert_eq!(metadata(r#""\udc00x\ud800\ud83d\ude00""#), one("Metadata", "\u{fffd}x\u{fffd}😀"));
        assert_eq!(metadata(r#""\\ud800""#), one("Metadata", r"\ud800"), "an escaped backslash is no escape");
    }

    #[test]
    fn bytes_that_are_no_utf8_read_as_the_replacement_character() {
        let mut value = br#"{"Addr":"h:1","Metadata":"a"#.to_vec();
        value.extend(b"\xff\"}");
        let instance = record(&value).unwrap().into_instance("h:1".parse().unwrap()).unwrap();
        assert_eq!(*instance.metadata(), one("Metadata", "a\u{fffd}"));
    }

    #[test]
    fn null_leaves_an_address_and_a_later_one_replaces_it() {
        let address = |json: &str| record(json.as_bytes()).unwrap().address;
        assert_eq!(address(r#"{"Addr":"a:1","addr":null}"#), "a:1");
        assert_eq!(address(r#"{"Addr":"a:1","ADDR":"b:2"}"#), "b:2");
        assert_eq!(address(r#"{"Add\u0072":"a:1"}"#), "a:1");
    }

    #[test]
    fn unknown_content_of_the_extra_member_is_ignored() {
        let value = br#"{"Addr":"h:1","Hither":{"weight":"x","state":"new","zone":"z","more":[1]}}"#;
        let instance = record(value).unwrap().into_instance("h:1".parse().unwrap()).unwrap();
        assert_eq!(instance, Instance::new("h:1".parse().unwrap()).with_zone("z"));
        assert!(record(br#"{"Addr":"h:1","Hither":7}"#).is_ok());
    }

    fn instance(address: &str) -> Instance {
        Instance::new(address.parse().unwrap())
    }

    #[test]
    fn a_plain_instance_is_written_as_go_writes_it() {
        for (address, json) in [
            ("127.0.0.1:8080", r#"{"Op":0,"Addr":"127.0.0.1:8080","Metadata":null}"#),
            ("[2001:db8::1]:443", r#"{"Op":0,"Addr":"[2001:db8::1]:443","Metadata":null}"#),
            ("svc.例え.jp:80", r#"{"Op":0,"Addr":"svc.例え.jp:80","Metadata":null}"#),
            // The vector of Go's escaping in `Addr`, as far as it is an address.
            ("h&<2>:1", r#"{"Op":0,"Addr":"h\u0026\u003c2\u003e:1","Metadata":null}"#),
        ] {
            assert_eq!(encode(&instance(address)), json);
        }
    }

    #[test]
    fn fields_unknown_to_go_are_written_into_one_extra_member() {
        let instance = instance("10.0.0.1:80")
            .with_address("[::1]:80".parse().unwrap())
            .with_weight(3)
            .with_zone("eu-1a")
            .with_version("1.2")
            .with_state(InstanceState::Draining)
            .with_metadata("a<", "\u{2028}&");
        assert_eq!(
            encode(&instance),
            concat!(
                r#"{"Op":0,"Addr":"10.0.0.1:80","Metadata":null,"Hither":{"addresses":["[::1]:80"],"#,
                r#""metadata":{"a\u003c":"\u2028\u0026"},"state":"draining","version":"1.2","weight":3,"zone":"eu-1a"}}"#
            )
        );
    }

    #[test]
    fn control_characters_are_written_as_go_1_22_writes_them() {
        let written = encode(
            &instance("h:1").with_metadata("k", "\0\u{1}\u{7}\u{8}\t\n\u{b}\u{c}\r\u{1b}\u{1f}\u{7f}\\/\""),
        );
        assert!(
            written.contains("\"\\u0000\\u0001\\u0007\\b\\t\\n\\u000b\\f\\r\\u001b\\u001f\u{7f}\\\\/\\\"\""),
            "{written}"
        );
    }
}
