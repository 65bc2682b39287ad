//! Where the IP address to advertise comes from, when it is known at run time only.

use std::env;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{UdpSocket, lookup_host};

use crate::error::{Error, Result};

/// The source of the IP address that clients call, for
/// [`LifecycleBuilder::advertise_ip`](crate::LifecycleBuilder::advertise_ip).
///
/// ```
/// use hither_tonic::{IpSource, Lifecycle};
///
/// # fn example(registry: hither_memory::MemoryRegistry) {
/// let pod = Lifecycle::builder(registry.clone()).service("greeter").advertise_ip(IpSource::env("POD_IP"));
/// let host = Lifecycle::builder(registry).service("greeter").advertise_ip(IpSource::route_to("etcd-1.internal:2379"));
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpSource(Source);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Env(String),
    Interface(String),
    RouteTo(String),
}

impl IpSource {
    /// An environment variable, such as `POD_IP`, which Kubernetes sets by the downward API (`fieldRef: status.podIP`).
    /// Several addresses, separated by commas as in `status.podIPs`, are several addresses of one server.
    pub fn env(variable: impl Into<String>) -> Self {
        Self(Source::Env(variable.into()))
    }

    /// A network interface of this machine, such as `eth0`: its first IPv4 address, or its first IPv6 address that is not
    /// link-local.
    pub fn interface(name: impl Into<String>) -> Self {
        Self(Source::Interface(name.into()))
    }

    /// The address from which this machine sends to `target`, a host and port such as the registry's. Nothing is sent: the
    /// system is asked for the route. Where clients are reached by another route, as behind NAT, it is the wrong address.
    pub fn route_to(target: impl Into<String>) -> Self {
        Self(Source::RouteTo(target.into()))
    }

    /// Returns the addresses, at least one.
    pub(super) async fn resolve(&self) -> Result<Vec<IpAddr>> {
        match &self.0 {
            Source::Env(variable) => from_env(variable, env::var(variable)),
            Source::Interface(name) => of_interface(name).map(|ip| vec![ip]),
            Source::RouteTo(target) => route_to(target).await.map(|ip| vec![ip]),
        }
    }
}

fn from_env(variable: &str, value: Result<String, env::VarError>) -> Result<Vec<IpAddr>> {
    let refuse = |why: String| Err(Error::invalid_argument(format!("no address to advertise: {why}")));
    let value = match value {
        Ok(value) if !value.trim().is_empty() => value,
        Ok(_) => return refuse(format!("the environment variable {variable} is empty")),
        Err(env::VarError::NotPresent) => {
            return refuse(format!("the environment variable {variable} is not set"));
        }
        Err(env::VarError::NotUnicode(_)) => {
            return refuse(format!("the environment variable {variable} is not UTF-8"));
        }
    };
    let mut found = Vec::new();
    for text in value.split(',').map(str::trim) {
        match text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) if is_callable(ip) => found.push(ip),
            Ok(ip) => return refuse(format!("no client can call {ip}, which {variable} has")),
            Err(_) => return refuse(format!("{variable} has {text:?}, which is no IP address")),
        }
    }
    Ok(found)
}

fn of_interface(name: &str) -> Result<IpAddr> {
    let interfaces = if_addrs::get_if_addrs().map_err(|error| {
        Error::invalid_argument("no address to advertise: the network interfaces cannot be listed")
            .with_source(error)
    })?;
    let of_it = || interfaces.iter().filter(|interface| interface.name == name).map(|found| found.ip());
    let callable = || of_it().filter(|ip| is_callable(*ip));
    if let Some(ip) = callable().find(IpAddr::is_ipv4).or_else(|| callable().next()) {
        return Ok(ip);
    }
    let why = if of_it().next().is_some() {
        format!("the network interface {name} has no address that clients can call")
    } else {
        let mut names: Vec<_> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        format!("there is no network interface {name} with an address, only {}", names.join(", "))
    };
    Err(Error::invalid_argument(format!("no address to advertise: {why}")))
}

async fn route_to(target: &str) -> Result<IpAddr> {
    let failed = |error| {
        Error::invalid_argument(format!("no address to advertise: there is no route to {target}"))
            .with_source(error)
    };
    let mut last = None;
    for target in lookup_host(target).await.map_err(failed)? {
        match local_address_to(target).await {
            Ok(ip) => return Ok(ip),
            Err(error) => last = Some(error),
        }
    }
    Err(failed(last.unwrap_or_else(|| std::io::ErrorKind::NotFound.into())))
}

/// The address of this end of a datagram socket that is connected to `target`. That sends nothing.
async fn local_address_to(target: SocketAddr) -> std::io::Result<IpAddr> {
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(target).await?;
    Ok(socket.local_addr()?.ip())
}

/// Whether a client can have an address for one of a server's: a link-local one is valid with the name of an interface only.
fn is_callable(ip: IpAddr) -> bool {
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_unspecified() && !ip.is_multicast() && !is_link_local
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(value: &str) -> Result<String> {
        let found = from_env("POD_IP", Ok(value.to_owned()))?;
        Ok(found.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn a_variable_has_one_address_or_several() {
        for (value, expected) in [
            ("10.1.2.3", "10.1.2.3"),
            (" fd00::7\n", "fd00::7"),
            ("[fd00::7]", "fd00::7"),
            ("10.1.2.3,fd00::7", "10.1.2.3 fd00::7"),
            ("10.1.2.3, fd00::7", "10.1.2.3 fd00::7"),
        ] {
            assert_eq!(ips(value).unwrap(), expected, "{value:?}");
        }
    }

    #[test]
    fn the_error_names_the_variable_and_what_is_wrong() {
        for (value, expected) in [
            ("", "the environment variable POD_IP is empty"),
            (" ", "the environment variable POD_IP is empty"),
            ("10.1.2.3,", "POD_IP has \"\", which is no IP address"),
            ("10.1.2.3:80", "POD_IP has \"10.1.2.3:80\", which is no IP address"),
            ("$(POD_IP)", "POD_IP has \"$(POD_IP)\", which is no IP address"),
            ("greeter-0", "POD_IP has \"greeter-0\", which is no IP address"),
            ("0.0.0.0", "no client can call 0.0.0.0, which POD_IP has"),
            ("fe80::1", "no client can call fe80::1, which POD_IP has"),
            ("169.254.1.1", "no client can call 169.254.1.1, which POD_IP has"),
        ] {
            let error = ips(value).unwrap_err().to_string();
            assert_eq!(error, format!("no address to advertise: {expected}"), "{value:?}");
        }
        let unset = from_env("POD_IP", Err(env::VarError::NotPresent)).unwrap_err().to_string();
        assert!(unset.ends_with("the environment variable POD_IP is not set"), "{unset}");
    }
}
