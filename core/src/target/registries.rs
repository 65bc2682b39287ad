//! The registries that a program knows.

use std::collections::BTreeMap;

use super::Target;
use crate::{Address, Discovery, Instance, Result, ServiceName, StaticResolver};

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

#[cfg(test)]
mod tests {
    use super::*;

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
