//! Opens a registry from its URL.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hither_core::{Error, ErrorKind, Registry, Result, StaticRegistry};
#[cfg(feature = "etcd")]
use hither_etcd::{EtcdConfig, EtcdRegistry};
#[cfg(feature = "memory")]
use hither_memory::MemoryRegistry;

/// The forms of a registry URL, for error texts.
const ETCD: &str = "etcd://host:port,host:port/prefix";
const MEMORY: &str = "memory://name";
const STATIC: &str = "static://host:port,host:port";

/// Opens the registry of a URL, so that configuration chooses it.
///
/// | URL | registry | feature |
/// |---|---|---|
/// | `etcd://h1:2379,h2:2379/prefix?request_timeout=2s` | etcd: `EtcdRegistry`; `EtcdConfig` lists the parameters | `etcd` |
/// | `memory://name` | in this process: `MemoryRegistry::named` | `memory` |
/// | `static://10.0.0.1:80,10.0.0.2:80` | a fixed list of addresses, the same for every service: [`StaticRegistry`] | |
///
/// It connects lazily: a registry that cannot be reached is an error of the calls on it, not of this one. Each call
/// returns another registrar, so a program calls it once and shares the result.
///
/// A target such as `etcd:///greeter`, which names a service, is no registry URL: see [`Target`](crate::Target).
///
/// ```
/// use hither::{Instance, Registration, RegistrationConfig, Resolver, keep_registered};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither::Result<()> {
/// # fn configured() -> String { "memory://shop".into() }
/// let registry = hither::connect(&configured())?;
/// let registration = Registration::new("greeter".parse()?, Instance::new("10.0.0.7:8001".parse()?))?;
/// let handle = keep_registered(registry.clone(), registration, RegistrationConfig::default());
/// handle.registered().await?;
/// assert_eq!(registry.resolve(&"greeter".parse()?).await?.len(), 1);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `InvalidArgument` when the text is not one of these URLs, and `Unsupported` when its feature is off. The error never
/// contains a user or a password.
pub fn connect(url: &str) -> Result<Arc<dyn Registry>> {
    url.parse::<RegistryUrl>()?.connect()
}

/// A parsed registry URL, for programs that check their configuration before they connect.
///
/// Display and Debug omit the user and the password.
///
/// ```
/// # #[cfg(feature = "etcd")] {
/// use hither::RegistryUrl;
///
/// let url: RegistryUrl = "etcd://me:secret@10.0.0.1:2379/production".parse()?;
/// assert_eq!(url.to_string(), "etcd://10.0.0.1:2379/production");
/// let registry = url.connect()?;
/// # }
/// # Ok::<(), hither::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RegistryUrl {
    /// The URL without user and password.
    text: String,
    location: Location,
}

#[derive(Debug, Clone)]
enum Location {
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdConfig>),
    #[cfg(feature = "memory")]
    Memory(String),
    Static(StaticRegistry),
}

impl RegistryUrl {
    /// Opens the registry: see [`connect`](connect()).
    ///
    /// # Errors
    /// `InvalidArgument` when files that the URL names, such as a certificate or a password, cannot be used.
    pub fn connect(&self) -> Result<Arc<dyn Registry>> {
        Ok(match &self.location {
            #[cfg(feature = "etcd")]
            Location::Etcd(config) => Arc::new(EtcdRegistry::connect((**config).clone())?),
            #[cfg(feature = "memory")]
            Location::Memory(name) => Arc::new(MemoryRegistry::named(name)),
            Location::Static(registry) => Arc::new(registry.clone()),
        })
    }
}

impl FromStr for RegistryUrl {
    type Err = Error;

    /// # Errors
    /// As [`connect`](connect()).
    fn from_str(text: &str) -> Result<Self> {
        let (scheme, behind) = text.split_once(':').unwrap_or(("", text));
        let scheme = scheme.to_ascii_lowercase();
        let rest = behind.strip_prefix("//");
        let location = match (scheme.as_str(), rest) {
            ("etcd", _) => etcd(text, rest.unwrap_or_default())?,
            ("memory", _) => memory(text, rest.unwrap_or_default())?,
            ("static", _) => fixed(text, rest.unwrap_or_default())?,
            (_, Some(_)) => {
                return Err(invalid(format!(
                    "{scheme:?} is no scheme of a registry URL (expected {ETCD}, {MEMORY} or {STATIC})"
                )));
            }
            (_, None) => {
                return Err(refuse(
                    text,
                    format_args!("has no scheme (expected {ETCD}, {MEMORY} or {STATIC})"),
                ));
            }
        };
        let rest = rest.unwrap_or_default();
        let secret = authority(rest).rfind('@').map_or(0, |at| at + 1);
        Ok(Self { text: format!("{scheme}://{}", &rest[secret..]), location })
    }
}

