//! The name for which the certificate of an instance must be valid.

use std::net::{IpAddr, Ipv4Addr};

use hither_core::{Address, AddressKind, Instance};
use rustls::pki_types::ServerName;

use crate::error::{Error, Result};

/// Where the name comes from: see [`ClientTls`](super::ClientTls).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) fixed: Option<String>,
    pub(super) metadata_key: Option<String>,
    pub(super) ip_addresses: bool,
    /// Whether nothing is missing where there is no name: something else of the certificate is checked.
    pub(super) optional: bool,
}

impl Names {
    /// Whether any setting says what the name is.
    pub(super) fn are_set(&self) -> bool {
        self.fixed.is_some() || self.metadata_key.is_some() || self.ip_addresses
    }

    /// # Errors
    /// `InvalidArgument` for a name that is none.
    pub(super) fn validate(&self) -> Result<()> {
        match &self.fixed {
            Some(name) if parse(name).is_none() => Err(Error::invalid_argument(format!(
                "the server name {name:?} is neither a DNS name nor an IP address"
            ))),
            _ => Ok(()),
        }
    }

    /// Checks addresses that are known before any connection is made, and whose instances have no metadata.
    ///
    /// # Errors
    /// `InvalidArgument` for the first that has no name.
    pub(super) fn check(&self, addresses: &[Address]) -> Result<()> {
        let missing = addresses.iter().find_map(|address| self.of_address(address).err());
        missing.map_or(Ok(()), |why| Err(Error::invalid_argument(why)))
    }

    /// The name for one of the addresses of an instance.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub(super) fn of(&self, instance: &Instance, address: &Address) -> Result<ServerName<'static>, String> {
        let value = self.metadata_key.as_ref().and_then(|key| Some((key, instance.metadata().get(key)?)));
        match value {
            Some((key, name)) => parse(name).ok_or_else(|| {
                format!("the instance's metadata {key:?} is {name:?}, which is no server name")
            }),
            None => self.of_address(address),
        }
    }

    fn of_address(&self, address: &Address) -> Result<ServerName<'static>, String> {
        if let Some(name) = &self.fixed {
            return parse(name).ok_or_else(|| format!("the server name {name:?} is none"));
        }
        let what = match address.kind() {
            AddressKind::Host { host, .. } => match parse(host) {
                Some(name) => return Ok(name),
                None => "is no DNS name",
            },
            AddressKind::Socket(socket) if self.ip_addresses || self.optional => {
                return Ok(ServerName::IpAddress(socket.ip().into()));
            }
            AddressKind::Socket(_) => "is an IP address",
            _ => "has no host",
        };
        if self.optional {
            // Not checked, and not sent: SNI has no addresses.
            return Ok(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into()));
        }
        Err(format!(
            "{address} {what}, and there is no name that the server's certificate must be valid for: set \
             ClientTls::with_server_name, with_server_name_from_metadata or with_ip_addresses"
        ))
    }
}

fn parse(name: &str) -> Option<ServerName<'static>> {
    // rustls sends a trailing dot as it is, which no certificate has.
    let name = name.strip_suffix('.').unwrap_or(name);
    ServerName::try_from(name.to_owned()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(names: &Names, address: &str) -> Result<String, String> {
        let address: Address = address.parse().unwrap();
        let instance =
            Instance::new(address.clone()).with_metadata("tls", "meta.internal").with_metadata("bad", "a b");
        names.of(&instance, &address).map(|name| name.to_str().into_owned())
    }

    #[test]
    fn metadata_goes_before_the_fixed_name_and_that_before_the_host() {
        let fixed = Some("fixed.internal".to_owned());
        let key = |key: &str| Some(key.to_owned());
        let host = Names::default();
        let all = Names { fixed, metadata_key: key("tls"), ip_addresses: true, optional: true };
        assert_eq!(name(&all, "10.0.0.1:80").unwrap(), "meta.internal");
        let absent = Names { metadata_key: key("other"), ..all.clone() };
        assert_eq!(name(&absent, "10.0.0.1:80").unwrap(), "fixed.internal");
        assert_eq!(name(&absent, "unix:///run/a.sock").unwrap(), "fixed.internal");
        assert_eq!(name(&host, "a.internal:80").unwrap(), "a.internal");
        assert_eq!(name(&host, "a.internal.:80").unwrap(), "a.internal");
        assert_eq!(name(&host, "my_service.internal:80").unwrap(), "my_service.internal");
        let ips = Names { ip_addresses: true, ..host };
        assert_eq!(name(&ips, "[::1]:80").unwrap(), "::1");
        let bad = Names { metadata_key: key("bad"), ..all };
        assert!(name(&bad, "10.0.0.1:80").unwrap_err().contains("\"bad\" is \"a b\""));
    }

    #[test]
    fn an_address_without_a_name_is_an_error_that_names_the_settings() {
        for (address, what) in [
            ("10.0.0.1:80", "10.0.0.1:80 is an IP address"),
            ("[::1]:80", "[::1]:80 is an IP address"),
            ("unix:///run/a.sock", "unix:///run/a.sock has no host"),
            ("http://127.0.0.1:80", "is no DNS name"),
        ] {
            let error = name(&Names::default(), address).unwrap_err();
            assert!(error.contains(what) && error.contains("ClientTls::with_server_name"), "{error}");
            name(&Names { optional: true, ..Names::default() }, address).unwrap();
        }
    }
}
