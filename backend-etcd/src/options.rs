//! Where etcd is, and how it is talked to.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hither_core::{Address, Error, ErrorKind, Result};
use percent_encoding::percent_decode_str;

#[cfg(feature = "tls")]
use crate::EtcdTls;

/// Where etcd is, and how it is talked to: for [`EtcdRegistry::connect`](crate::EtcdRegistry::connect).
///
/// From a list of endpoints, or from a URL: `etcd://h1:2379,h2:2379/prefix`, before which may stand
/// `user:password@`, percent-encoded.
///
/// ```
/// use std::time::Duration;
/// use hither_etcd::EtcdOptions;
///
/// let options = EtcdOptions::new(["10.0.0.1:2379", "10.0.0.2:2379"])
///     .with_prefix("production")
///     .with_request_timeout(Duration::from_secs(2));
/// let same: EtcdOptions = "etcd://10.0.0.1:2379,10.0.0.2:2379/production".parse()?;
/// assert_eq!(same.endpoints(), options.endpoints());
/// assert_eq!(same.prefix(), "production");
/// # Ok::<(), hither_core::Error>(())
/// ```
#[derive(Clone)]
pub struct EtcdOptions {
    endpoints: Vec<String>,
    prefix: String,
    nested_ids: bool,
    user: Option<(String, String)>,
    #[cfg(feature = "tls")]
    tls: Option<EtcdTls>,
    connect_timeout: Duration,
    request_timeout: Duration,
    probe_interval: Duration,
    resync_interval: Duration,
}

