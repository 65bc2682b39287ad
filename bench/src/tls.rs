//! One certificate for all servers, which is its own authority.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::Result;

/// What the certificate is valid for.
pub(crate) const NAME: &str = "localhost";

const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";

/// A folder with a certificate and its key, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Identity(tempfile::TempDir);

impl Identity {
    pub(crate) fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let identity = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        fs::write(folder.path().join(CERTIFICATE), identity.cert.pem())?;
        fs::write(folder.path().join(KEY), identity.signing_key.serialize_pem())?;
        Ok(Self(folder))
    }

    pub(crate) fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Returns the file of the certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.0.path().join(CERTIFICATE)
    }
}

/// Returns what accepts connections with the certificate in `folder`.
pub(crate) fn acceptor(folder: &Path) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_file(folder.join(CERTIFICATE))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(KEY))?;
    let mut config =
        ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
