//! What one attempt is to connect to.

use std::net::SocketAddr;

use hither_core::{Address, AddressKind, Instance};

/// What one attempt is to connect to: one address of an instance.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'a> {
    instance: &'a Instance,
    address: &'a Address,
    socket_addr: Option<SocketAddr>,
}

impl<'a> Destination<'a> {
    /// Returns one of the addresses of `instance` as a destination: for connectors that wrap another one, and for
    /// tests.
    pub fn new(instance: &'a Instance, address: &'a Address) -> Self {
        let socket_addr = match address.kind() {
            AddressKind::Socket(address) => Some(address),
            _ => None,
        };
        Self { instance, address, socket_addr }
    }

    /// Sets the IP address and port to connect to, as one that the host name was resolved to.
    #[must_use]
    pub fn with_socket_addr(mut self, socket_addr: SocketAddr) -> Self {
        self.socket_addr = Some(socket_addr);
        self
    }

    /// Returns the instance, as the registry describes it now.
    pub fn instance(&self) -> &'a Instance {
        self.instance
    }

    /// Returns the address as it was registered, which is one of the instance's. Its host is what a certificate is
    /// valid for.
    pub fn address(&self) -> &'a Address {
        self.address
    }

    /// Returns the IP address and port to connect to. `None` for a Unix domain socket, and for a host name unless the
    /// connector [wants it resolved](super::Connector::wants_resolved).
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.socket_addr
    }
}
