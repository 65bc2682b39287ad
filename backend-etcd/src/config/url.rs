//! Settings from a registry URL.

use std::str::FromStr;
use std::time::Duration;

use hither_core::{Error, Result, parse_duration};
use percent_encoding::percent_decode_str;

use super::tls_files::TlsFiles;
use super::{EtcdConfig, invalid};

impl FromStr for EtcdConfig {
    type Err = Error;

    /// Parses `etcd://user:password@h1:2379,h2:2379/prefix?parameter=value&…`; only one endpoint is required. Everything but
    /// the endpoints is percent-encoded.
    ///
    /// | parameter | |
    /// |---|---|
    /// | `password_file` | [`with_password_file`](Self::with_password_file), for `user@` |
    /// | `cacert`, `cert`, `key` | files in PEM, as etcdctl's flags: [`TlsConfig::from_files`](crate::TlsConfig::from_files) |
    /// | `server_name` | [`TlsConfig::with_server_name`](crate::TlsConfig::with_server_name) |
    /// | `connect_timeout`, `request_timeout`, `probe_interval`, `resync_interval` | `2s`, `500ms`, `1m30s`: [`parse_duration`] |
    /// | `nested_ids` | `true` or `false` |
    /// | `layout` | `etcd`, `kratos`, `kratos-tls`, `go-zero` or `kitex`: [`with_layout`](Self::with_layout) |
    ///
    /// ```
    /// use hither_etcd::EtcdConfig;
    ///
    /// let config: EtcdConfig = "etcd://10.0.0.1:2379,10.0.0.2:2379/production?request_timeout=2s".parse()?;
    /// assert_eq!(config.prefix(), "production");
    /// # Ok::<(), hither_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// `InvalidArgument` when the text is not a URL of this form, or has an invalid endpoint, or a parameter that is unknown,
    /// given twice or invalid. The error does not contain a password.
    fn from_str(url: &str) -> Result<Self> {
        let Some(rest) = url.strip_prefix("etcd://") else {
            return Err(invalid("an etcd URL begins with etcd:// (etcd://h1:2379,h2:2379/prefix)"));
        };
        if rest.contains('#') {
            return Err(invalid("an etcd URL has no fragment"));
        }
        let (authority, behind) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (user, endpoints) = match authority.rsplit_once('@') {
            Some((user, endpoints)) => (Some(user), endpoints),
            None => (None, authority),
        };
        // Any part of the text may belong to a password, so the error contains none.
        if behind.contains('@') || user.is_some_and(|user| user.contains('@')) {
            return Err(invalid(
                "an etcd URL has one @, after the user; elsewhere it is %40, and in a password / is %2F and ? is %3F",
            ));
        }
        let (path, query) = behind.split_once('?').unwrap_or((behind, ""));
        let path = path.strip_prefix('/').unwrap_or(path);
        let mut config = Self::new(endpoints.split(','));
        if !path.is_empty() {
            config = config.with_prefix(decoded(path)?);
        }
        if let Some(user) = user {
            config = match user.split_once(':') {
                Some((name, password)) => config.with_user(decoded(name)?, decoded(password)?),
                None => config.with_user_name(decoded(user)?),
            };
        }
        config = Parameters::read(query)?.apply(config)?;
        config.checked_endpoints()?;
        Ok(config)
    }
}

/// The query parameters, each given once.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn read(query: &str) -> Result<Self> {
        let mut read: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if value.is_empty() {
                return Err(invalid(format!("the parameter {name:?} of an etcd URL has no value")));
            }
            if read.iter().any(|(known, _)| *known == name) {
                return Err(invalid(format!("the parameter {name:?} of an etcd URL is given twice")));
            }
            read.push((name, value));
        }
        Ok(Self(read))
    }

    fn apply(self, mut config: EtcdConfig) -> Result<EtcdConfig> {
        let mut tls = TlsFiles::default();
        for (name, value) in self.0 {
            match name.as_str() {
                "password_file" => config = config.with_password_file(value),
                "cacert" => tls.ca = Some(value),
                "cert" => tls.certificate = Some(value),
                "key" => tls.key = Some(value),
                "server_name" => tls.server_name = Some(value),
                "connect_timeout" => config = config.with_connect_timeout(duration(&name, &value)?),
                "request_timeout" => config = config.with_request_timeout(duration(&name, &value)?),
                "probe_interval" => config = config.with_probe_interval(duration(&name, &value)?),
                "resync_interval" => config = config.with_resync_interval(duration(&name, &value)?),
                "layout" => config = config.with_layout(value.parse()?),
                "nested_ids" => config = config.with_nested_ids(boolean(&name, &value)?),
                _ => return Err(invalid(format!("an etcd URL has no parameter {name:?}"))),
            }
        }
        tls.apply(config)
    }
}

fn decoded(text: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(invalid("an etcd URL has percent-encoded bytes that are not UTF-8")),
    }
}

fn boolean(name: &str, text: &str) -> Result<bool> {
    text.parse().map_err(|_| invalid(format!("{name} must be true or false, not {text:?}")))
}

