//! Changes to a server's registrations while it runs.

use std::sync::{Arc, Weak};

use hither_core::Instance;

use super::registrations::Registrations;
use super::service_registration::closed;
use crate::error::Result;

/// Changes what a running server has in the registry: its weight, metadata and state. Made by
/// [`Lifecycle::handle`](crate::Lifecycle::handle).
///
/// ```
/// use hither_core::InstanceState;
/// use hither_tonic::Lifecycle;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), hither_tonic::Error> {
/// # let registry = hither_memory::MemoryRegistry::new();
/// let server = Lifecycle::builder(registry).service("greeter").bind("127.0.0.1:0").await?;
/// let handle = server.handle();
/// handle.update(|instance| instance.with_weight(5))?;
/// // Out of rotation: new calls go to other instances. And back.
/// handle.update(|instance| instance.with_state(InstanceState::Draining))?;
/// handle.update(|instance| instance.with_state(InstanceState::Up))?;
/// # Ok(())
/// # }
/// ```
///
/// A change is what is wanted from then on: it is sent in the background, again after any failure, and with every new
/// registration; before [`serve`](crate::Lifecycle::serve), or while the server is [not ready](crate::LifecycleBuilder::readiness),
/// it is what is going to be registered. Content that the registry refuses is logged, and the content before stays.
///
/// A handle keeps nothing alive. From the beginning of the shutdown on, and after the end or drop of the server, every
/// change is an error of kind [`Closed`](crate::ErrorKind::Closed): a server that leaves does not come back.
#[derive(Debug, Clone)]
pub struct LifecycleHandle(Weak<Registrations>);

impl LifecycleHandle {
    pub(super) fn new(registrations: &Arc<Registrations>) -> Self {
        Self(Arc::downgrade(registrations))
    }

    /// Changes the instance under every service: `describe` gets the present one, and returns it with what is new. It is
    /// called once for each service, and again if another change came in between.
    ///
    /// # Errors
    /// [`Closed`](crate::ErrorKind::Closed); [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the id is another
    /// one: services before that one are changed.
    pub fn update(&self, describe: impl Fn(Instance) -> Instance) -> Result<()> {
        self.registrations()?.update(None, &describe)
    }

    /// Changes the instance under one service, as [`update`](Self::update) does.
    ///
    /// # Errors
    /// Those of [`update`](Self::update), and [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the server has no
    /// such service.
    pub fn update_service(&self, service: &str, describe: impl Fn(Instance) -> Instance) -> Result<()> {
        self.registrations()?.update(Some(service), &describe)
    }

    fn registrations(&self) -> Result<Arc<Registrations>> {
        self.0.upgrade().ok_or_else(closed)
    }
}