impl EtcdOptions {
    /// The endpoints of one etcd cluster, each `host:port` or `http://host:port`. They are checked by
    /// [`EtcdRegistry::connect`](crate::EtcdRegistry::connect).
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: String::new(),
            nested_ids: false,
            user: None,
            #[cfg(feature = "tls")]
            tls: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(3),
            probe_interval: Duration::from_secs(5),
            resync_interval: Duration::from_secs(300),
        }
    }

    /// What stands before the service name in every key, none by default; a `/` is put between them where the
    /// prefix does not end with one. A leading `/` stays.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Whether service `a` has the instances of `a/b` too, under ids such as `b/10.0.0.1:80`: the rule of Go's
    /// `naming/endpoints`. Off by default: a key below a service is one of a deeper service, unless what
    /// follows is the address itself.
    #[must_use]
    pub fn with_nested_ids(mut self, nested_ids: bool) -> Self {
        self.nested_ids = nested_ids;
        self
    }

    /// Authenticates. The token is renewed when etcd no longer takes it.
    #[must_use]
    pub fn with_user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), password.into()));
        self
    }

    /// Talks TLS to every endpoint.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: EtcdTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long one endpoint may take to be connected to, authentication and a first answer included. Where no
    /// connection is open, the endpoints are tried one after the other: a call may wait for all of them.
    /// Default: 2 s.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long etcd may take over one request; an endpoint that takes longer is left for the next one.
    /// Default: 3 s.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How long a watch may be silent before etcd is asked whether it is still there. The watch has ended when
    /// no answer came within the request timeout. Default: 5 s.
    #[must_use]
    pub fn with_probe_interval(mut self, interval: Duration) -> Self {
        self.probe_interval = interval;
        self
    }

    /// How often a watch compares what it knows with a complete listing, give or take a fifth: a net under
    /// events that etcd lost. Default: 5 min.
    #[must_use]
    pub fn with_resync_interval(mut self, interval: Duration) -> Self {
        self.resync_interval = interval;
        self
    }

    /// The endpoints, as they were given.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The prefix, as it was given.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn nested_ids(&self) -> bool {
        self.nested_ids
    }

    pub(crate) fn user(&self) -> Option<&(String, String)> {
        self.user.as_ref()
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(&self) -> Option<&EtcdTls> {
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

    /// Give or take a fifth: not everybody at the same time.
    pub(crate) fn jittered_resync_interval(&self) -> Duration {
        self.resync_interval.mul_f64(0.8 + 0.4 * fastrand::f64())
    }

    /// Looks at everything but the endpoints.
    pub(crate) fn check(&self) -> Result<()> {
        let times = [self.connect_timeout, self.request_timeout, self.probe_interval, self.resync_interval];
        if times.iter().any(|time| time.is_zero() || *time > LONGEST) {
            return Err(invalid("timeouts and intervals are above zero and not above a year"));
        }
        #[cfg(feature = "tls")]
        self.tls.as_ref().map_or(Ok(()), EtcdTls::check)?;
        Ok(())
    }

    /// The endpoints as `host:port`.
    pub(crate) fn checked_endpoints(&self) -> Result<Vec<String>> {
        if self.endpoints.is_empty() {
            return Err(invalid("etcd needs at least one endpoint"));
        }
        self.endpoints.iter().map(|endpoint| self.checked_endpoint(endpoint)).collect()
    }

    fn checked_endpoint(&self, endpoint: &str) -> Result<String> {
        let (host, secure) = if let Some(host) = endpoint.strip_prefix("https://") {
            (host, Some(true))
        } else if let Some(host) = endpoint.strip_prefix("http://") {
            (host, Some(false))
        } else {
            (endpoint, None)
        };
        if secure.is_some_and(|secure| secure != self.is_secure()) {
            let hint = if self.is_secure() {
                "and TLS is configured"
            } else {
                "and no TLS is configured (`with_tls`)"
            };
            return Err(invalid(format!("etcd endpoint {endpoint:?} says otherwise {hint}")));
        }
        match host.trim_end_matches('/').parse() {
            Ok(address @ Address::Socket(_)) => Ok(address.to_string()),
            Ok(address @ Address::Host { .. }) if !host.contains("//") => Ok(address.to_string()),
            _ => Err(invalid(format!("{endpoint:?} is not an etcd endpoint (expected host:port)"))),
        }
    }

    fn is_secure(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }
}

impl FromStr for EtcdOptions {
    type Err = Error;

    /// # Errors
    /// `InvalidArgument` when the text is no URL of this form, or has an endpoint that is none. A password in it
    /// is not repeated in the error.
    fn from_str(url: &str) -> Result<Self> {
        let Some(rest) = url.strip_prefix("etcd://") else {
            return Err(invalid(
                "a registry URL of etcd begins with etcd:// (etcd://h1:2379,h2:2379/prefix)",
            ));
        };
        if rest.contains(['?', '#']) {
            return Err(invalid("a registry URL of etcd has no query and no fragment"));
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, endpoints) = match authority.rsplit_once('@') {
            Some((user, endpoints)) => (Some(user), endpoints),
            None => (None, authority),
        };
        let mut options = Self::new(endpoints.split(',')).with_prefix(decoded(path)?);
        if let Some(user) = user {
            let Some((name, password)) = user.split_once(':') else {
                return Err(invalid("before the '@' of a registry URL stand user:password"));
            };
            options = options.with_user(decoded(name)?, decoded(password)?);
        }
        options.checked_endpoints()?;
        Ok(options)
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("EtcdOptions");
        debug
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("nested_ids", &self.nested_ids);
        debug.field("user", &self.user.as_ref().map(|(name, _)| name));
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

/// Sums with it do not overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

fn decoded(text: &str) -> Result<String> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(invalid("a registry URL of etcd has percent-encoded bytes that are not UTF-8")),
    }
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_endpoints_prefix_and_user() {
        let options: EtcdOptions = "etcd://me:p%40ss@h1:2379,[::1]:2379//a%20b/c".parse().unwrap();
        assert_eq!(options.endpoints(), ["h1:2379", "[::1]:2379"]);
        assert_eq!(options.prefix(), "/a b/c");
        assert_eq!(options.user(), Some(&("me".to_owned(), "p@ss".to_owned())));
        assert_eq!("etcd://h:1".parse::<EtcdOptions>().unwrap().prefix(), "");
        assert_eq!("etcd://h:1/".parse::<EtcdOptions>().unwrap().prefix(), "");
    }

    #[test]
    fn what_is_no_url_of_etcd_is_refused() {
        for bad in [
            "",
            "h:1",
            "http://h:1",
            "etcd://",
            "etcd://h",
            "etcd://h:1,",
            "etcd://me@h:1",
            "etcd://h:1?x=1",
            "etcd://h:1/%ff",
        ] {
            let error = bad.parse::<EtcdOptions>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn endpoints_are_checked() {
        let checked = |endpoint: &str| EtcdOptions::new([endpoint]).checked_endpoints();
        assert_eq!(checked("h:1").unwrap(), ["h:1"]);
        assert_eq!(checked("http://h:1/").unwrap(), ["h:1"]);
        for bad in ["https://h:1", "unix:///run/etcd.sock", "h", "ftp://h:1", ""] {
            assert_eq!(checked(bad).unwrap_err().kind(), ErrorKind::InvalidArgument, "{bad}");
        }
        assert!(EtcdOptions::new([""; 0]).checked_endpoints().is_err());
    }

    #[test]
    fn times_are_checked() {
        for time in [Duration::ZERO, Duration::MAX] {
            let options = || EtcdOptions::new(["h:1"]);
            for options in [
                options().with_connect_timeout(time),
                options().with_request_timeout(time),
                options().with_probe_interval(time),
                options().with_resync_interval(time),
            ] {
                assert_eq!(options.check().unwrap_err().kind(), ErrorKind::InvalidArgument, "{options:?}");
            }
        }
        EtcdOptions::new(["h:1"]).check().unwrap();
    }

    #[test]
    fn secrets_are_not_printed() {
        let options: EtcdOptions = "etcd://me:hunter2@h:1".parse().unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
        let error = "etcd://me:hunter2@h".parse::<EtcdOptions>().unwrap_err();
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
