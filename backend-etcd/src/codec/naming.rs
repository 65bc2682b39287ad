//! Go's `naming/endpoints`: written byte for byte as `encoding/json` writes it, and read as leniently.

use std::collections::BTreeMap;

use hither_core::{Address, Error, ErrorKind, Instance, InstanceId, Result};
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
    pub(super) fn into_instance(self, id: InstanceId) -> std::result::Result<Instance, Undecodable> {
        if self.address.is_empty() {
            // Go would give "" to its balancer. Records of go-kratos and go-micro decode like this, too.
            return Err(Undecodable::new("the value has no Addr"));
        }
        let address: Address =
            self.address.parse().map_err(|error: Error| Undecodable::new(error.message().to_owned()))?;
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

/// Adds the content of the extra member, in the form of the vocabulary: so a field that the vocabulary gains is read, too.
/// Where another version wrote something that this one cannot read, that part is ignored and the rest is not.
fn with_extra(instance: Instance, extra: Value) -> Instance {
    let Value::Object(mut extra) = extra else { return instance };
    // The key has the id.
    extra.remove("id");
    if let Some(metadata @ Value::Object(_)) = extra.get_mut("metadata") {
        let texts = entries(metadata.take()).into_iter().map(|(key, text)| (key, text.into()));
        *metadata = Value::Object(texts.collect());
    }
    if let Some(weight) = extra.get_mut("weight")
        && weight.as_u64().is_some_and(|weight| weight > u64::from(u32::MAX))
    {
        *weight = u32::MAX.into();
    }
    if let Ok(instance) = with_members(&instance, extra.clone()) {
        return instance;
    }
    // Each part is tried on a bare instance: the cost stays linear, whatever is in the record.
    let bare = Instance::new(instance.address().clone());
    let valid = extra.into_iter().flat_map(parts).filter(|part| with_members(&bare, [part.clone()]).is_ok());
    with_members(&instance, valid).unwrap_or(instance)
}

/// Returns `instance` with `members` of the vocabulary. A list or a map is added to the one that is there.
fn with_members(
    instance: &Instance,
    members: impl IntoIterator<Item = (String, Value)>,
) -> serde_json::Result<Instance> {
    let mut form: Map<String, Value> = serde_json::from_value(serde_json::to_value(instance)?)?;
    for (name, value) in members {
        match (form.get_mut(&name), value) {
            (Some(Value::Array(known)), Value::Array(more)) => known.extend(more),
            (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
            (_, value) => drop(form.insert(name, value)),
        }
    }
    serde_json::from_value(Value::Object(form))
}

/// The parts of a member of which each may be valid without the others.
fn parts((name, value): (String, Value)) -> Vec<(String, Value)> {
    match value {
        Value::Array(items) => {
            items.into_iter().map(|item| (name.clone(), Value::from(vec![item]))).collect()
        }
        value => vec![(name, value)],
    }
}

/// The value of `instance`: `{"Op":0,"Addr":"…","Metadata":null}`.
///
/// `Metadata` stays `null`: Go clients of 2021 to 2025 panic or hang on anything else there. What Go has no field
/// for goes into one extra member, which Go ignores and which is left out when it is empty.
///
/// # Errors
/// `Unexpected` where the vocabulary cannot be written as JSON. To leave out what cannot be written would register an
/// instance without its weight, zone, metadata and state.
pub(super) fn encode(instance: &Instance) -> Result<String> {
    let address = Value::from(instance.address().to_string());
    let mut value = format!(r#"{{"Op":0,"Addr":{address},"Metadata":null"#);
    let extra = extra(instance)?;
    if !extra.is_empty() {
        value.push_str(r#","Hither":"#);
        value.push_str(&Value::Object(extra).to_string());
    }
    value.push('}');
    Ok(escape_like_go(value))
}

/// The fields of `instance` that have no place elsewhere in the record, in the form of the vocabulary: what is not set is
/// left out. So a field that the vocabulary gains is written, too.
fn extra(instance: &Instance) -> Result<Map<String, Value>> {
    let unwritable = |error| {
        Error::new(ErrorKind::Unexpected, "the instance cannot be written as JSON").with_source(error)
    };
    let form = serde_json::to_value(instance).map_err(unwritable)?;
    let mut extra: Map<String, Value> = serde_json::from_value(form).map_err(unwritable)?;
    // The key has the id, and `Addr` the first address.
    extra.remove("id");
    let addresses: Vec<_> = instance.addresses().iter().skip(1).map(ToString::to_string).collect();
    match addresses.is_empty() {
        true => extra.remove("addresses"),
        false => extra.insert("addresses".into(), addresses.into()),
    };
    Ok(extra)
}

#[cfg(test)]
mod tests {
    use hither_core::InstanceState;

    use super::super::document::Document;
    use super::*;

    fn record(value: &[u8]) -> std::result::Result<GoEndpoint, Undecodable> {
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
    fn a_record_with_many_addresses_and_an_invalid_one_is_read_in_linear_time() {
        let addresses = "\"a:1\",".repeat(100_000);
        let value = format!(r#"{{"Addr":"h:1","Hither":{{"addresses":[{addresses}7],"weight":"x"}}}}"#);
        let instance = record(value.as_bytes()).unwrap().into_instance("h:1".parse().unwrap()).unwrap();
        assert_eq!(instance.addresses().len(), 100_001);
    }

    #[test]
    fn unknown_content_of_the_extra_member_is_ignored() {
        let read = |extra: &str| {
            let value = format!(r#"{{"Addr":"h:1","Metadata":{{"k":"go"}},"Hither":{extra}}}"#);
            record(value.as_bytes()).unwrap().into_instance("h:1".parse().unwrap()).unwrap()
        };
        let plain = || instance("h:1").with_metadata("k", "go");
        for (extra, expected) in [
            (r#"{"id":"other","more":{"a":[1]}}"#, plain()),
            (r#"{"addresses":"a:1","metadata":[1],"zone":1,"version":{},"weight":-1}"#, plain()),
            (r#"{"addresses":["a:1",7,"nowhere","b:2"],"weight":3}"#, {
                plain()
                    .with_address("a:1".parse().unwrap())
                    .with_address("b:2".parse().unwrap())
                    .with_weight(3)
            }),
            (r#"{"metadata":{"k":"ours","n":1},"zone":"z"}"#, {
                plain().with_metadata("k", "ours").with_metadata("n", "1").with_zone("z")
            }),
            (r#"{"state":"new","weight":4294967296}"#, plain().with_weight(u32::MAX)),
            (r#"{"state":"draining","version":null}"#, plain().with_state(InstanceState::Draining)),
        ] {
            assert_eq!(read(extra), expected, "{extra}");
        }
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
            assert_eq!(encode(&instance(address)).unwrap(), json);
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
            encode(&instance).unwrap(),
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
        )
        .unwrap();
        assert!(
            written.contains("\"\\u0000\\u0001\\u0007\\b\\t\\n\\u000b\\f\\r\\u001b\\u001f\u{7f}\\\\/\\\"\""),
            "{written}"
        );
    }
}
