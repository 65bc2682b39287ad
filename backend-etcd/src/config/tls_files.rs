//! The files of TLS in a URL or in the environment.

use hither_core::Result;
#[cfg(not(feature = "tls"))]
use hither_core::{Error, ErrorKind};

use super::{EtcdConfig, invalid};
#[cfg(feature = "tls")]
use crate::TlsConfig;

/// The files of TLS, as they are collected one by one.
#[derive(Debug, Default)]
pub(super) struct TlsFiles {
    pub(super) ca: Option<String>,
    pub(super) certificate: Option<String>,
    pub(super) key: Option<String>,
    pub(super) server_name: Option<String>,
}

impl TlsFiles {
    /// # Errors
    /// `InvalidArgument` where the authority is missing, `Unsupported` without the feature.
    pub(super) fn apply(self, config: EtcdConfig) -> Result<EtcdConfig> {
        let Self { ca, certificate, key, server_name } = self;
        let Some(ca) = ca else {
            return match certificate.or(key).or(server_name) {
                None => Ok(config),
                Some(_) => Err(invalid("TLS to etcd needs a certificate authority (cacert)")),
            };
        };
        #[cfg(feature = "tls")]
        {
            let mut tls = TlsConfig::from_files(ca);
            if let Some(certificate) = certificate {
                tls = tls.with_client_certificate_file(certificate);
            }
            if let Some(key) = key {
                tls = tls.with_client_key_file(key);
            }
            if let Some(name) = server_name {
                tls = tls.with_server_name(name);
            }
            Ok(config.with_tls(tls))
        }
        #[cfg(not(feature = "tls"))]
        {
            drop((ca, certificate, key, server_name, config));
            Err(Error::new(ErrorKind::Unsupported, "TLS to etcd needs the feature `tls` of hither-etcd"))
        }
    }
}
