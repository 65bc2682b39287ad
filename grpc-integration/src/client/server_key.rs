//! Which instances are the same server.

use std::sync::Arc;

use hither_core::{Address, Instance};

/// What a server is known by. Cheap to clone.
pub(crate) type ServerKey = Arc<Server>;

/// A server, which several instances may be: those that have the same addresses, in whatever order they are listed, and the
/// same name.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Server {
    addresses: Addresses,
    name: Option<Box<str>>,
}

/// Nearly always it is one, which needs no list.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Addresses {
    One(Address),
    Several(Box<[Address]>),
}

/// Tells servers apart.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerKeys {
    name_from: Option<Arc<str>>,
}

impl ServerKeys {
    /// By their addresses, and by the name that instances have in their metadata under `key`: a connection that was made for
    /// one name is none for another, as behind a gateway that routes by the name (SNI).
    #[cfg(feature = "tls")]
    pub(crate) fn with_name_from_metadata(key: &str) -> Self {
        Self { name_from: Some(key.into()) }
    }

    /// Returns the server that an instance is.
    pub(crate) fn of(&self, instance: &Instance) -> ServerKey {
        let addresses = match instance.addresses() {
            [only] => Addresses::One(only.clone()),
            several => {
                let mut addresses = several.to_vec();
                addresses.sort();
                addresses.dedup();
                match <[Address; 1]>::try_from(addresses) {
                    Ok([only]) => Addresses::One(only),
                    Err(addresses) => Addresses::Several(addresses.into()),
                }
            }
        };
        Arc::new(Server { addresses, name: self.name(instance).map(Box::from) })
    }

    /// Whether two instances are the same server.
    pub(crate) fn is_same(&self, one: &Instance, other: &Instance) -> bool {
        self.name(one) == self.name(other)
            && (one.addresses() == other.addresses() || self.of(one) == self.of(other))
    }

    fn name<'a>(&self, instance: &'a Instance) -> Option<&'a str> {
        let key = self.name_from.as_ref()?;
        instance.metadata().get(&**key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance<const N: usize>(addresses: [&str; N]) -> Instance {
        let mut addresses = addresses.into_iter().map(|address| address.parse().unwrap());
        let first = Instance::new(addresses.next().unwrap());
        addresses.fold(first, Instance::with_address)
    }

    #[test]
    fn the_order_of_addresses_does_not_matter() {
        let keys = ServerKeys::default();
        let (one, other) = (instance(["a:1", "b:1", "a:1"]), instance(["b:1", "a:1", "b:1"]));
        assert_eq!(keys.of(&one), keys.of(&other));
        assert!(keys.is_same(&one, &other) && !keys.is_same(&one, &instance(["a:1"])));
    }

    #[test]
    fn an_address_that_is_listed_twice_is_one() {
        let keys = ServerKeys::default();
        assert!(keys.is_same(&instance(["a:1", "a:1"]), &instance(["a:1"])));
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_name_of_its_own_makes_another_server_where_it_is_looked_at() {
        let keys = ServerKeys::with_name_from_metadata("tls");
        let named = |name: &str| instance(["a:1"]).with_metadata("tls", name);
        assert!(keys.is_same(&named("a"), &named("a").with_metadata("shard", "2")));
        assert!(!keys.is_same(&named("a"), &named("b")) && keys.of(&named("a")) != keys.of(&named("b")));
        assert!(!keys.is_same(&named("a"), &instance(["a:1"])));
        assert!(ServerKeys::default().is_same(&named("a"), &named("b")));
    }
}
