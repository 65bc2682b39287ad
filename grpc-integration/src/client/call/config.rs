//! The settings of calls.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hither_core::{Address, AddressKind};
use http::uri::Authority;

use crate::client::ready_instance::ReadyInstance;

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

/// The instance that a call is sent to, for logs, metrics and tests. It goes into the request's extensions, and may be
/// looked at at any time, after a failure too.
///
/// ```
/// use hither_tonic::CalledInstance;
///
/// let called = CalledInstance::default();
/// let mut request = tonic::Request::new("a message");
/// request.extensions_mut().insert(called.clone());
/// // let answer = client.say_hello(request).await;
/// assert!(called.get().is_none(), "it was not sent yet");
/// ```
#[derive(Debug, Clone, Default)]
pub struct CalledInstance(Arc<Mutex<Option<ReadyInstance>>>);

impl CalledInstance {
    /// Returns the instance of the latest attempt; `None` if there was none yet.
    pub fn get(&self) -> Option<ReadyInstance> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, instance: &ReadyInstance) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(instance.clone());
    }
}

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
