//! Records of other frameworks, and telling whose a value is.

use serde_json::{Map, Value};

use super::{Foreign, Undecodable, go_micro, kitex, kratos};

/// Reads what is no record of `naming/endpoints`; `None` where it is nobody's whom we know.
///
/// Go's lenient decoder would take most of these for an endpoint without an address.
pub(super) fn record(value: &[u8]) -> Option<Result<Foreign, Undecodable>> {
    let value: Map<String, Value> = serde_json::from_slice(value).ok()?;
    if value.contains_key("nodes") {
        Some(go_micro::decode(&value))
    } else if value.contains_key("endpoints") && value.contains_key("id") {
        Some(kratos::decode(&value))
    } else if value.contains_key("address") && value.contains_key("network") {
        Some(kitex::decode(&value))
    } else {
        None
    }
}