impl TryFrom<&str> for RegistryUrl {
    type Error = Error;

    fn try_from(url: &str) -> Result<Self> {
        url.parse()
    }
}

impl TryFrom<String> for RegistryUrl {
    type Error = Error;

    fn try_from(url: String) -> Result<Self> {
        url.parse()
    }
}

impl fmt::Display for RegistryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// From a string. There is no `Serialize`, because Display omits the password.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for RegistryUrl {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.report()))
    }
}

#[cfg(feature = "etcd")]
fn etcd(text: &str, rest: &str) -> Result<Location> {
    if authority(rest).is_empty() {
        return Err(without_authority(text, "endpoint", ETCD));
    }
    let config = format!("etcd://{rest}").parse::<EtcdConfig>().map_err(|error| match error.kind() {
        // Its own error names the feature of hither-etcd.
        #[cfg(not(feature = "etcd-tls"))]
        ErrorKind::Unsupported => feature_off("TLS to etcd", "etcd-tls"),
        _ => error,
    })?;
    Ok(Location::Etcd(Box::new(config)))
}

#[cfg(not(feature = "etcd"))]
fn etcd(_: &str, _: &str) -> Result<Location> {
    Err(feature_off("a registry URL with the scheme etcd", "etcd"))
}

#[cfg(feature = "memory")]
fn memory(text: &str, rest: &str) -> Result<Location> {
    if authority(rest).is_empty() {
        return Err(without_authority(text, "name", MEMORY));
    }
    if rest.contains(|c: char| c.is_whitespace() || c.is_control() || "/?#@,".contains(c)) {
        return Err(refuse(text, format_args!("has more than a name (expected {MEMORY})")));
    }
    Ok(Location::Memory(rest.to_owned()))
}

#[cfg(not(feature = "memory"))]
fn memory(_: &str, _: &str) -> Result<Location> {
    Err(feature_off("a registry URL with the scheme memory", "memory"))
}

fn fixed(text: &str, rest: &str) -> Result<Location> {
    if rest.contains('@') {
        return Err(refuse(
            text,
            format_args!("has a user, and a list of addresses has none (expected {STATIC})"),
        ));
    }
    if authority(rest).is_empty() {
        return Err(match path(text) {
            "" => refuse(text, format_args!("has no address (expected {STATIC})")),
            addresses => {
                refuse(text, format_args!("is a target: write the registry as static://{addresses}"))
            }
        });
    }
    let registry = StaticRegistry::parse(rest).map_err(|error| {
        refuse(text, format_args!("has an invalid address (expected {STATIC})")).with_source(error)
    })?;
    Ok(Location::Static(registry))
}

