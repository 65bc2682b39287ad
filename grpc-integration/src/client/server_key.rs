//! Which instances are the same server.

use std::sync::Arc;

use hither_core::{Address, Instance};

/// Instances that have the same addresses are the same server, in whatever order they are listed.
pub(crate) type ServerKey = Arc<[Address]>;

/// Returns the server that an instance is.
pub(crate) fn server_key(instance: &Instance) -> ServerKey {
    match instance.addresses() {
        [only] => Arc::new([only.clone()]),
        several => {
            let mut addresses = several.to_vec();
            addresses.sort();
            addresses.dedup();
            addresses.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_addresses_does_not_matter() {
        let of = |addresses: [&str; 3]| {
            let [first, second, third] = addresses.map(|address| address.parse().unwrap());
            server_key(&Instance::new(first).with_address(second).with_address(third))
        };
        assert_eq!(of(["a:1", "b:1", "a:1"]), of(["b:1", "a:1", "b:1"]));
    }
}
