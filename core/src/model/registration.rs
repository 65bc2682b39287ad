//! What a server registers.

use std::time::Duration;

use crate::{Error, ErrorKind, Instance, InstanceId, Result, ServiceName};

/// An instance to be registered under a service, with a time to live. Never invalid.
///
/// ```
/// use std::time::Duration;
/// use hither_core::{Instance, Registration};
///
/// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))?
///     .with_ttl(Duration::from_secs(15))?;
/// assert_eq!(registration.ttl(), Duration::from_secs(15));
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(into = "serde_form::Form", try_from = "serde_form::Form")
)]
pub struct Registration {
    service: ServiceName,
    instance: Instance,
    ttl: Duration,
}

impl Registration {
    /// The time to live that is asked for by default: 10 s, the shortest that outlives an etcd leader election
    /// plus one missed renewal.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(10);

    /// The longest time to live that can be asked for: 365 days.
    pub const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

    /// Registers `instance` under `service`, for [`DEFAULT_TTL`](Self::DEFAULT_TTL).
    ///
    /// # Errors
    /// `InvalidArgument` when the id of the instance has a `/` and is not the text of its first address: a record with
    /// such an id could not be distinguished from one of a deeper service.
    pub fn new(service: ServiceName, instance: Instance) -> Result<Self> {
        let id = instance.id();
        if id.as_str().contains('/') && *id != InstanceId::from(instance.address()) {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("instance id {id:?} has a '/' and is not the address {}", instance.address()),
            ));
        }
        Ok(Self { service, instance, ttl: Self::DEFAULT_TTL })
    }

    /// Sets the time to live: how long the record outlives a server that crashed. A registry may grant another one:
    /// see [`Lease::ttl`](crate::Lease::ttl).
    ///
    /// # Errors
    /// `InvalidArgument` when it is zero, or longer than [`MAX_TTL`](Self::MAX_TTL).
    pub fn with_ttl(mut self, ttl: Duration) -> Result<Self> {
        if ttl.is_zero() || ttl > Self::MAX_TTL {
            let why = format!("a TTL of {ttl:?} is not above zero and at most {:?}", Self::MAX_TTL);
            return Err(Error::new(ErrorKind::InvalidArgument, why));
        }
        self.ttl = ttl;
        Ok(self)
    }

    /// Replaces the content: the same service, id and time to live.
    ///
    /// # Errors
    /// `InvalidArgument` when `instance` has another id, or as for [`new`](Self::new).
    pub fn with_instance(self, instance: Instance) -> Result<Self> {
        let (ours, other) = (self.instance.id(), instance.id());
        if ours != other {
            let why = format!("an update of instance {ours} cannot change its id to {other}");
            return Err(Error::new(ErrorKind::InvalidArgument, why));
        }
        Ok(Self { ttl: self.ttl, ..Self::new(self.service, instance)? })
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// The time to live to ask for.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

/// The form of a registration in JSON and the like: the TTL is in milliseconds, and may be left out.
#[cfg(feature = "serde")]
mod serde_form {
    use std::time::Duration;

    use super::Registration;
    use crate::{Error, Instance, Result, ServiceName};

    #[derive(serde::Serialize, serde::Deserialize)]
    pub(super) struct Form {
        service: ServiceName,
        instance: Instance,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ttl_ms: Option<u64>,
    }

    impl From<Registration> for Form {
        fn from(registration: Registration) -> Self {
            // Destructured, so that a new field cannot be forgotten here.
            let Registration { service, instance, ttl } = registration;
            // Rounded up, so that a short one does not become an invalid zero. It is a year at most.
            let millis = u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
            let ttl_ms = (ttl != Registration::DEFAULT_TTL).then_some(millis);
            Self { service, instance, ttl_ms }
        }
    }

    impl TryFrom<Form> for Registration {
        type Error = Error;

        fn try_from(form: Form) -> Result<Self> {
            let Form { service, instance, ttl_ms } = form;
            let registration = Self::new(service, instance)?;
            match ttl_ms {
                Some(millis) => registration.with_ttl(Duration::from_millis(millis)),
                None => Ok(registration),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "serde")]
    #[test]
    fn a_registration_survives_json_and_an_invalid_one_is_refused() {
        for ttl in [Registration::DEFAULT_TTL, Duration::from_millis(1500), Registration::MAX_TTL] {
            let registration = registration().with_ttl(ttl).unwrap();
            let json = serde_json::to_string(&registration).unwrap();
            assert_eq!(serde_json::from_str::<Registration>(&json).unwrap(), registration, "{json}");
        }
        for json in [
            r#"{"service":"svc","instance":{"addresses":["a:1"]},"ttl_ms":0}"#,
            r#"{"service":"svc","instance":{"addresses":["a:1"]},"ttl_ms":18446744073709551615}"#,
            r#"{"service":"svc","instance":{"addresses":["a:1"],"id":"b/c"}}"#,
            r#"{"service":"","instance":{"addresses":["a:1"]}}"#,
        ] {
            assert!(serde_json::from_str::<Registration>(json).is_err(), "{json}");
        }
    }

    fn registration() -> Registration {
        Registration::new("greeter".parse().unwrap(), Instance::new("unix:///run/a.sock".parse().unwrap()))
            .unwrap()
    }

    #[test]
    fn an_id_with_a_slash_must_be_the_address() {
        let instance = registration().instance().clone().with_id(InstanceId::nested("a/b").unwrap());
        let error = Registration::new("greeter".parse().unwrap(), instance).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("a/b"), "{error}");
    }

    #[test]
    fn a_ttl_is_above_zero_and_at_most_a_year() {
        for ttl in [Duration::ZERO, Registration::MAX_TTL + Duration::from_nanos(1), Duration::MAX] {
            assert_eq!(
                registration().with_ttl(ttl).unwrap_err().kind(),
                ErrorKind::InvalidArgument,
                "{ttl:?}"
            );
        }
        for ttl in [Duration::from_nanos(1), Registration::MAX_TTL] {
            assert_eq!(registration().with_ttl(ttl).unwrap().ttl(), ttl);
        }
    }

    #[test]
    fn an_update_keeps_the_id_and_stays_valid() {
        let ttl = Duration::from_secs(3);
        let before = registration().with_ttl(ttl).unwrap();
        let after = before.clone().with_instance(before.instance().clone().with_weight(7)).unwrap();
        assert_eq!((after.ttl(), after.instance().weight()), (ttl, 7));
        let other = Instance::new("unix:///run/b.sock".parse().unwrap());
        assert_eq!(
            before.clone().with_instance(other.clone()).unwrap_err().kind(),
            ErrorKind::InvalidArgument
        );
        // The same id, which is now the text of no address.
        let moved = other.with_id(before.instance().id().clone());
        assert_eq!(before.with_instance(moved).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}
