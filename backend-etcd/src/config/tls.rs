//! TLS to etcd: PEM, and no type of a TLS library.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use etcd_client::{Certificate, Identity, TlsOptions};
use hither_core::Result;
use tonic::transport::Endpoint;

use super::{invalid, read};

/// The certificate authority, and optionally a client certificate, for [`EtcdConfig::with_tls`](crate::EtcdConfig::with_tls).
/// Feature `tls`.
///
/// Everything is PEM, given as files or as text. [`EtcdRegistry::connect`](crate::EtcdRegistry::connect) checks all of it;
/// incomplete settings are an error. Files are read anew after a call has failed, so certificates that are replaced need no
/// restart; a file that cannot be read then fails that attempt to connect, which is retried. An open connection stays open
/// when its certificate expires: neither etcd nor hither checks it again.
///
/// ```no_run
/// use hither_etcd::{EtcdConfig, EtcdRegistry, TlsConfig};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = TlsConfig::from_files("/etc/etcd/ca.pem")
///     .with_client_certificate_file("/etc/etcd/client.pem")
///     .with_client_key_file("/etc/etcd/client-key.pem");
/// let registry = EtcdRegistry::connect(EtcdConfig::new(["etcd-1.internal:2379"]).with_tls(tls))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct TlsConfig {
    ca: Pem,
    certificate: Option<Pem>,
    key: Option<Pem>,
    server_name: Option<String>,
}

/// PEM, or the file with it.
#[derive(Clone, PartialEq, Eq)]
enum Pem {
    Text(Vec<u8>),
    File(PathBuf),
}

impl TlsConfig {
    /// Trusts servers whose certificate was signed by one of the authorities in `ca`, and no other server.
    pub fn new(ca: impl Into<Vec<u8>>) -> Self {
        Self { ca: Pem::Text(ca.into()), certificate: None, key: None, server_name: None }
    }

    /// Trusts servers whose certificate was signed by one of the authorities in the file `ca`, and no other server.
    pub fn from_files(ca: impl Into<PathBuf>) -> Self {
        Self { ca: Pem::File(ca.into()), certificate: None, key: None, server_name: None }
    }

    /// Sets the client certificate (mutual TLS); needs [`with_client_key`](Self::with_client_key).
    #[must_use]
    pub fn with_client_certificate(mut self, certificate: impl Into<Vec<u8>>) -> Self {
        self.certificate = Some(Pem::Text(certificate.into()));
        self
    }

    /// Sets the file of the client certificate; see [`with_client_certificate`](Self::with_client_certificate).
    #[must_use]
    pub fn with_client_certificate_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.certificate = Some(Pem::File(file.into()));
        self
    }

    /// Sets the private key of the client certificate; needs [`with_client_certificate`](Self::with_client_certificate).
    #[must_use]
    pub fn with_client_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(Pem::Text(key.into()));
        self
    }

    /// Sets the file of the private key; see [`with_client_key`](Self::with_client_key).
    #[must_use]
    pub fn with_client_key_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.key = Some(Pem::File(file.into()));
        self
    }

    /// Sets the name for which the certificate of every endpoint must be valid. Default: the host of the endpoint.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// # Errors
    /// As [`to_client`](Self::to_client).
    pub(crate) fn check(&self) -> Result<()> {
        self.to_client().map(drop)
    }

    /// The settings as they are now, files being read.
    ///
    /// # Errors
    /// `InvalidArgument` for incomplete or unusable settings. The error does not contain keys.
    pub(crate) fn to_client(&self) -> Result<TlsOptions> {
        // The library accepts a text without any certificate, and then trusts no server.
        let ca = self.ca.certificate("the CA")?;
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let certificate = certificate.certificate("the client certificate")?;
                options = options.identity(Identity::from_pem(certificate, key.read("the client key")?));
            }
            (None, None) => {}
            (Some(_), None) => return Err(invalid("a client certificate needs its key (`with_client_key`)")),
            (None, Some(_)) => {
                return Err(invalid("a client key needs its certificate (`with_client_certificate`)"));
            }
        }
        if let Some(name) = &self.server_name {
            options = options.domain_name(name);
        }
        match Endpoint::from_static("https://localhost").tls_config(options.clone()) {
            Ok(_) => Ok(options),
            Err(error) => Err(invalid("the TLS settings cannot be used").with_source(error)),
        }
    }
}

