//! Ports that stay reserved, also while nothing listens on them.

use std::net::SocketAddr;

use socket2::{Domain, Socket, Type};

/// A port of 127.0.0.1 for a server that listens on it now and then: until this is dropped no other caller gets it by
/// [`new`](Self::new), in this process or another one.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// Bound, and never listening. A caller that reserves the port does so without sharing, and fails; a server that listens
    /// shares, as Go and Tokio do, and may.
    _kept: Socket,
}

impl Port {
    pub(crate) fn new() -> Self {
        loop {
            // Below those that the system gives to outgoing connections.
            let number = fastrand::u16(15_000..32_000);
            let kept = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            if kept.bind(&SocketAddr::from(([127, 0, 0, 1], number)).into()).is_ok() {
                kept.set_reuse_address(true).unwrap();
                return Self { number, _kept: kept };
            }
        }
    }

    /// `127.0.0.1:port`.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}
