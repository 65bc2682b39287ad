//! Settings: endpoints, credentials, TLS, layout and timeouts.

mod credentials;
mod endpoint;
mod env;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod tls_files;
mod url;

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hither_core::{Error, ErrorKind, Result};

use credentials::{Password, without_password};
use endpoint::shown;

use crate::Layout;
#[cfg(feature = "tls")]
use crate::TlsConfig;

/// The settings of [`EtcdRegistry::connect`](crate::EtcdRegistry::connect): endpoints, credentials, TLS, layout and
/// timeouts.
///
/// From a list of endpoints; from a URL, `etcd://user@h1:2379,h2:2379/prefix?password_file=/run/etcd/password`
/// ([`FromStr`](#impl-FromStr-for-EtcdConfig)); or from the variables that etcdctl takes ([`from_env`](Self::from_env)).
///
/// ```
/// use std::time::Duration;
/// use hither_etcd::EtcdConfig;
///
/// let config = EtcdConfig::new(["10.0.0.1:2379", "10.0.0.2:2379"])
///     .with_prefix("production")
///     .with_request_timeout(Duration::from_secs(2));
/// let same: EtcdConfig = "etcd://10.0.0.1:2379,10.0.0.2:2379/production".parse()?;
/// assert_eq!(same.endpoints(), config.endpoints());
/// assert_eq!(same.prefix(), "production");
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Clone)]
pub struct EtcdConfig {
    endpoints: Vec<String>,
    layout: Layout,
    prefix: Option<String>,
    nested_ids: bool,
    user: Option<String>,
    password: Option<Password>,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
    connect_timeout: Duration,
    request_timeout: Duration,
    probe_interval: Duration,
    resync_interval: Duration,
}

