//! From the settings to a configuration of rustls.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};

use super::ClientTls;
use super::verifier::SpiffeVerifier;
use crate::error::{Error, Result};
use crate::tls::{Files, H2, Pem, Watched, provider, roots, unusable, with_h2};

/// Whom a channel trusts.
#[derive(Debug, Clone)]
pub(super) enum Trust {
    Ca(Pem),
    Platform,
    #[cfg(feature = "tls-webpki-roots")]
    Webpki,
    Rustls(Arc<ClientConfig>),
}

impl ClientTls {
    /// Checks all settings, and follows the files.
    pub(super) fn start(&self) -> Result<Watched<ClientConfig>> {
        self.names.validate()?;
        self.spiffe.validate()?;
        let roots = match &self.trust {
            Trust::Rustls(config) => return self.own(config).map(Arc::new).map(Watched::fixed),
            Trust::Ca(ca) => Roots::Pem(ca.clone()),
            Trust::Platform => Roots::Fixed(Arc::new(platform_roots()?)),
            #[cfg(feature = "tls-webpki-roots")]
            Trust::Webpki => Roots::Fixed(Arc::new(webpki_roots::TLS_SERVER_ROOTS.iter().cloned().collect())),
        };
        let tls = self.clone();
        Watched::start(self.files(), self.reload_interval, move |files| tls.config(&roots, files))
    }

    fn files(&self) -> Vec<PathBuf> {
        let ca = match &self.trust {
            Trust::Ca(ca) => ca.file(),
            _ => None,
        };
        ca.into_iter().chain(self.identity.iter().flat_map(|identity| identity.files())).cloned().collect()
    }

    fn config(&self, roots: &Roots, files: &Files) -> Result<ClientConfig> {
        let provider = provider();
        let roots = roots.load(files)?;
        let algorithms = provider.signature_verification_algorithms;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid_argument("TLS cannot be set up").with_source(error))?;
        let builder = if self.spiffe.is_empty() {
            builder.with_root_certificates(roots)
        } else {
            let (ids, check_name) = (self.spiffe.clone(), self.names.are_set());
            let verifier = SpiffeVerifier { roots, algorithms, ids, check_name };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        };
        let mut config = match &self.identity {
            Some(identity) => {
                let (certificate, key) = identity.load("client", files)?;
                builder.with_client_auth_cert(certificate, key).map_err(|error| unusable("client", error))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(config)
    }

    /// The user's own configuration, with `h2`.
    fn own(&self, config: &ClientConfig) -> Result<ClientConfig> {
        if self.identity.is_some() || !self.spiffe.is_empty() {
            return Err(Error::invalid_argument(
                "ClientTls::rustls has an identity and a verifier of its own: with_identity and with_spiffe_id do not \
                 apply to it",
            ));
        }
        let mut config = config.clone();
        config.alpn_protocols = with_h2(&config.alpn_protocols)?;
        Ok(config)
    }
}

enum Roots {
    Fixed(Arc<RootCertStore>),
    Pem(Pem),
}

impl Roots {
    fn load(&self, files: &Files) -> Result<Arc<RootCertStore>> {
        match self {
            Self::Fixed(roots) => Ok(Arc::clone(roots)),
            Self::Pem(ca) => roots(ca, "the CA", files).map(Arc::new),
        }
    }
}

/// Those that can be used: systems have some that rustls does not know.
fn platform_roots() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, unusable) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(usable, unusable, errors = ?found.errors, "root certificates of the platform read");
    if usable > 0 {
        return Ok(roots);
    }
    let error = Error::invalid_argument(
        "the platform has no root certificates: install them (ca-certificates), or use ClientTls::from_file",
    );
    Err(match found.errors.into_iter().next() {
        Some(source) => error.with_source(source),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use rustls::crypto::CryptoProvider;

    use super::*;

    /// rustls panics where a process has two providers and none was installed (zingolabs/zaino#1360).
    #[test]
    fn the_provider_that_the_process_has_installed_is_of_no_account() {
        let useless =
            CryptoProvider { cipher_suites: Vec::new(), ..rustls::crypto::ring::default_provider() };
        useless.install_default().unwrap();
        assert!(CryptoProvider::get_default().is_some_and(|installed| installed.cipher_suites.is_empty()));
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let config = ClientTls::new(ca.pem()).start().unwrap().current();
        assert!(!config.crypto_provider().cipher_suites.is_empty());
    }
}
