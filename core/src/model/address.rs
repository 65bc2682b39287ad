//! Where an instance can be reached.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, ErrorKind};

/// Where an instance can be reached: `10.0.0.7:8001`, `[2001:db8::1]:443`, `greeter.internal:80` or
/// `unix:///run/greeter.sock`.
///
/// Printing gives back what was parsed, but for the normal form of IP addresses.
///
/// ```
/// use hither_core::Address;
///
/// let address: Address = "10.0.0.7:8001".parse()?;
/// assert_eq!(address.port(), Some(8001));
/// assert!("10.0.0.7".parse::<Address>().is_err());
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// A host name and a port; the name is looked up when connecting.
    Host {
        /// The host name, or any other text that a connector understands.
        host: Arc<str>,
        /// The TCP port.
        port: u16,
    },
    /// A Unix domain socket.
    Unix(Arc<Path>),
}

impl Address {
    /// A host name and a port.
    ///
    /// # Errors
    /// `InvalidArgument` when the host is empty, or has white space or a control character.
    pub fn host(host: impl AsRef<str>, port: u16) -> Result<Self, Error> {
        let host = host.as_ref();
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(Self::Socket(SocketAddr::new(ip, port)));
        }
        if host.is_empty()
            || host.chars().any(|c| c.is_whitespace() || c.is_control())
            || host.contains(['[', ']'])
        {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{host:?} is not a host name")));
        }
        Ok(Self::Host { host: host.into(), port })
    }

    /// The port, where the address has one.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Socket(address) => Some(address.port()),
            Self::Host { port, .. } => Some(*port),
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` when the text is none of the forms that an address has.
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("address {text:?} {why} (expected host:port, [v6]:port or unix:///path)"),
            ))
        };
        if let Some(path) = text.strip_prefix("unix:") {
            // gRPC writes unix:path and unix:///absolute; we print the second.
            let path = path.strip_prefix("//").unwrap_or(path);
            if !path.starts_with('/') || path.chars().any(char::is_control) {
                return refuse("has no absolute path");
            }
            return Ok(Self::Unix(PathBuf::from(path).into()));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self::Socket(address));
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return refuse("has no port");
        };
        if host.parse::<Ipv6Addr>().is_ok() {
            return refuse("has an IPv6 address without brackets");
        }
        let Ok(port) = port.parse::<u16>() else {
            return refuse("has no port between 0 and 65535");
        };
        Self::host(host, port).or_else(|_| refuse("has no valid host"))
    }
}

impl TryFrom<&str> for Address {
    type Error = Error;

    fn try_from(text: &str) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_parsed_is_printed() {
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
    fn what_is_no_address_is_named_in_the_error() {
        for text in [
            "",
            ":80",
            "host",
            "host:",
            "host:x",
            "host:65536",
            "::1:80",
            "[::1]",
            "a b:1",
            "unix:",
            "unix:rel",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }
}
