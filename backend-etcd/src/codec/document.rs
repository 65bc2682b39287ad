//! A value as JSON, parsed once: as Go reads it, and with the members of the other frameworks.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::Undecodable;
use super::json::mend_surrogates;
use super::naming::GoEndpoint;

/// The members by which the records of other frameworks are recognised and read.
const FOREIGN: [&str; 10] =
    ["address", "endpoints", "id", "metadata", "name", "network", "nodes", "tags", "version", "weight"];

/// A JSON object that may be a record.
#[derive(Debug, Default)]
pub(super) struct Document {
    /// What Go's decoder makes of it.
    pub(super) endpoint: GoEndpoint,
    /// Why Go's decoder fails on it: a member of the wrong type.
    wrong: Option<&'static str>,
    /// The members in [`FOREIGN`].
    pub(super) members: Map<String, Value>,
}

impl Document {
    pub(super) fn parse(value: &[u8]) -> Result<Self, Undecodable> {
        // As Go: bytes that are not UTF-8, and halves of surrogate pairs, read as U+FFFD.
        let text = String::from_utf8_lossy(value);
        let document: Option<Self> = serde_json::from_str(&mend_surrogates(&text))
            .map_err(|error| Undecodable::new(format!("the value is not of this format: {error}")))?;
        Ok(document.unwrap_or_default())
    }

    pub(super) fn into_endpoint(self) -> Result<GoEndpoint, Undecodable> {
        match self.wrong {
            None => Ok(self.endpoint),
            Some(wrong) => Err(Undecodable::new(wrong)),
        }
    }

    /// Whether it is an endpoint for Go, with an address.
    pub(super) fn is_endpoint(&self) -> bool {
        self.wrong.is_none() && !self.endpoint.address.is_empty()
    }
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor)
    }
}

/// Go matches names of members in any case, lets the last of several win, and takes null for "leave it".
struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with Op, Addr and Metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut document = Document::default();
        while let Some(name) = map.next_key::<String>()? {
            if name.eq_ignore_ascii_case("Op") {
                // Only its type counts: even 1, "delete" in a protocol of the past, is an instance for Go.
                let op: Value = map.next_value()?;
                if !op.is_null() && op.as_u64().is_none_or(|op| op > u64::from(u8::MAX)) {
                    document.wrong = Some("the Op of the value is not a number of one byte");
                }
            } else if name.eq_ignore_ascii_case("Addr") {
                match map.next_value()? {
                    Value::Null => {}
                    Value::String(address) => document.endpoint.address = address,
                    _ => document.wrong = Some("the Addr of the value is not a text"),
                }
            } else if name.eq_ignore_ascii_case("Metadata") {
                let metadata: Value = map.next_value()?;
                if name == "metadata" {
                    document.members.insert(name, metadata.clone());
                }
                document.endpoint.metadata = metadata;
            } else if name == "Hither" {
                document.endpoint.extra = map.next_value()?;
            } else if FOREIGN.contains(&&*name) {
                document.members.insert(name, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(document)
    }
}
