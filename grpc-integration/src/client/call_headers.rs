//! What all requests of a channel have in their headers.

use hither_core::{Address, AddressKind};
use http::uri::Authority;

/// The `user-agent`, unless a call has one of its own.
pub(crate) const USER_AGENT: &str = concat!("hither-tonic/", env!("CARGO_PKG_VERSION"));

/// The `:authority` of calls.
#[derive(Debug, Clone)]
pub(crate) enum CallAuthority {
    Fixed(Authority),
    /// The address that an attempt is sent to.
    PerInstance,
}

impl CallAuthority {
    pub(crate) fn of(&self, peer: &Address) -> Authority {
        let localhost = || Authority::from_static("localhost");
        match (self, peer.kind()) {
            (Self::Fixed(authority), _) => authority.clone(),
            (Self::PerInstance, AddressKind::Unix(_)) => localhost(),
            // A connector may understand a host name that is no authority.
            (Self::PerInstance, _) => peer.to_string().parse().unwrap_or_else(|_| localhost()),
        }
    }
}
