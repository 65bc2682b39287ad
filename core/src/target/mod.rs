//! What a client dials: `etcd:///greeter`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;

use crate::{Address, Discovery, Error, ErrorKind, Instance, Result, ServiceName, StaticResolver};

/// A gRPC target: `scheme://authority/service`, as gRPC reads it.
///
/// - `etcd:///svc`, `etcd:/svc` and `etcd:svc` name the same service; the scheme may be in capitals.
/// - The path is percent-decoded; query and fragment are ignored, as Go's resolver ignores them.
/// - An authority, `etcd://main/svc`, names one of several registries of the scheme. Go ignores it in silence;
///   here it must be known to the [`Backends`].
/// - `static:///10.0.0.1:80,10.0.0.2:80` holds the addresses themselves.
///
/// ```
/// use hither_core::Target;
///
/// let target: Target = "etcd:///grpc-demo/grpc/discover-demo".parse()?;
/// assert_eq!(target.scheme(), "etcd");
/// assert_eq!(target.service()?.as_str(), "grpc-demo/grpc/discover-demo");
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    text: Arc<str>,
    scheme: String,
    authority: Option<String>,
    endpoint: String,
}

impl Target {
    /// The scheme, in small letters.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The authority, if one is given.
    pub fn authority(&self) -> Option<&str> {
        self.authority.as_deref()
    }

    /// The part after the authority, decoded, without its leading slash.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The endpoint as the name of a service.
    ///
    /// # Errors
    /// `InvalidArgument` when it is none, such as one with an empty segment.
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
    /// `InvalidArgument` when there is no scheme or no endpoint, or an escape is broken.
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
        // What does not begin with a slash is opaque to URLs: Go does not decode it.
        let endpoint = match path.strip_prefix('/') {
            Some(path) => match percent_decode_str(path).decode_utf8() {
                Ok(decoded) if escapes_are_whole(path) => decoded.into_owned(),
                _ => return Err(refuse(text, "has a percent escape that stands for nothing")),
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

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The registries that a program knows, by scheme, or by scheme and authority.
///
/// Nothing is global: what is not put here is refused. `static:///h:p,h:p` needs no registry and always works.
///
/// ```
/// use hither_core::{Backends, Instance, StaticResolver, Target};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let registry = StaticResolver::new([Instance::new("10.0.0.7:8001".parse()?)]);
/// let backends = Backends::new().with("fixed", registry);
/// let (discovery, service) = backends.resolve(&"fixed:///greeter".parse()?)?;
/// assert_eq!(service.as_str(), "greeter");
/// assert!(backends.resolve(&"etcd:///greeter".parse::<Target>()?).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Backends {
    known: BTreeMap<(String, Option<String>), Discovery>,
}

impl Backends {
    /// No registry yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses `discovery` for targets of `scheme` without an authority: `scheme:///service`.
    #[must_use]
    pub fn with(mut self, scheme: &str, discovery: impl Into<Discovery>) -> Self {
        self.known.insert((scheme.to_ascii_lowercase(), None), discovery.into());
        self
    }

    /// Uses `discovery` for targets of `scheme` with this authority: `scheme://authority/service`.
    #[must_use]
    pub fn with_authority(mut self, scheme: &str, authority: &str, discovery: impl Into<Discovery>) -> Self {
        self.known.insert((scheme.to_ascii_lowercase(), Some(authority.to_owned())), discovery.into());
        self
    }

    /// The registry and the service that `target` names.
    ///
    /// # Errors
    /// `InvalidArgument` when the scheme or the authority is not known, naming those that are, or when the
    /// endpoint is not the name of a service (for `static`, not a list of addresses).
    pub fn resolve(&self, target: &Target) -> Result<(Discovery, ServiceName)> {
        let key = (target.scheme.clone(), target.authority.clone());
        if let Some(discovery) = self.known.get(&key) {
            return Ok((discovery.clone(), target.service()?));
        }
        if target.scheme == "static" && target.authority.is_none() {
            return fixed(target);
        }
        let known: Vec<_> = self
            .known
            .keys()
            .map(|(scheme, authority)| format!("{scheme}://{}/", authority.as_deref().unwrap_or_default()))
            .collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(target.refuse(format_args!("names a registry that is not known here (known: {known})")))
    }
}

fn fixed(target: &Target) -> Result<(Discovery, ServiceName)> {
    let instance = |text: &str| {
        let address = text.trim().parse::<Address>();
        address
            .map(Instance::new)
            .map_err(|error| target.refuse("is no list of addresses").with_source(error))
    };
    let instances = target.endpoint.split(',').map(instance).collect::<Result<Vec<_>>>()?;
    Ok((StaticResolver::new(instances).into(), ServiceName::new("static")?))
}

fn refuse(text: &str, why: impl fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("target {text:?} {why}"))
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
    fn targets_are_read_as_go_reads_them() {
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
    fn where_go_finds_nothing_in_silence_we_refuse() {
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

    #[tokio::test]
    async fn an_authority_must_be_known() {
        let backends = Backends::new().with("etcd", StaticResolver::new([])).with_authority(
            "etcd",
            "main",
            StaticResolver::new([]),
        );
        assert!(backends.resolve(&"etcd:///svc".parse().unwrap()).is_ok());
        assert!(backends.resolve(&"etcd://main/svc".parse().unwrap()).is_ok());
        let error = backends.resolve(&"etcd://other/svc".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("etcd:///, etcd://main/"), "{error}");
        assert!(backends.resolve(&"consul:///svc".parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn a_static_target_holds_its_addresses() {
        let (discovery, service) =
            Backends::new().resolve(&"static:///10.0.0.1:80,[::1]:81".parse().unwrap()).unwrap();
        let snapshot = discovery.service(&service).ready(std::time::Duration::from_secs(1)).await.unwrap();
        let addresses: Vec<_> =
            snapshot.instances().iter().map(|instance| instance.address().to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "[::1]:81"]);
        let error = Backends::new().resolve(&"static:///10.0.0.1".parse().unwrap()).unwrap_err();
        assert!(error.report().contains("has no port"), "{}", error.report());
    }
}
