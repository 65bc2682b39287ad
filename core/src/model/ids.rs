//! Names of services and ids of instances: validated when they are parsed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Address, Error, ErrorKind};

/// The name of a service: segments joined by `/`, such as `grpc-demo/grpc/discover-demo`.
///
/// No segment is empty, and there are no control characters. A name is not escaped or normalised: the registry has it
/// as it is written.
///
/// ```
/// use hither_core::ServiceName;
///
/// let name: ServiceName = "grpc-demo/grpc/discover-demo".parse()?;
/// assert_eq!(name.as_str(), "grpc-demo/grpc/discover-demo");
/// assert!(ServiceName::new("a//b").is_err());
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// Parses a name.
    ///
    /// # Errors
    /// `InvalidArgument` when the text is empty, has an empty segment or a control character.
    pub fn new(name: impl AsRef<str>) -> Result<Self, Error> {
        let name = name.as_ref();
        let refuse =
            |why: &str| Err(Error::new(ErrorKind::InvalidArgument, format!("service name {name:?} {why}")));
        if name.is_empty() {
            return refuse("is empty");
        }
        if name.split('/').any(str::is_empty) {
            return refuse(
                "has an empty segment (a leading, trailing or double '/'); a part before the name is the prefix of the backend",
            );
        }
        if name.chars().any(char::is_control) {
            return refuse("has a control character");
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `self` is `parent` or below it: `a/b` is under `a`, `ab` is not.
    pub fn is_under(&self, parent: &ServiceName) -> bool {
        self.0.strip_prefix(&*parent.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// The id of an instance, unique within its service.
///
/// By default it is the text of the address. A custom id has no `/`, so that its record can be distinguished
/// from one of a deeper service.
///
/// ```
/// use hither_core::{Address, InstanceId};
///
/// let address: Address = "unix:///run/greeter.sock".parse()?;
/// assert_eq!(InstanceId::from(&address).as_str(), "unix:///run/greeter.sock");
/// assert!(InstanceId::new("a/b").is_err());
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

impl InstanceId {
    /// Parses an id.
    ///
    /// # Errors
    /// `InvalidArgument` when the text is empty, has a `/` or a control character.
    pub fn new(id: impl AsRef<str>) -> Result<Self, Error> {
        let id = Self::nested(id)?;
        if id.0.contains('/') {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "instance id {id:?} has a '/', which only an id that is the text of an address may have"
                ),
            ));
        }
        Ok(id)
    }

    /// Parses an id that may have slashes, for backends that list deeper records as instances, as Go's
    /// `naming/endpoints` does.
    ///
    /// # Errors
    /// `InvalidArgument` when the text is empty or has a control character.
    pub fn nested(id: impl AsRef<str>) -> Result<Self, Error> {
        let id = id.as_ref();
        if id.is_empty() || id.chars().any(char::is_control) {
            let why = if id.is_empty() { "is empty" } else { "has a control character" };
            return Err(Error::new(ErrorKind::InvalidArgument, format!("instance id {id:?} {why}")));
        }
        Ok(Self(id.into()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&Address> for InstanceId {
    fn from(address: &Address) -> Self {
        Self(address.to_string().into())
    }
}

macro_rules! text {
    // The last is how a serialized one is parsed.
    ($name:ident, $parse:expr) => {
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = Error;

            fn try_from(text: &str) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                Self::new(text)
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                $parse(text).map_err(serde::de::Error::custom)
            }
        }

        impl From<&$name> for $name {
            fn from(name: &$name) -> Self {
                name.clone()
            }
        }
    };
}

text!(ServiceName, ServiceName::new);
// What was read from a registry may be nested.
text!(InstanceId, InstanceId::nested);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_has_no_empty_segment_and_no_control_character() {
        for bad in ["", "/", "/a", "a/", "a//b", "a\nb", "a\0"] {
            let error = ServiceName::new(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}");
            assert!(error.to_string().contains(&format!("{bad:?}")), "{error}");
        }
        for good in ["a", "a/b", "a b", "例え", "svc:1", "a.b-c_d"] {
            assert_eq!(ServiceName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn is_under_respects_segment_boundaries() {
        let name = |text| ServiceName::new(text).unwrap();
        assert!(name("a/b").is_under(&name("a")));
        assert!(name("a").is_under(&name("a")));
        assert!(!name("ab").is_under(&name("a")));
        assert!(!name("a").is_under(&name("a/b")));
    }

    #[test]
    fn an_id_has_no_slash_unless_it_is_the_address() {
        assert!(InstanceId::new("a/b").is_err());
        assert!(InstanceId::new("").is_err());
        assert_eq!(InstanceId::nested("a/b").unwrap().as_str(), "a/b");
        let address: Address = "unix:///run/a.sock".parse().unwrap();
        assert_eq!(InstanceId::from(&address).as_str(), "unix:///run/a.sock");
    }
}
