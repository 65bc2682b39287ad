//! The settings of calls.

use std::time::Duration;

use hither_core::{Address, AddressKind};
use http::uri::Authority;

/// Sets for a single call whether it waits until an instance is ready, whatever the channel's own setting.
///
/// A call that does not wait fails with UNAVAILABLE as soon as it is known that no instance is ready; a
/// wait-for-ready call waits until its deadline. It goes into the request's extensions:
///
/// ```
/// use hither_tonic::WaitForReady;
///
/// let mut request = tonic::Request::new("a message");
/// request.extensions_mut().insert(WaitForReady(true));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaitForReady(pub bool);

/// The settings that all calls of a channel share.
#[derive(Debug)]
pub(crate) struct CallConfig {
    pub(crate) authority: CallAuthority,
    pub(crate) default_timeout: Option<Duration>,
    pub(crate) wait_for_ready: bool,
}

/// The `:authority` of calls.
#[derive(Debug)]
pub(crate) enum CallAuthority {
    Fixed(Authority),
    /// The address that an attempt is sent to.
    PerInstance,
}

impl CallAuthority {
    pub(super) fn of(&self, peer: &Address) -> Authority {
        let localhost = || Authority::from_static("localhost");
        match (self, peer.kind()) {
            (Self::Fixed(authority), _) => authority.clone(),
            (Self::PerInstance, AddressKind::Unix(_)) => localhost(),
            // A connector may understand a host name that is no authority.
            (Self::PerInstance, _) => peer.to_string().parse().unwrap_or_else(|_| localhost()),
        }
    }
}
