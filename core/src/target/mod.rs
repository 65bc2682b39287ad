//! The target that a client dials: `etcd:///greeter`.

mod registries;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::{Error, ErrorKind, Result, ServiceName};

pub use registries::Registries;

/// A gRPC target: `scheme://authority/service`, parsed as gRPC does.
///
/// - `etcd:///svc`, `etcd:/svc` and `etcd:svc` name the same service; the scheme may be in capitals.
/// - The path is percent-decoded; query and fragment are ignored, as in Go's resolver.
/// - An authority, `etcd://main/svc`, names one of several registries of the scheme. Go ignores it silently;
///   here the [`Registries`] must have it.
/// - `static:///10.0.0.1:80,10.0.0.2:80` is the list of addresses itself.
///
/// A target is not the URL of a registry: `etcd://10.0.0.1:2379/prefix` has endpoints, and is what a program connects to
/// before it dials anything.
///
/// ```
/// use hither_core::Target;
///
/// let target: Target = "etcd:///grpc-demo/grpc/discover-demo".parse()?;
/// assert_eq!(target.scheme(), "etcd");
/// assert_eq!(target.service()?.as_str(), "grpc-demo/grpc/discover-demo");
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    text: Arc<str>,
    scheme: String,
    authority: Option<String>,
    endpoint: String,
}

impl Target {
    /// The scheme, in lower case.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The authority, if there is one.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The part after the authority, decoded, without its leading slash.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the endpoint as the name of a service.
    ///
    /// # Errors
    /// `InvalidArgument` when it is not a valid name, for example because of an empty segment.
    pub fn service(&self) -> Result<ServiceName> {
        ServiceName::new(&self.endpoint).map_err(|error| self.refuse("names no service").with_source(error))
    }

    fn refuse(&self, why: impl fmt::Display) -> Error {
        refuse(&self.text, why)
    }
}

impl FromStr for Target {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` when there is no scheme or no endpoint, or a percent escape is invalid.
    fn from_str(text: &str) -> Result<Self> {
        let Some((scheme, rest)) = text.split_once(':').filter(|(scheme, _)| is_scheme(scheme)) else {
            return Err(refuse(text, "has no scheme (expected something like etcd:///service)"));
        };
        let rest = rest.find(['?', '#']).map_or(rest, |end| &rest[..end]);
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => match rest.find('/') {
                Some(slash) => (&rest[..slash], &rest[slash..]),
                None => (rest, ""),
            },
            None => ("", rest),
        };
        // A path without a leading slash is opaque to URLs: Go does not decode it.
        let endpoint = match path.strip_prefix('/') {
            Some(path) => match percent_decode_str(path).decode_utf8() {
                Ok(decoded) if escapes_are_whole(path) => decoded.into_owned(),
                _ => return Err(refuse(text, "has an invalid percent escape")),
            },
            None => path.to_owned(),
        };
        if endpoint.is_empty() {
            return Err(refuse(text, "names no service (expected something like etcd:///service)"));
        }
        Ok(Self {
            text: text.into(),
            scheme: scheme.to_ascii_lowercase(),
            authority: Some(authority).filter(|authority| !authority.is_empty()).map(str::to_owned),
            endpoint,
        })
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn refuse(text: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("target {:?} {why}", without_user(text)))
}

/// The text without what is before an `@`: the URL of a registry in place of a target may contain a password.
fn without_user(text: &str) -> Cow<'_, str> {
    match (text.split_once("://"), text.rfind('@')) {
        (Some((scheme, rest)), Some(at)) if !rest.starts_with('/') => {
            Cow::Owned(format!("{scheme}://…{}", &text[at..]))
        }
        _ => Cow::Borrowed(text),
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
}

fn escapes_are_whole(path: &str) -> bool {
    path.split('%').skip(1).all(|after| {
        let mut digits = after.chars();
        let mut hex = || digits.next().is_some_and(|digit| digit.is_ascii_hexdigit());
        hex() && hex()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(text: &str) -> Result<String> {
        text.parse::<Target>()?.service().map(|name| name.to_string())
    }

    #[test]
    fn targets_are_parsed_as_in_go() {
        for (text, expected) in [
            ("etcd:///svc", "svc"),
            ("etcd:///a/b", "a/b"),
            ("etcd://auth/a/b", "a/b"),
            ("etcd:/a/b", "a/b"),
            ("etcd:a/b", "a/b"),
            ("etcd:svc%2Fx", "svc%2Fx"),
            ("etcd:///a%2Fb", "a/b"),
            ("etcd:///a%20b", "a b"),
            ("etcd:///a b", "a b"),
            ("etcd:///svc?x=1", "svc"),
            ("etcd:///svc#f", "svc"),
            ("etcd:///例え", "例え"),
            ("etcd:///a:b", "a:b"),
            ("ETCD:///svc", "svc"),
        ] {
            assert_eq!(service(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn a_target_for_which_go_silently_finds_nothing_is_refused() {
        for text in [
            "etcd:////a/b",
            "etcd:///svc/",
            "etcd:///a//b",
            "etcd:///",
            "etcd://",
            "etcd:",
            "svc",
            "10.0.0.1:80",
            "etcd:///a%zz",
            "etcd:///a%ff",
            "etcd:///a%2",
        ] {
            let error = service(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
        let leading_slash = service("etcd:////a/b").unwrap_err().report();
        assert!(leading_slash.contains("prefix"), "{leading_slash}");
    }
}
