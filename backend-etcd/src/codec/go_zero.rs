//! go-zero: nothing but the address.

use hither_core::{Address, AddressKind, Instance};

use super::Foreign;

/// Decodes `host:port`, as go-zero writes it.
pub(super) fn decode(value: &[u8]) -> Option<Foreign> {
    let address: Address = std::str::from_utf8(value).ok()?.parse().ok()?;
    let is_of_tcp = matches!(address.kind(), AddressKind::Socket(_) | AddressKind::Host { .. });
    is_of_tcp.then(|| Foreign { service: None, instance: Instance::new(address) })
}
