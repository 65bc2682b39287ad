//! Where an instance can be reached.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, ErrorKind};

/// The address of an instance: `10.0.0.7:8001`, `[2001:db8::1]:443`, `greeter.internal:80` or
/// `unix:///run/greeter.sock`. Never invalid.
///
/// Display gives back what was parsed, except for the normal form of IP addresses.
///
/// ```
/// use hither_core::{Address, AddressKind};
///
/// let address: Address = "10.0.0.7:8001".parse()?;
/// assert_eq!(address.port(), Some(8001));
/// assert!(matches!(address.kind(), AddressKind::Socket(socket) if socket.is_ipv4()));
/// assert!("10.0.0.7".parse::<Address>().is_err());
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(Repr);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Repr {
    Socket(SocketAddr),
    Host { host: Arc<str>, port: u16 },
    Unix(Arc<str>),
}

/// The parts of an [`Address`], for code that connects to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AddressKind<'a> {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// A host name and a port; the name is resolved when connecting. Exhaustive: an address of another form would be
    /// another variant.
    Host {
        /// The host name, or any other text that a connector understands.
        host: &'a str,
        /// The TCP port.
        port: u16,
    },
    /// The absolute path of a Unix domain socket.
    Unix(&'a Path),
}

impl Address {
    /// Returns the address of a host name, or an IP address as text, and a port.
    ///
    /// # Errors
    /// `InvalidArgument` when the host is empty, has white space, a control character or a bracket, begins or ends
    /// with a colon, or is `unix`.
    pub fn host(host: impl AsRef<str>, port: u16) -> Result<Self, Error> {
        let host = host.as_ref();
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self(Repr::Socket(SocketAddr::new(ip, port))));
        }
        if host.is_empty()
            || host.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '[' | ']'))
            // A colon would make an IPv6 address of it, or another port. Some write a URL for a host.
            || host.replacen("://", "", 1).contains(':')
            // It would be printed as the address of a Unix socket.
            || host == "unix"
            || host.starts_with("unix:")
        {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{host:?} is not a host name")));
        }
        Ok(Self(Repr::Host { host: host.into(), port }))
    }

    /// Returns the address of a Unix domain socket.
    ///
    /// # Errors
    /// `InvalidArgument` when the path is not absolute, not UTF-8, or has a control character.
    pub fn unix(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        match path.to_str() {
            Some(text) if text.starts_with('/') && !text.chars().any(char::is_control) => {
                Ok(Self(Repr::Unix(text.into())))
            }
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("{path:?} is not the absolute path of a Unix socket"),
            )),
        }
    }

    /// Returns the parts of the address.
    pub fn kind(&self) -> AddressKind<'_> {
        match &self.0 {
            Repr::Socket(address) => AddressKind::Socket(*address),
            Repr::Host { host, port } => AddressKind::Host { host, port: *port },
            Repr::Unix(path) => AddressKind::Unix(Path::new(&**path)),
        }
    }

    /// Returns the port, if the address has one.
    pub fn port(&self) -> Option<u16> {
        match &self.0 {
            Repr::Socket(address) => Some(address.port()),
            Repr::Host { port, .. } => Some(*port),
            Repr::Unix(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` when the text has none of the forms of an address.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("address {text:?} {why} (expected host:port, [v6]:port or unix:///path)"),
            ))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            // gRPC writes unix:path and unix:///absolute; Display writes the second.
            let path = path.strip_prefix("//").unwrap_or(path);
            return Self::unix(path).or_else(|_| refuse("has no absolute path"));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self(Repr::Socket(address)));
        }
        // Without brackets the last group would be taken for a port: 2001:db8::1 for host 2001:db8: and port 1.
        if without_scope(text).parse::<Ipv6Addr>().is_ok() {
            return refuse("has an IPv6 address without brackets and no port");
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return refuse("has no port");
        };
        if without_scope(host).parse::<Ipv6Addr>().is_ok() {
            return refuse("has an IPv6 address without brackets");
        }
        let Ok(port) = port.parse::<u16>() else {
            return refuse("has no port between 0 and 65535");
        };
        Self::host(host, port).or_else(|_| refuse("has no valid host"))
    }
}

/// An IPv6 address without its scope: `fe80::1%eth0` is `fe80::1` on one interface.
fn without_scope(text: &str) -> &str {
    text.split_once('%').map_or(text, |(address, _)| address)
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        text.parse()
    }
}

impl TryFrom<String> for Address {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self(Repr::Socket(address))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Socket(address) => address.fmt(f),
            Repr::Host { host, port } => write!(f, "{host}:{port}"),
            Repr::Unix(path) => write!(f, "unix://{path}"),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_writes_what_was_parsed() {
        for text in [
            "127.0.0.1:8001",
            "[2001:db8::1]:443",
            "greeter.internal:80",
            "svc.例え.jp:80",
            "unix:///run/a.sock",
            "http://127.0.0.1:23790",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("unix:/run/a.sock".parse::<Address>().unwrap().to_string(), "unix:///run/a.sock");
    }

    #[test]
    fn an_invalid_address_is_named_in_the_error() {
        for text in [
            "",
            ":80",
            "host",
            "host:",
            "host:x",
            "host:65536",
            "::1:80",
            "::1",
            "2001:db8::1",
            "fe80::1%eth0",
            "fe80::1%eth0:80",
            "2001:db8:0:0:0:0:0:1:80",
            "2001:db8::80:80:80:80:80:80:80",
            "a:b:1",
            "[::1]",
            "a b:1",
            "a::1",
            "unix:",
            "unix:rel",
            "unix:///a\nb",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn the_error_for_an_ipv6_address_names_the_brackets() {
        for text in ["::1", "2001:db8::1", "fe80::1%eth0", "::1:80", "fe80::1%eth0:80"] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.message().contains("IPv6 address without brackets"), "{error}");
        }
    }

    /// A record that every reader skips must not be constructible: what can be made can be read again.
    #[test]
    fn every_address_that_can_be_made_can_be_parsed() {
        let pieces =
            ["", "a", ":", "[", "]", "\n", " ", "::1", "1.2.3.4", "%", "/", "é", "unix", "unix:", "//", "0"];
        for first in pieces {
            for second in pieces {
                for third in pieces {
                    let text = format!("{first}{second}{third}");
                    let made = [Address::host(&text, 1).ok(), Address::unix(&text).ok(), text.parse().ok()];
                    for address in made.into_iter().flatten() {
                        assert_eq!(
                            address.to_string().parse::<Address>().ok(),
                            Some(address.clone()),
                            "{text:?}"
                        );
                    }
                }
            }
        }
    }
}
