//! TLS to etcd: PEM in, none of a TLS library's types out.

use std::fmt;

use etcd_client::{Certificate, Identity, TlsOptions};
use hither_core::{Error, ErrorKind, Result};
use tonic::transport::Endpoint;

/// How etcd is known, and how we are known to it: for [`EtcdOptions::with_tls`](crate::EtcdOptions::with_tls).
/// Feature `tls`.
///
/// Everything is PEM text as it stands in files. It is checked as a whole by
/// [`EtcdRegistry::connect`](crate::EtcdRegistry::connect), where settings given by half are an error.
///
/// ```no_run
/// use hither_etcd::{EtcdOptions, EtcdRegistry, EtcdTls};
///
/// # fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = EtcdTls::new(std::fs::read("ca.pem")?)
///     .with_client_certificate(std::fs::read("client.pem")?)
///     .with_client_key(std::fs::read("client-key.pem")?);
/// let registry = EtcdRegistry::connect(EtcdOptions::new(["etcd-1.internal:2379"]).with_tls(tls))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdTls {
    ca: Vec<u8>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    server_name: Option<String>,
}

impl EtcdTls {
    /// Trusts servers whose certificate was signed by one of the authorities in `ca`, and no others.
    pub fn new(ca: impl Into<Vec<u8>>) -> Self {
        Self { ca: ca.into(), certificate: None, key: None, server_name: None }
    }

    /// What we show to an etcd that asks who we are; needs [`with_client_key`](Self::with_client_key).
    #[must_use]
    pub fn with_client_certificate(mut self, certificate: impl Into<Vec<u8>>) -> Self {
        self.certificate = Some(certificate.into());
        self
    }

    /// The private key of our certificate; needs [`with_client_certificate`](Self::with_client_certificate).
    #[must_use]
    pub fn with_client_key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The name that the certificate of every endpoint must be for. Default: the host of the endpoint.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// # Errors
    /// `InvalidArgument` for what is given by half, or is not what it is given as. Keys are not repeated.
    pub(crate) fn check(&self) -> Result<()> {
        // The library takes a text without any certificate, and then trusts nobody.
        has_certificate(&self.ca, "the CA")?;
        match (&self.certificate, &self.key) {
            (Some(certificate), Some(_)) => has_certificate(certificate, "the client certificate")?,
            (None, None) => {}
            (Some(_), None) => return Err(invalid("a client certificate needs its key (`with_client_key`)")),
            (None, Some(_)) => {
                return Err(invalid("a client key needs its certificate (`with_client_certificate`)"));
            }
        }
        let endpoint = Endpoint::from_static("https://localhost").tls_config(self.to_client());
        endpoint.map(drop).map_err(|error| invalid("the TLS settings cannot be used").with_source(error))
    }

    pub(crate) fn to_client(&self) -> TlsOptions {
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(&self.ca));
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            options = options.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            options = options.domain_name(name);
        }
        options
    }
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("EtcdTls");
        debug.field("ca", &format_args!("{} bytes", self.ca.len()));
        debug
            .field("client_certificate", &self.certificate.is_some())
            .field("client_key", &self.key.is_some());
        debug.field("server_name", &self.server_name).finish()
    }
}

fn has_certificate(pem: &[u8], what: &str) -> Result<()> {
    const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
    if pem.windows(BEGIN.len()).any(|window| window == BEGIN) {
        return Ok(());
    }
    Err(invalid(format!("{what} has no certificate in it (expected PEM)")))
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = include_bytes!("../tests/tls/ca.pem");
    const CERTIFICATE: &[u8] = include_bytes!("../tests/tls/client.pem");
    const KEY: &[u8] = include_bytes!("../tests/tls/client-key.pem");

    #[test]
    fn whole_settings_are_taken() {
        EtcdTls::new(CA).check().unwrap();
        let tls = EtcdTls::new(CA).with_client_certificate(CERTIFICATE).with_client_key(KEY);
        tls.with_server_name("etcd.internal").check().unwrap();
    }

    #[test]
    fn half_and_broken_settings_are_refused() {
        for (bad, why) in [
            (EtcdTls::new(""), "no certificate"),
            (EtcdTls::new(KEY), "no certificate"),
            (EtcdTls::new(CA).with_client_certificate(CERTIFICATE), "needs its key"),
            (EtcdTls::new(CA).with_client_key(KEY), "needs its certificate"),
            (EtcdTls::new(CA).with_client_certificate("").with_client_key(KEY), "no certificate"),
            (EtcdTls::new(CA).with_client_certificate(CERTIFICATE).with_client_key(""), "cannot be used"),
            (EtcdTls::new(CA).with_client_certificate(CERTIFICATE).with_client_key(CA), "cannot be used"),
            (EtcdTls::new(CA).with_client_certificate(CA).with_client_key(KEY), "cannot be used"),
            (EtcdTls::new(CA).with_server_name("no name"), "cannot be used"),
        ] {
            let error = bad.check().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad:?}");
            assert!(error.message().contains(why), "{error}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let tls = EtcdTls::new(CA).with_client_certificate(CERTIFICATE).with_client_key("hunter2");
        assert!(!format!("{tls:?}").contains("hunter2"));
        assert!(!tls.check().unwrap_err().report().contains("hunter2"));
    }
}
