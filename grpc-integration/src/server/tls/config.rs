//! From the settings to a configuration of rustls.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::verifier::SpiffeVerifier;
use super::{Handshakes, ServerTls};
use crate::error::{Error, Result};
use crate::tls::{Files, H2, Identity, Pem, Watched, provider, roots, unusable, with_h2};

/// Where the configuration comes from.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Pem(Identity),
    Rustls(Arc<ServerConfig>),
}

impl ServerTls {
    /// Checks all settings, and follows the files. Needs a Tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` for settings that cannot be used.
    pub(in crate::server) fn start(self) -> Result<Handshakes> {
        self.spiffe.validate()?;
        if self.handshake_timeout.is_zero() {
            let message = "no handshake can be done in no time: ServerTls::with_handshake_timeout is zero";
            return Err(Error::invalid_argument(message));
        }
        let (timeout, most) = (self.handshake_timeout, self.max_handshakes);
        let config = match &self.origin {
            Origin::Rustls(config) => Watched::fixed(Arc::new(self.own(config)?)),
            Origin::Pem(identity) => {
                let files = identity.files().chain(self.client_ca.iter().filter_map(Pem::file));
                let files: Vec<PathBuf> = files.cloned().collect();
                let (identity, interval) = (identity.clone(), self.reload_interval);
                Watched::start(files, interval, move |files| self.config(&identity, files))?
            }
        };
        Ok(Handshakes::new(config, timeout, most))
    }

    fn config(&self, identity: &Identity, files: &Files) -> Result<ServerConfig> {
        let (certificate, key) = identity.load("server", files)?;
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid_argument("TLS cannot be set up").with_source(error))?;
        let builder = match self.client_verifier(files)? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config =
            builder.with_single_cert(certificate, key).map_err(|error| unusable("server", error))?;
        config.alpn_protocols = vec![H2.to_vec()];
        Ok(config)
    }

    fn client_verifier(&self, files: &Files) -> Result<Option<Arc<dyn ClientCertVerifier>>> {
        let Some(ca) = &self.client_ca else {
            return if self.optional_client_certificates || !self.spiffe.is_empty() {
                let message = "client certificates cannot be checked without their authority: set ServerTls::with_client_ca";
                Err(Error::invalid_argument(message))
            } else {
                Ok(None)
            };
        };
        let roots = Arc::new(roots(ca, "the client CA", files)?);
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
        if self.optional_client_certificates {
            builder = builder.allow_unauthenticated();
        }
        let verifier = builder
            .build()
            .map_err(|error| Error::invalid_argument("the client CA cannot be used").with_source(error))?;
        if self.spiffe.is_empty() {
            return Ok(Some(verifier));
        }
        Ok(Some(Arc::new(SpiffeVerifier { chain: verifier, ids: self.spiffe.clone() })))
    }

    /// The user's own configuration, with `h2`.
    fn own(&self, config: &ServerConfig) -> Result<ServerConfig> {
        if self.client_ca.is_some() || self.optional_client_certificates || !self.spiffe.is_empty() {
            return Err(Error::invalid_argument(
                "ServerTls::rustls has a verifier of its own: with_client_ca and with_client_spiffe_id do not apply to it",
            ));
        }
        let mut config = config.clone();
        config.alpn_protocols = with_h2(&config.alpn_protocols)?;
        Ok(config)
    }
}
