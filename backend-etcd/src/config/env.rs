//! Settings from the environment variables of etcdctl.

use std::collections::BTreeMap;
use std::ffi::OsString;

use hither_core::{Error, ErrorKind, Result};

use super::tls_files::TlsFiles;
use super::url::duration;
use super::{EtcdConfig, invalid};

impl EtcdConfig {
    /// Returns the settings that `etcdctl` would use in the same environment.
    ///
    /// | variable | |
    /// |---|---|
    /// | `ETCDCTL_ENDPOINTS` | separated by commas; `127.0.0.1:2379` if it is not set, as for etcdctl |
    /// | `ETCDCTL_USER`, `ETCDCTL_PASSWORD` | `name`, or `name:password` |
    /// | `ETCDCTL_CACERT`, `ETCDCTL_CERT`, `ETCDCTL_KEY` | files in PEM: [`TlsConfig::from_files`](crate::TlsConfig::from_files) |
    /// | `ETCDCTL_DIAL_TIMEOUT`, `ETCDCTL_COMMAND_TIMEOUT` | [`with_connect_timeout`](Self::with_connect_timeout), [`with_request_timeout`](Self::with_request_timeout) |
    ///
    /// Timeouts are as Go writes them ([`parse_duration`](hither_core::parse_duration)). An empty variable counts as unset.
    /// Other variables of etcdctl are ignored, except those with which it would connect to another server, to an
    /// unverified one, or over TLS with the certificate authorities of the system.
    ///
    /// # Errors
    /// `InvalidArgument` when a variable is invalid; `Unsupported` for `ETCDCTL_DISCOVERY_SRV`,
    /// `ETCDCTL_INSECURE_SKIP_TLS_VERIFY`, and `ETCDCTL_INSECURE_TRANSPORT=false` without `ETCDCTL_CACERT`. The error
    /// does not contain a password.
    pub fn from_env() -> Result<Self> {
        from(&etcdctls(std::env::vars_os())?)
    }
}

/// The variables of etcdctl that are set and not empty.
fn etcdctls(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("ETCDCTL_")) else { continue };
        let Ok(value) = value.into_string() else { return Err(invalid(format!("{name} is not UTF-8"))) };
        if !value.is_empty() {
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

/// As Go writes them.
const TRUE: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];
const FALSE: [&str; 6] = ["0", "f", "F", "false", "FALSE", "False"];