/// What names the registry: endpoints or a name, with a user in front of them.
fn authority(rest: &str) -> &str {
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// What a text without an authority names: the service of the targets `etcd:///service` and `etcd:service`.
fn path(text: &str) -> &str {
    let behind = text.split_once(':').map_or("", |(_, behind)| behind);
    behind.trim_start_matches('/').split(['?', '#']).next().unwrap_or_default()
}

#[cfg(any(feature = "etcd", feature = "memory"))]
fn without_authority(text: &str, what: &str, expected: &str) -> Error {
    match path(text) {
        service if service.is_empty() || service.contains('@') => {
            refuse(text, format_args!("has no {what} (expected {expected})"))
        }
        service => refuse(
            text,
            format_args!(
                "has no {what}: it is a target; write the registry as {expected}, and name the service {service:?} apart"
            ),
        ),
    }
}

#[cfg(not(all(feature = "etcd-tls", feature = "memory")))]
fn feature_off(what: &str, feature: &str) -> Error {
    let message =
        format!("{what} needs the feature {feature:?} of the crate hither, which is off in this program");
    Error::new(ErrorKind::Unsupported, message)
}

/// The text before an @ may be a password, so it is not repeated.
fn refuse(text: &str, why: impl fmt::Display) -> Error {
    let text = text.rfind('@').map_or(text.into(), |at| Cow::Owned(format!("…{}", &text[at..])));
    invalid(format!("registry URL {text:?} {why}"))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use hither_core::{Discovery, Registries, Resolver, ServiceName, Target};

    use super::*;

    fn refused(url: &str) -> Error {
        url.parse::<RegistryUrl>().map(|url| url.to_string()).unwrap_err()
    }

    fn greeter() -> ServiceName {
        "greeter".parse().unwrap()
    }

    #[tokio::test]
    async fn a_list_of_addresses_opens_a_static_registry() {
        for url in ["static://10.0.0.1:80,10.0.0.2:80", "static://unix:///run/a.sock,greeter.internal:80"] {
            let snapshot = connect(url).unwrap().resolve(&greeter()).await.unwrap();
            let addresses: Vec<_> = snapshot.iter().map(|instance| instance.address().to_string()).collect();
            let mut expected: Vec<_> = url.trim_start_matches("static://").split(',').collect();
            expected.sort_unstable();
            assert_eq!(addresses, expected);
        }
    }

    #[cfg(feature = "memory")]
    #[tokio::test]
    async fn a_name_opens_the_same_registry_in_memory_as_another_registrar() {
        use hither_core::{Claim, Instance, Registrar, Registration};

        let registration =
            Registration::new(greeter(), Instance::new("10.0.0.7:8001".parse().unwrap())).unwrap();
        let first = connect("memory://facade").unwrap();
        let _lease = first.register(&registration, Claim::TakeOver).await.unwrap();
        let second = connect("MEMORY://facade").unwrap();
        assert_eq!(second.resolve(&greeter()).await.unwrap().len(), 1);
        let error = second.register(&registration, Claim::IfVacant).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Superseded);
        assert!(connect("memory://other").unwrap().resolve(&greeter()).await.unwrap().is_empty());
    }

    #[cfg(feature = "etcd")]
    #[tokio::test]
    async fn endpoints_open_etcd_without_connecting() {
        let registry = connect("etcd://127.0.0.1:1,[::1]:1/production?connect_timeout=200ms").unwrap();
        let error = registry.resolve(&greeter()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    }

    #[test]
    fn a_url_is_displayed_without_its_user() {
        for (url, displayed) in [
            #[cfg(feature = "etcd")]
            ("ETCD://me:hunter2@h1:1,h2:2/p?nested_ids=true", "etcd://h1:1,h2:2/p?nested_ids=true"),
            #[cfg(feature = "memory")]
            ("memory://shop", "memory://shop"),
            ("Static://10.0.0.1:80", "static://10.0.0.1:80"),
        ] {
            let parsed: RegistryUrl = url.parse().unwrap();
            assert_eq!(parsed.to_string(), displayed);
            assert!(!format!("{parsed:?}").contains("hunter2"), "{parsed:?}");
        }
    }

    #[cfg(feature = "serde")]
    #[test]
    fn a_url_is_deserialized_from_a_string() {
        let url: RegistryUrl = serde_json::from_str(r#""static://10.0.0.1:80""#).unwrap();
        assert_eq!(url.to_string(), "static://10.0.0.1:80");
        let error =
            serde_json::from_str::<RegistryUrl>(r#""consul://me:hunter2@h""#).unwrap_err().to_string();
        assert!(error.contains("\"consul\" is no scheme") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn an_invalid_url_is_named_with_what_to_write() {
        const ANY: &str =
            "(expected etcd://host:port,host:port/prefix, memory://name or static://host:port,host:port)";
        for (url, why) in [
            ("", format!("registry URL \"\" has no scheme {ANY}")),
            ("127.0.0.1:2379", format!("registry URL \"127.0.0.1:2379\" has no scheme {ANY}")),
            ("consul://127.0.0.1:8500", format!("\"consul\" is no scheme of a registry URL {ANY}")),
            ("static://", "registry URL \"static://\" has no address (expected static://host:port,host:port)".into()),
            (
                "static://10.0.0.1",
                "registry URL \"static://10.0.0.1\" has an invalid address (expected static://host:port,host:port): \
                 invalid argument: address \"10.0.0.1\" has no port (expected host:port, [v6]:port or unix:///path)"
                    .into(),
            ),
            #[cfg(feature = "memory")]
            ("memory://", "registry URL \"memory://\" has no name (expected memory://name)".into()),
            #[cfg(feature = "memory")]
            ("memory://a/b", "registry URL \"memory://a/b\" has more than a name (expected memory://name)".into()),
            #[cfg(feature = "etcd")]
            (
                "etcd://",
                "registry URL \"etcd://\" has no endpoint (expected etcd://host:port,host:port/prefix)".into(),
            ),
            #[cfg(feature = "etcd")]
            (
                "etcd://h",
                "\"h\" is not an etcd endpoint (expected host:port): invalid argument: address \"h\" has no port \
                 (expected host:port, [v6]:port or unix:///path)"
                    .into(),
            ),
            #[cfg(feature = "etcd")]
            (
                "etcd://[::1]",
                "\"[::1]\" is not an etcd endpoint (expected host:port): invalid argument: address \"[::1]\" has no port \
                 between 0 and 65535 (expected host:port, [v6]:port or unix:///path)"
                    .into(),
            ),

        ] {
            let error = refused(url);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{url}");
            assert_eq!(error.report(), format!("invalid argument: {why}"), "{url}");
        }
    }

    #[test]
    fn a_target_where_a_registry_url_is_expected_is_refused_with_a_hint() {
        for (target, expected) in [
            #[cfg(feature = "etcd")]
            (
                "etcd:///team/greeter",
                "has no endpoint: it is a target; write the registry as etcd://host:port,host:port/prefix, and name \
                 the service \"team/greeter\" apart",
            ),
            #[cfg(feature = "etcd")]
            (
                "etcd:greeter",
                "has no endpoint: it is a target; write the registry as etcd://host:port,host:port/prefix, and name \
                 the service \"greeter\" apart",
            ),
            #[cfg(feature = "memory")]
            (
                "memory:///greeter",
                "has no name: it is a target; write the registry as memory://name, and name the service \"greeter\" \
                 apart",
            ),
            (
                "static:///10.0.0.1:80,10.0.0.2:80",
                "is a target: write the registry as static://10.0.0.1:80,10.0.0.2:80",
            ),
        ] {
            assert!(target.parse::<Target>().is_ok(), "{target}");
            let error = refused(target);
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{target}");
            assert_eq!(error.message(), format!("registry URL {target:?} {expected}"));
        }
    }

    #[tokio::test]
    async fn a_registry_url_where_a_target_is_expected_is_refused_with_a_hint() {
        let registries = Registries::new().with("etcd", Discovery::new(StaticRegistry::default()));
        for (url, shown) in [
            ("etcd://10.0.0.1:2379/greeter", "etcd://10.0.0.1:2379/greeter"),
            ("etcd://h1:2379,h2:2379/greeter", "etcd://h1:2379,h2:2379/greeter"),
            ("etcd://me:hunter2@10.0.0.1:2379/greeter", "etcd://…@10.0.0.1:2379/greeter"),
        ] {
            let target: Target = url.parse().unwrap();
            let error = registries.resolve(&target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert_eq!(
                error.message(),
                format!(
                    "target {shown:?} names a registry that was not added (added: etcd:///); a target has no endpoints \
                     of a registry: connect to the registry by its URL, and write the target as etcd:///greeter"
                )
            );
        }
    }

    /// `cargo xtask ci` runs it without features.
    #[cfg(not(all(feature = "etcd-tls", feature = "memory")))]
    #[test]
    fn a_feature_that_is_off_is_named() {
        for (url, feature) in [
            #[cfg(not(feature = "etcd"))]
            ("etcd://10.0.0.1:2379", "etcd"),
            #[cfg(all(feature = "etcd", not(feature = "etcd-tls")))]
            ("etcd://10.0.0.1:2379?cacert=/ca.pem", "etcd-tls"),
            #[cfg(not(feature = "memory"))]
            ("memory://shop", "memory"),
        ] {
            let error = refused(url);
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{url}");
            assert!(error.message().contains(&format!("needs the feature {feature:?}")), "{error}");
        }
    }

    #[test]
    fn no_error_contains_a_password() {
        for url in [
            "etcd://me:hunter2@h",
            "etcd://me:hunter2@h:1?x=1",
            "etcd://me:hunter2@/prefix",
            "etcd:///me:hunter2@h:1",
            "etcd:me:hunter2@h:1",
            "etcd:/me:hunter2@h:1/prefix",
            "etcd://me:hunter2/x@h:1",
            "me:hunter2@h:1",
            "//me:hunter2@h:1",
            "http://me:hunter2@h:1",
            "memory://me:hunter2@shop",
            "memory:///me:hunter2@shop",
            "static://me:hunter2@10.0.0.1:80",
            "static:///me:hunter2@10.0.0.1:80",
        ] {
            let error = refused(url);
            assert!(!format!("{error:?} {}", error.report()).contains("hunter2"), "{error:?}");
        }
    }
}
