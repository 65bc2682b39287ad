//! Reading a value, as leniently as Go's `encoding/json` does.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use hither_core::{Address, Instance, InstanceId, InstanceState};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::Undecodable;

/// What stands in a value, not yet checked for being an instance.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) address: String,
    metadata: Value,
    extra: Value,
}

/// Decodes a value.
pub(crate) fn record(value: &[u8]) -> Result<Record, Undecodable> {
    // As Go: bytes that are no UTF-8, and halves of surrogate pairs, read as U+FFFD.
    let text = String::from_utf8_lossy(value);
    let text = mend_surrogates(&text);
    let record: Option<Record> = serde_json::from_str(&text)
        .map_err(|error| Undecodable::new(format!("the value is not of this format: {error}")))?;
    Ok(record.unwrap_or_default())
}

impl Record {
    pub(crate) fn into_instance(self, id: InstanceId) -> Result<Instance, Undecodable> {
        if self.address.is_empty() {
            // Go would hand "" to its balancer. It is also how records of go-kratos and go-micro read.
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

/// Go's `Metadata` as our map: an object gives its entries, anything else but null one entry `Metadata`.
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

/// Adds what our own extra member says. What a later version may write there is ignored, not refused.
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

impl<'de> Deserialize<'de> for Record {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RecordVisitor)
    }
}

/// Go matches field names whatever their case, lets the last of several win, and takes null for "leave it".
struct RecordVisitor;

impl<'de> Visitor<'de> for RecordVisitor {
    type Value = Record;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with Op, Addr and Metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Record, A::Error> {
        let mut record = Record::default();
        while let Some(name) = map.next_key::<String>()? {
            if name.eq_ignore_ascii_case("Op") {
                // Only its type counts: even 1, "delete" in a protocol long gone, is an instance for Go.
                map.next_value::<Option<u8>>()?;
            } else if name.eq_ignore_ascii_case("Addr") {
                record.address = map.next_value::<Option<String>>()?.unwrap_or(record.address);
            } else if name.eq_ignore_ascii_case("Metadata") {
                record.metadata = map.next_value()?;
            } else if name == "Hither" {
                record.extra = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(record)
    }
}

/// Replaces the escape of half a surrogate pair, which serde_json refuses, by that of U+FFFD.
fn mend_surrogates(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    let mut mended = String::new();
    let (mut kept, mut at) = (0, 0);
    while let Some(offset) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == b'\\')) {
        at += offset;
        match surrogate(bytes, at) {
            Some(0xd800..=0xdbff) if matches!(surrogate(bytes, at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => {
                mended.push_str(&json[kept..at]);
                mended.push_str("\\ufffd");
                at += 6;
                kept = at;
            }
            _ => at += 2,
        }
    }
    if kept == 0 {
        return Cow::Borrowed(json);
    }
    mended.push_str(&json[kept..]);
    Cow::Owned(mended)
}

/// The code unit of the `\uXXXX` that begins at `at`, if one does.
fn surrogate(json: &[u8], at: usize) -> Option<u32> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit * 16 + char::from(digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_a_later_version_says_in_our_member_is_ignored() {
        let value = br#"{"Addr":"h:1","Hither":{"weight":"x","state":"new","zone":"z","more":[1]}}"#;
        let instance = record(value).unwrap().into_instance("h:1".parse().unwrap()).unwrap();
        assert_eq!(instance, Instance::new("h:1".parse().unwrap()).with_zone("z"));
        assert!(record(br#"{"Addr":"h:1","Hither":7}"#).is_ok());
    }
}