impl Pem {
    fn read(&self, what: &str) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::Text(text) => Ok(Cow::Borrowed(text)),
            Self::File(file) => read(file, what).map(Cow::Owned),
        }
    }

    fn certificate(&self, what: &str) -> Result<Cow<'_, [u8]>> {
        const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
        let pem = self.read(what)?;
        if pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
            return Ok(pem);
        }
        let place = match self {
            Self::Text(_) => String::new(),
            Self::File(file) => format!(" {}", file.display()),
        };
        Err(invalid(format!("{what}{place} has no certificate in it (expected PEM)")))
    }
}

/// Prints the file, but not the content.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{} bytes", text.len()),
            Self::File(file) => write!(f, "{}", file.display()),
        }
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TlsConfig");
        debug.field("ca", &self.ca);
        debug.field("client_certificate", &self.certificate).field("client_key", &self.key);
        debug.field("server_name", &self.server_name).finish()
    }
}

#[cfg(test)]
mod tests {
    use hither_core::ErrorKind;

    use super::*;

    const CA: &[u8] = include_bytes!("../../tests/tls/ca.pem");
    const CERTIFICATE: &[u8] = include_bytes!("../../tests/tls/client.pem");
    const KEY: &[u8] = include_bytes!("../../tests/tls/client-key.pem");

    #[test]
    fn whole_settings_are_taken() {
        TlsConfig::new(CA).check().unwrap();
        let tls = TlsConfig::new(CA).with_client_certificate(CERTIFICATE).with_client_key(KEY);
        tls.with_server_name("etcd.internal").check().unwrap();
    }

    #[test]
    fn half_and_broken_settings_are_refused() {
        for (bad, why) in [
            (TlsConfig::new(""), "no certificate"),
            (TlsConfig::new(KEY), "no certificate"),
            (TlsConfig::new(CA).with_client_certificate(CERTIFICATE), "needs its key"),
            (TlsConfig::new(CA).with_client_key(KEY), "needs its certificate"),
            (TlsConfig::new(CA).with_client_certificate("").with_client_key(KEY), "no certificate"),
            (TlsConfig::new(CA).with_client_certificate(CERTIFICATE).with_client_key(""), "cannot be used"),
            (TlsConfig::new(CA).with_client_certificate(CERTIFICATE).with_client_key(CA), "cannot be used"),
            (TlsConfig::new(CA).with_client_certificate(CA).with_client_key(KEY), "cannot be used"),
            (TlsConfig::new(CA).with_server_name("no name"), "cannot be used"),
        ] {
            let error = bad.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}");
            assert!(error.message().contains(why), "{error}");
        }
    }

    #[test]
    fn files_are_read_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let tls = TlsConfig::from_files(file("ca"))
            .with_client_certificate_file(file("certificate"))
            .with_client_key_file(file("key"));
        for (name, content, why) in
            [("ca", CA, "certificate"), ("certificate", CERTIFICATE, "key"), ("key", KEY, "")]
        {
            let error = tls.check().unwrap_err();
            assert!(error.message().contains(file(name).to_str().unwrap()), "{error}");
            std::fs::write(file(name), content).unwrap();
            assert_eq!(tls.check().is_ok(), why.is_empty());
        }
        std::fs::write(file("certificate"), &CERTIFICATE[..40]).unwrap();
        assert_eq!(tls.check().unwrap_err().kind(), ErrorKind::InvalidArgument, "half of it");
    }

    #[test]
    fn keys_are_not_printed() {
        let tls = TlsConfig::new(CA).with_client_certificate(CERTIFICATE).with_client_key("hunter2");
        assert!(!format!("{tls:?}").contains("hunter2"));
        assert!(!tls.check().unwrap_err().report().contains("hunter2"));
    }
}