impl EtcdConfig {
    /// Returns the default settings for the endpoints of one etcd cluster, each `host:port` or `http://host:port`. They are
    /// checked by [`EtcdRegistry::connect`](crate::EtcdRegistry::connect).
    ///
    /// The list is fixed: members that join the cluster later are not discovered. A name is resolved anew for each
    /// connection, so names outlive the replacement of a member.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            layout: Layout::default(),
            prefix: None,
            nested_ids: false,
            user: None,
            password: None,
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(3),
            probe_interval: Duration::from_secs(5),
            resync_interval: Duration::from_secs(300),
        }
    }

    /// Sets the format of records, and with it the default prefix. Default: [`Layout::EtcdNaming`].
    #[must_use]
    pub fn with_layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Sets the prefix of every key, before the service name. Default: that of the layout, for [`Layout::EtcdNaming`] none. A
    /// `/` is inserted after a prefix that does not end with one; a leading `/` is kept.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// Sets whether service `a` includes the instances of `a/b`, under ids such as `b/10.0.0.1:80`: the rule of Go's
    /// `naming/endpoints`. Default: off; a key below a service belongs to a deeper service, unless its rest is the address
    /// itself.
    #[must_use]
    pub fn with_nested_ids(mut self, nested_ids: bool) -> Self {
        self.nested_ids = nested_ids;
        self
    }

    /// Sets user and password. The token is renewed when etcd no longer accepts it. If authentication is disabled in etcd, the
    /// registry connects without credentials, as Go's client does, and logs a warning.
    #[must_use]
    pub fn with_user(self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.with_user_name(name).with_password(password)
    }

    /// Sets the user alone; the password is set apart.
    #[must_use]
    pub fn with_user_name(mut self, name: impl Into<String>) -> Self {
        self.user = Some(name.into());
        self
    }

    /// Sets the password of the user.
    #[must_use]
    pub fn with_password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(Password::Text(password.into()));
        self
    }

    /// Sets a file whose first line is the password of the user. It is read anew after a call has failed, so a password that
    /// is changed needs no restart.
    #[must_use]
    pub fn with_password_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.password = Some(Password::File(file.into()));
        self
    }

    /// Uses TLS for every endpoint.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: TlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets the timeout of connecting to one endpoint, authentication and a first response included. Default: 2 s.
    ///
    /// If no connection is open, the endpoints are tried one after the other: a call may wait for all of them, and for up to
    /// half a second of jitter more where etcd was not ready (thundering herd).
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the timeout of one request. After it the next request goes to the next endpoint. Default: 3 s.
    ///
    /// A listing of several pages has ten times that.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Sets the idle time after which a watch is probed. Default: 5 s.
    ///
    /// A probe is a progress request, and one linearizable read for all watches of a connection, which proves that the member
    /// is not stale; the connection is dropped if the read takes longer than the request timeout. A watch whose progress
    /// request is not answered is compared with a listing, and ends if it has missed something.
    #[must_use]
    pub fn with_probe_interval(mut self, interval: Duration) -> Self {
        self.probe_interval = interval;
        self
    }

    /// Sets how often a watch is compared with a complete listing, give or take a fifth (jitter): a safety net for events
    /// that etcd lost. Default: 5 min.
    #[must_use]
    pub fn with_resync_interval(mut self, interval: Duration) -> Self {
        self.resync_interval = interval;
        self
    }

    /// Returns the endpoints, as they were given.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Returns the prefix, as it was given, or that of the layout.
    pub fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_else(|| self.layout.prefix())
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn nested_ids(&self) -> bool {
        self.nested_ids
    }

    pub(crate) fn has_user(&self) -> bool {
        self.user.is_some()
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<&TlsConfig> {
        self.tls.as_ref()
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn probe_interval(&self) -> Duration {
        self.probe_interval
    }

    /// Give or take a fifth: watches that began together are not compared together (jitter).
    pub(crate) fn jittered_resync_interval(&self) -> Duration {
        self.resync_interval.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    /// Checks everything but the endpoints.
    pub(crate) fn check(&self) -> Result<()> {
        for (name, time) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("probe_interval", self.probe_interval),
            ("resync_interval", self.resync_interval),
        ] {
            if time.is_zero() || time > LONGEST {
                return Err(invalid(format!(
                    "{name} of etcd is {time:?} (expected above zero, at most a year)"
                )));
            }
        }
        self.credentials()?;
        #[cfg(feature = "tls")]
        self.tls.as_ref().map_or(Ok(()), TlsConfig::check)?;
        Ok(())
    }

    /// The endpoints as `host:port`.
    pub(crate) fn checked_endpoints(&self) -> Result<Vec<String>> {
        if self.endpoints.is_empty() {
            return Err(invalid("etcd needs at least one endpoint"));
        }
        self.endpoints.iter().map(|endpoint| endpoint::checked(endpoint, self.is_secure())).collect()
    }

    fn is_secure(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.endpoints.iter().map(|endpoint| shown(endpoint)).collect();
        let mut debug = f.debug_struct("EtcdConfig");
        debug
            .field("endpoints", &endpoints)
            .field("layout", &self.layout)
            .field("prefix", &self.prefix())
            .field("nested_ids", &self.nested_ids);
        debug.field("user", &self.user.as_deref().map(without_password));
        #[cfg(feature = "tls")]
        debug.field("tls", &self.tls);
        debug
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("probe_interval", &self.probe_interval)
            .field("resync_interval", &self.resync_interval)
            .finish()
    }
}

/// A file that is a part of the settings.
pub(crate) fn read(file: &Path, what: &str) -> Result<Vec<u8>> {
    std::fs::read(file)
        .map_err(|error| invalid(format!("{what} cannot be read from {}", file.display())).with_source(error))
}

/// The longest timeout: sums with it do not overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fn invalid(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        let checked = |endpoint: &str| EtcdConfig::new([endpoint]).checked_endpoints();
        assert_eq!(checked("h:1").unwrap(), ["h:1"]);
        assert_eq!(checked("http://h:1/").unwrap(), ["h:1"]);
        assert_eq!(checked("etcd-1.my_zone:1").unwrap(), ["etcd-1.my_zone:1"]);
        assert_eq!(checked("[::1]:1").unwrap(), ["[::1]:1"]);
        for bad in ["https://h:1", "unix:///run/etcd.sock", "h", "ftp://h:1", "", "${H}:1", "h:1/v3", "é:1"]
        {
            assert_eq!(checked(bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad}");
        }
        assert!(EtcdConfig::new([""; 0]).checked_endpoints().is_err());
        // Shown whole where it cannot have a password, and with the reason.
        for plain in ["[::1]", "::1:2379", "2001:db8::1", "h:1\n"] {
            let error = checked(plain).unwrap_err();
            assert!(error.message().contains(&format!("{plain:?}")), "{error}");
            assert!(std::error::Error::source(&error).is_some(), "{error}");
        }
        for password in ["me:secret", "me:123456", "me:99999"] {
            assert!(checked(password).unwrap_err().message().contains("\"me…\""), "{password}");
        }
    }

    #[test]
    fn watches_that_began_together_are_not_compared_together() {
        let config = EtcdConfig::new(["h:1"]).with_resync_interval(Duration::from_secs(100));
        let seconds: Vec<_> = (0..100).map(|_| config.jittered_resync_interval().as_secs()).collect();
        assert!(seconds.iter().all(|seconds| (80..=120).contains(seconds)), "{seconds:?}");
        assert!(seconds.iter().any(|seconds| *seconds < 95), "{seconds:?}");
        assert!(seconds.iter().any(|seconds| *seconds >= 105), "{seconds:?}");
    }

    #[test]
    fn times_are_checked() {
        for time in [Duration::ZERO, Duration::MAX] {
            let config = || EtcdConfig::new(["h:1"]);
            for (name, config) in [
                ("connect_timeout", config().with_connect_timeout(time)),
                ("request_timeout", config().with_request_timeout(time)),
                ("probe_interval", config().with_probe_interval(time)),
                ("resync_interval", config().with_resync_interval(time)),
            ] {
                let error = config.check().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{config:?}");
                assert!(error.message().starts_with(name), "{error}");
            }
        }
        EtcdConfig::new(["h:1"]).check().unwrap();
    }

    #[test]
    fn a_user_needs_a_password() {
        let error = EtcdConfig::new(["h:1"]).with_user_name("me").check().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.message().contains("\"me\"") && error.message().contains("password"), "{error}");
        EtcdConfig::new(["h:1"]).with_user_name("me").with_password("secret").check().unwrap();
        let error = EtcdConfig::new(["h:1"]).with_password("secret").check().unwrap_err();
        assert!(error.message().contains("user"), "{error}");
    }

    #[test]
    fn a_password_file_is_read_without_its_last_line_break() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        let config = EtcdConfig::new(["h:1"]).with_user_name("me").with_password_file(&file);
        let error = config.check().unwrap_err();
        assert!(error.message().contains(file.to_str().unwrap()), "{error}");
        for (text, password) in [("secret\n", "secret"), ("secret\r\n", "secret"), (" se cret", " se cret")] {
            std::fs::write(&file, text).unwrap();
            config.check().unwrap();
            assert_eq!(config.credentials().unwrap(), Some(("me".to_owned(), password.to_owned())));
        }
        for (text, why) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"\r\nsecret", "is empty"),
            (b"se\xffcret\n", "is not UTF-8"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = config.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert_eq!(error.message(), format!("password file {} {why}", file.display()));
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = EtcdConfig::new(["h:1"]).with_user("me", "hunter2");
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        assert!(format!("{config:?}").contains("me"), "{config:?}");
        let config = EtcdConfig::new(["http://me:hunter2@h:1"]);
        assert!(!format!("{config:?}").contains("hunter2"), "{config:?}");
        let error = config.checked_endpoints().unwrap_err();
        assert!(error.message().contains("with_user") && !error.message().contains("hunter2"), "{error}");
        for endpoint in ["me:hunter2%40h:1", "me:hunter2", "http://me:hunter2/h:1", "[me:hunter2]:1"] {
            let config = EtcdConfig::new([endpoint]);
            let error = config.checked_endpoints().unwrap_err();
            assert!(!format!("{config:?} {error:?}").contains("hunter2"), "{config:?} {error:?}");
            assert!(error.message().contains("me…"), "{error}");
        }
        for config in [
            EtcdConfig::new(["h:1"]).with_user_name("me:hunter2"),
            EtcdConfig::new(["h:1"]).with_user("me:hunter2", "another"),
        ] {
            let refused = config.check().map_or_else(|error| error.to_string(), |()| String::new());
            assert!(!format!("{config:?} {refused}").contains("hunter2"), "{config:?} {refused}");
        }
    }
}
