//! Both sides of a registry in one type.

use crate::{Registrar, Resolver};

/// A whole registry: a [`Registrar`] and a [`Resolver`]. Every type that is both is one.
///
/// As `Arc<dyn Registry>` it lets a program choose its registry at run time; the crate `hither` opens one from a URL.
///
/// ```
/// use std::sync::Arc;
/// use hither_core::{Discovery, Instance, Registration, RegistrationConfig, Registry, keep_registered};
/// use hither_memory::MemoryRegistry;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let registry: Arc<dyn Registry> = Arc::new(MemoryRegistry::new());
/// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))?;
/// let handle = keep_registered(Arc::clone(&registry), registration, RegistrationConfig::default());
/// let discovery = Discovery::new(registry);
/// # handle.deregister().await
/// # }
/// ```
pub trait Registry: Registrar + Resolver {}

impl<T: Registrar + Resolver + ?Sized> Registry for T {}