/// Parses a duration as Go and etcdctl write it.
pub(super) fn duration(name: &str, text: &str) -> Result<Duration> {
    parse_duration(text).map_err(|error| invalid(format!("{name}: {}", error.message())))
}

#[cfg(test)]
mod tests {
    use hither_core::ErrorKind;

    use super::*;
    use crate::Layout;

    #[test]
    fn a_url_has_endpoints_prefix_and_user() {
        let config: EtcdConfig = "etcd://me:p%40ss@h1:2379,[::1]:2379//a%20b/c".parse().unwrap();
        assert_eq!(config.endpoints(), ["h1:2379", "[::1]:2379"]);
        assert_eq!(config.prefix(), "/a b/c");
        assert_eq!(config.credentials().unwrap(), Some(("me".to_owned(), "p@ss".to_owned())));
        assert_eq!("etcd://h:1".parse::<EtcdConfig>().unwrap().prefix(), "");
        assert_eq!("etcd://h:1/".parse::<EtcdConfig>().unwrap().prefix(), "");
    }

    #[test]
    fn a_url_has_parameters() {
        let config: EtcdConfig = "etcd://h:1/p?connect_timeout=1s&request_timeout=1.5s&probe_interval=1m30s\
                                    &resync_interval=1h&nested_ids=true"
            .parse()
            .unwrap();
        assert_eq!(config.connect_timeout(), Duration::from_secs(1));
        assert_eq!(config.request_timeout(), Duration::from_millis(1500));
        assert_eq!(config.probe_interval(), Duration::from_secs(90));
        assert_eq!(config.resync_interval, Duration::from_secs(3600));
        assert!(config.nested_ids());
        let config: EtcdConfig = "etcd://h:1?layout=kratos".parse().unwrap();
        assert_eq!((config.layout(), config.prefix()), (Layout::Kratos, "/microservices"));
        let config: EtcdConfig = "etcd://h:1/mine?layout=kitex".parse().unwrap();
        assert_eq!((config.layout(), config.prefix()), (Layout::Kitex, "mine"));
    }

    #[test]
    fn a_password_may_be_set_apart() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pass word");
        std::fs::write(&file, "secret\n").unwrap();
        let path = file.to_str().unwrap().replace(' ', "%20");
        let config: EtcdConfig = format!("etcd://me@h:1?password_file={path}").parse().unwrap();
        assert_eq!(config.credentials().unwrap(), Some(("me".to_owned(), "secret".to_owned())));
        let config: EtcdConfig = "etcd://me@h:1".parse().unwrap();
        assert_eq!(config.check().unwrap_err().kind(), ErrorKind::InvalidArgument);
        config.with_password("secret").check().unwrap();
    }

    #[test]
    fn an_invalid_url_is_refused() {
        for (bad, why) in [
            ("", "etcd://"),
            ("h:1", "etcd://"),
            ("http://h:1", "etcd://"),
            ("etcd://", "\"\""),
            ("etcd://h", "\"h\""),
            ("etcd://h:1,", "\"\""),
            ("etcd://h:1#x", "fragment"),
            ("etcd://h:1?x=1", "\"x\""),
            ("etcd://h:1?nested_ids=true&nested_ids=true", "\"nested_ids\" of an etcd URL is given twice"),
            ("etcd://h:1?nested_ids", "\"nested_ids\" of an etcd URL has no value"),
            ("etcd://h:1?nested_ids=yes", "\"yes\""),
            ("etcd://h:1?layout=consul", "\"consul\""),
            ("etcd://h:1?connect_timeout=2", "connect_timeout"),
            ("etcd://h:1?connect_timeout=s", "connect_timeout"),
            ("etcd://h:1?connect_timeout=99999999999999999999h", "connect_timeout"),
            ("etcd://h:1?cert=/c&key=/k", "cacert"),
            ("etcd://h:1?server_name=x", "cacert"),
            ("etcd://h:1/%ff", "UTF-8"),
            ("etcd://${HOST}:1", "${HOST}…"),
            ("etcd://a|b:1", "a|b…"),
            ("etcd://etcd.例え.jp:1", "etcd.例え.jp…"),
            ("etcd://h:1/a@b", "%40"),
        ] {
            let error = bad.parse::<EtcdConfig>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
            assert!(error.message().contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let config: EtcdConfig = "etcd://me:hunter2@h:1".parse().unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        for bad in [
            "etcd://me:hunter2@h",
            "etcd://me:hunter2@h:1?x=1",
            "etcd://me:hunter2@h:1#x",
            "me:hunter2@h:1",
            "etcd://me:1/hunter2@h:1",
            "etcd://me:hunter2/=@h:1",
            "etcd://me:hunter2?b@h:1",
            "etcd://me:hunter2@h1:1,me:hunter2@h2:1",
            "etcd://me:hunter2%40h:1",
            "etcd://me:hunter2",
        ] {
            let error = bad.parse::<EtcdConfig>().unwrap_err();
            assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
        }
    }
}
