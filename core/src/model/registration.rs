//! What a server wants to register.

use std::time::Duration;

use crate::{Error, ErrorKind, Instance, InstanceId, Result, ServiceName};

/// What a server wants to stand in the registry: service, instance and time to live.
///
/// ```
/// use std::time::Duration;
/// use hither_core::{Instance, Registration};
///
/// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))
///     .with_ttl(Duration::from_secs(15));
/// assert_eq!(registration.ttl(), Duration::from_secs(15));
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    service: ServiceName,
    instance: Instance,
    ttl: Duration,
}

impl Registration {
    /// The time to live that is asked for by default: 10 s, the shortest that outlives an etcd leader election
    /// plus one missed renewal.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

    /// `instance` under `service`, for [`DEFAULT_TTL`](Self::DEFAULT_TTL).
    pub fn new(service: ServiceName, instance: Instance) -> Self {
        Self { service, instance, ttl: Self::DEFAULT_TTL }
    }

    /// Sets the wanted time to live: how long the record outlives a server that died without a word. A registry
    /// may grant another one: ask the lease.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// The same registration with other content.
    #[must_use]
    pub fn with_instance(mut self, instance: Instance) -> Self {
        self.instance = instance;
        self
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The wanted time to live.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Refuses what no backend can register: for backends to call first.
    ///
    /// # Errors
    /// `InvalidArgument` for a TTL of zero, or an id with a `/` that is not the address text.
    pub fn validate(&self) -> Result<()> {
        if self.ttl.is_zero() {
            return Err(Error::new(ErrorKind::InvalidArgument, "a registration needs a TTL above zero"));
        }
        let id = self.instance.id();
        if id.as_str().contains('/') && *id != InstanceId::from(self.instance.address()) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("instance id {id:?} has a '/' and is not the address {}", self.instance.address()),
            ));
        }
        Ok(())
    }
}
