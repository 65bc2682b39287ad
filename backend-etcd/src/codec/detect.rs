//! Which framework wrote a record.

use serde_json::{Map, Value};

use super::{Foreign, Undecodable, go_micro, kitex, kratos};

/// Decodes a record of another framework; `None` where the members are of none that is known.
///
/// Go's lenient decoder takes most of these for an endpoint without an address.
pub(super) fn decode(members: &Map<String, Value>) -> Option<Result<Foreign, Undecodable>> {
    if members.contains_key("nodes") {
        Some(go_micro::decode(members))
    } else if members.contains_key("endpoints") && members.contains_key("id") {
        Some(kratos::decode(members))
    } else if members.contains_key("address") && members.contains_key("network") {
        Some(kitex::decode(members))
    } else {
        None
    }
}
