//! The addresses that clients call, and the instance that has them.

use std::fmt;
use std::net::IpAddr;

use hither_core::{Address, AddressKind, Instance};

use super::ip_source::IpSource;
use crate::error::{Error, Result};

/// What the builder was told to advertise.
#[derive(Debug)]
pub(super) enum Advertised {
    Address(Address),
    Ip(IpSource),
}

/// What [`LifecycleBuilder::instance`](crate::LifecycleBuilder::instance) was given, in order.
#[derive(Default)]
pub(super) struct Describe(Vec<Box<dyn FnOnce(Instance) -> Instance + Send + Sync>>);

impl Describe {
    pub(super) fn push(&mut self, describe: impl FnOnce(Instance) -> Instance + Send + Sync + 'static) {
        self.0.push(Box::new(describe));
    }

    pub(super) fn apply(self, instance: Instance) -> Instance {
        self.0.into_iter().fold(instance, |instance, describe| describe(instance))
    }
}

impl fmt::Debug for Describe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Describe").field(&self.0.len()).finish()
    }
}

/// The instance of a server that listens on `bound`.
pub(super) async fn instance(advertised: Vec<Advertised>, bound: &Address) -> Result<Instance> {
    let mut addresses = Vec::new();
    for advertised in advertised {
        match advertised {
            Advertised::Address(address) => addresses.push(callable(address, bound)?),
            Advertised::Ip(source) => {
                for ip in source.resolve().await? {
                    addresses.push(at(ip, bound)?);
                }
            }
        }
    }
    let mut addresses = addresses.into_iter();
    let first = match addresses.next() {
        Some(first) => first,
        None => callable(bound.clone(), bound)?,
    };
    Ok(addresses.fold(Instance::new(first), Instance::with_address))
}

/// The address with its real port, if a client can call it.
fn callable(address: Address, bound: &Address) -> Result<Address> {
    match address.kind() {
        AddressKind::Socket(socket) if socket.ip().is_unspecified() => Err(Error::invalid_argument(format!(
            "{socket} means every address of this machine, which no client can call: name one with .advertise(..)"
        ))),
        AddressKind::Socket(socket) if socket.port() == 0 => {
            Ok(Address::host(socket.ip().to_string(), port(bound)?)?)
        }
        AddressKind::Host { host, .. } if host.contains("://") => {
            Err(Error::invalid_argument(format!("{address} is a URL: advertise host:port")))
        }
        AddressKind::Host { host, port: 0 } => Ok(Address::host(host, port(bound)?)?),
        _ => Ok(address),
    }
}

/// An address of this machine, where the server listens.
fn at(ip: IpAddr, bound: &Address) -> Result<Address> {
    let port = port(bound)?;
    let listens = match bound.kind() {
        AddressKind::Socket(socket) if socket.ip().is_unspecified() => socket.is_ipv6() || ip.is_ipv4(),
        AddressKind::Socket(socket) => socket.ip() == ip,
        _ => true,
    };
    if listens {
        return Ok(Address::host(ip.to_string(), port)?);
    }
    let everywhere = if ip.is_ipv6() { "[::]" } else { "0.0.0.0" };
    Err(Error::invalid_argument(format!(
        "the server listens on {bound}, where no client of {ip} can reach it: bind {everywhere}:{port}"
    )))
}

fn port(bound: &Address) -> Result<u16> {
    bound.port().ok_or_else(|| {
        Error::invalid_argument(format!("the server listens on {bound}: there is no port to advertise"))
    })
}
