//! Writing a value, byte for byte as Go's `encoding/json` does.

use hither_core::{Instance, InstanceState};
use serde_json::{Map, Value, json};

/// The value of `instance`: `{"Op":0,"Addr":"…","Metadata":null}`.
///
/// `Metadata` stays `null`: Go clients of 2021 to 2025 panic or hang on anything else there. What Go has no field
/// for goes into one extra member, which Go ignores and which is left out when there is nothing to say.
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

fn extra(instance: &Instance) -> Map<String, Value> {
    let mut extra = Map::new();
    if let [_, more @ ..] = instance.addresses()
        && !more.is_empty()
    {
        extra.insert("addresses".into(), more.iter().map(ToString::to_string).collect());
    }
    if instance.weight() != Instance::DEFAULT_WEIGHT {
        extra.insert("weight".into(), instance.weight().into());
    }
    if let Some(zone) = instance.zone() {
        extra.insert("zone".into(), zone.into());
    }
    if let Some(version) = instance.version() {
        extra.insert("version".into(), version.into());
    }
    if instance.state() == InstanceState::Draining {
        extra.insert("state".into(), "draining".into());
    }
    if !instance.metadata().is_empty() {
        extra.insert("metadata".into(), json!(instance.metadata()));
    }
    extra
}

/// Go escapes these so that JSON can stand inside HTML and JavaScript; in compact JSON they occur only inside
/// strings, so a plain replacement is exact.
pub(super) fn escape_like_go(json: String) -> String {
    if !json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_go_has_no_field_for_stands_in_one_extra_member() {
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