fn from(variables: &BTreeMap<String, String>) -> Result<EtcdConfig> {
    let variable = |name: &str| variables.get(name).cloned();
    let unsupported = |message: &'static str| Err(Error::new(ErrorKind::Unsupported, message));
    if variable("ETCDCTL_DISCOVERY_SRV").is_some() {
        return unsupported("ETCDCTL_DISCOVERY_SRV is set: discovery of etcd by DNS is not supported");
    }
    if variable("ETCDCTL_INSECURE_SKIP_TLS_VERIFY").is_some_and(|value| !FALSE.contains(&&*value)) {
        return unsupported("ETCDCTL_INSECURE_SKIP_TLS_VERIFY is set: unverified servers are not supported");
    }
    let plain = variable("ETCDCTL_INSECURE_TRANSPORT").is_none_or(|value| TRUE.contains(&&*value));
    if !plain && variable("ETCDCTL_CACERT").is_none() {
        return unsupported(
            "ETCDCTL_INSECURE_TRANSPORT is false: TLS without ETCDCTL_CACERT is not supported",
        );
    }
    let endpoints = variable("ETCDCTL_ENDPOINTS").unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let mut config = EtcdConfig::new(endpoints.split(','));
    let tls = TlsFiles {
        ca: variable("ETCDCTL_CACERT"),
        certificate: variable("ETCDCTL_CERT"),
        key: variable("ETCDCTL_KEY"),
        server_name: None,
    };
    config = tls.apply(config)?;
    if let Some(user) = variable("ETCDCTL_USER") {
        config = match (user.split_once(':'), variable("ETCDCTL_PASSWORD")) {
            // As etcdctl: if the password is set apart, the user is a name whatever it contains.
            (_, Some(password)) => config.with_user(user, password),
            (Some((name, password)), None) => config.with_user(name, password),
            (None, None) => config.with_user_name(user),
        };
    } else if variable("ETCDCTL_PASSWORD").is_some() {
        return Err(invalid("ETCDCTL_PASSWORD is set without ETCDCTL_USER"));
    }
    if let Some(text) = variable("ETCDCTL_DIAL_TIMEOUT") {
        config = config.with_connect_timeout(duration("ETCDCTL_DIAL_TIMEOUT", &text)?);
    }
    if let Some(text) = variable("ETCDCTL_COMMAND_TIMEOUT") {
        config = config.with_request_timeout(duration("ETCDCTL_COMMAND_TIMEOUT", &text)?);
    }
    config.checked_endpoints()?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn given(variables: &[(&str, &str)]) -> Result<EtcdConfig> {
        from(&etcdctls(variables.iter().map(|(name, value)| (name.into(), value.into())))?)
    }

    #[test]
    fn without_variables_it_is_the_local_etcd() {
        let config = given(&[("ETCDCTL_ENDPOINTS", ""), ("ETCDCTL_API", "3")]).unwrap();
        assert_eq!(config.endpoints(), ["127.0.0.1:2379"]);
        assert_eq!(config.credentials().unwrap(), None);
    }

    #[test]
    fn endpoints_user_and_timeouts_are_read() {
        let config = given(&[
            ("ETCDCTL_ENDPOINTS", "http://h1:2379,h2:2379"),
            ("ETCDCTL_USER", "me:secret"),
            ("ETCDCTL_DIAL_TIMEOUT", "1s"),
            ("ETCDCTL_COMMAND_TIMEOUT", "0.7s"),
            ("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "0"),
            ("ETCDCTL_INSECURE_TRANSPORT", "True"),
        ])
        .unwrap();
        assert_eq!(config.endpoints(), ["http://h1:2379", "h2:2379"]);
        assert_eq!(config.credentials().unwrap(), Some(("me".into(), "secret".into())));
        assert_eq!(config.connect_timeout(), Duration::from_secs(1));
        assert_eq!(config.request_timeout(), Duration::from_millis(700));
        let config = given(&[("ETCDCTL_USER", "me"), ("ETCDCTL_PASSWORD", "se:cret")]).unwrap();
        assert_eq!(config.credentials().unwrap(), Some(("me".into(), "se:cret".into())));
        let config = given(&[("ETCDCTL_USER", "me")]).unwrap();
        assert!(config.check().is_err(), "no password is set");
    }

    #[test]
    fn invalid_and_unsupported_variables_are_refused() {
        for (variables, why) in [
            (&[("ETCDCTL_ENDPOINTS", "nowhere")][..], "nowhere"),
            (&[("ETCDCTL_ENDPOINTS", "https://h:1")], "https://h:1"),
            (&[("ETCDCTL_PASSWORD", "hunter2")], "ETCDCTL_USER"),
            (&[("ETCDCTL_USER", "me:hunter2"), ("ETCDCTL_DIAL_TIMEOUT", "2")], "ETCDCTL_DIAL_TIMEOUT"),
            (&[("ETCDCTL_DISCOVERY_SRV", "example.org")], "ETCDCTL_DISCOVERY_SRV"),
            (&[("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "true")], "ETCDCTL_INSECURE_SKIP_TLS_VERIFY"),
            (&[("ETCDCTL_CERT", "/c"), ("ETCDCTL_KEY", "/k")], "cacert"),
            (&[("ETCDCTL_INSECURE_TRANSPORT", "false")], "ETCDCTL_INSECURE_TRANSPORT"),
            (&[("ETCDCTL_ENDPOINTS", "http://me:hunter2@h:1")], "user"),
        ] {
            let error = given(variables).unwrap_err();
            assert!(error.message().contains(why), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_variable_that_is_not_utf8_is_an_error() {
        use std::os::unix::ffi::OsStringExt;

        let of = |name: &str| etcdctls([(name.into(), OsString::from_vec(vec![0xff]))].into_iter());
        assert!(of("ETCDCTL_CACERT").unwrap_err().message().contains("ETCDCTL_CACERT"));
        assert_eq!(of("OTHER").unwrap(), BTreeMap::new());
    }
}
