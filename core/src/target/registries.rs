//! The registries of a program, by the scheme of a target.

use std::collections::BTreeMap;

use super::Target;
use crate::{Discovery, Result, ServiceName, StaticRegistry};

/// The registries of a program by scheme, or by scheme and authority: it resolves targets.
///
/// There is no global state: a target whose registry was not added is refused. `static:///h:p,h:p` needs no registry and
/// always resolves.
///
/// ```
/// use hither_core::{Discovery, Instance, Registries, StaticRegistry, Target};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// let registry = StaticRegistry::new([Instance::new("10.0.0.7:8001".parse()?)]);
/// let registries = Registries::new().with("fixed", Discovery::new(registry));
/// let (discovery, service) = registries.resolve(&"fixed:///greeter".parse()?)?;
/// assert_eq!(service.as_str(), "greeter");
/// assert!(registries.resolve(&"etcd:///greeter".parse::<Target>()?).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Registries {
    by_scheme: BTreeMap<(String, Option<String>), Discovery>,
}

impl Registries {
    /// Returns a set without registries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the registry for targets without an authority: `scheme:///service`.
    #[must_use]
    pub fn with(mut self, scheme: &str, discovery: impl Into<Discovery>) -> Self {
        self.by_scheme.insert((scheme.to_ascii_lowercase(), None), discovery.into());
        self
    }

    /// Adds the registry for targets with this authority: `scheme://authority/service`.
    #[must_use]
    pub fn with_authority(mut self, scheme: &str, authority: &str, discovery: impl Into<Discovery>) -> Self {
        self.by_scheme.insert((scheme.to_ascii_lowercase(), Some(authority.to_owned())), discovery.into());
        self
    }

    /// Returns the registry and the service of a target.
    ///
    /// # Errors
    /// `InvalidArgument` when no registry was added for the scheme and authority (the error lists those that were), or
    /// the endpoint is not the name of a service (for `static`, not a list of addresses).
    pub fn resolve(&self, target: &Target) -> Result<(Discovery, ServiceName)> {
        let key = (target.scheme.clone(), target.authority.clone());
        if let Some(discovery) = self.by_scheme.get(&key) {
            return Ok((discovery.clone(), target.service()?));
        }
        if target.scheme == "static" && target.authority.is_none() {
            return fixed(target);
        }
        let known: Vec<_> = self
            .by_scheme
            .keys()
            .map(|(scheme, authority)| format!("{scheme}://{}/", authority.as_deref().unwrap_or_default()))
            .collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let hint = match &target.authority {
            Some(authority) if authority.contains([':', ',', '@']) => {
                // With an @ it would be a part of a password.
                let service = if target.endpoint.contains('@') { "service" } else { &target.endpoint };
                format!(
                    "; a target has no endpoints of a registry: connect to the registry by its URL, and write the target \
                     as {}:///{service}",
                    target.scheme
                )
            }
            _ => String::new(),
        };
        Err(target.refuse(format_args!("names a registry that was not added (added: {known}){hint}")))
    }
}

/// The registry of a target that lists addresses. Its service is named after the list.
fn fixed(target: &Target) -> Result<(Discovery, ServiceName)> {
    let registry = StaticRegistry::parse(&target.endpoint)
        .map_err(|error| target.refuse("is no list of addresses").with_source(error))?;
    // Paths of Unix sockets have empty segments, which no name has.
    let segments: Vec<_> = target.endpoint.split('/').filter(|segment| !segment.is_empty()).collect();
    Ok((Discovery::new(registry), ServiceName::new(segments.join("/"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Discovery {
        Discovery::new(StaticRegistry::default())
    }

    #[tokio::test]
    async fn an_authority_must_have_been_added() {
        let registries = Registries::new().with("etcd", empty()).with_authority("etcd", "main", empty());
        let mixed_up = registries.resolve(&"etcd://10.0.0.1:2379/svc".parse().unwrap()).unwrap_err();
        let hint = "connect to the registry by its URL, and write the target as etcd:///svc";
        assert!(mixed_up.to_string().contains(hint), "{mixed_up}");
        for url in
            ["etcd://me:hunter2@10.0.0.1:2379/svc", "etcd://me:hun/ter2@h:1/svc", "etcd://me:hunter2@h"]
        {
            let error = url.parse::<Target>().and_then(|target| registries.resolve(&target)).unwrap_err();
            assert!(error.message().contains("\"etcd://…@") && !error.message().contains("ter2"), "{error}");
            assert!(!error.message().contains("hun"), "{error}");
        }
        assert!(registries.resolve(&"etcd:///svc".parse().unwrap()).is_ok());
        assert!(registries.resolve(&"etcd://main/svc".parse().unwrap()).is_ok());
        let error = registries.resolve(&"etcd://other/svc".parse().unwrap()).unwrap_err();
        assert!(error.to_string().contains("etcd:///, etcd://main/"), "{error}");
        assert!(registries.resolve(&"consul:///svc".parse().unwrap()).is_err());
    }

    #[tokio::test]
    async fn a_static_target_is_its_list_of_addresses() {
        let (discovery, service) =
            Registries::new().resolve(&"static:///10.0.0.1:80,[::1]:81".parse().unwrap()).unwrap();
        let snapshot =
            discovery.service(&service).wait_ready(std::time::Duration::from_secs(1)).await.unwrap();
        let addresses: Vec<_> = snapshot.iter().map(|instance| instance.address().to_string()).collect();
        assert_eq!(addresses, ["10.0.0.1:80", "[::1]:81"]);
        assert_eq!(service.as_str(), "10.0.0.1:80,[::1]:81", "and not the name of the scheme");
        let (_, sockets) =
            Registries::new().resolve(&"static:///unix:///run/a,unix:/b".parse().unwrap()).unwrap();
        assert_eq!(sockets.as_str(), "unix:/run/a,unix:/b");
        let url = Registries::new().resolve(&"static:///http://h:80".parse().unwrap()).unwrap_err();
        assert!(url.report().contains("is a URL"), "{}", url.report());
        let error = Registries::new().resolve(&"static:///10.0.0.1".parse().unwrap()).unwrap_err();
        assert!(error.report().contains("has no port"), "{}", error.report());
    }
}
