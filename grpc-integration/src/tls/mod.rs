//! TLS by rustls, as far as clients and servers share it.
//!
//! Arrows: pem <- files <- watched; spiffe; words.

mod files;
mod pem;
mod spiffe;
mod watched;
mod words;

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;

pub(crate) use files::Files;
pub(crate) use pem::{Identity, Pem, unusable};
pub(crate) use spiffe::SpiffeIds;
pub(crate) use watched::Watched;
pub(crate) use words::{Peer, in_words};

use crate::error::{Error, Result};

/// What gRPC speaks, as ALPN names it.
pub(crate) const H2: &[u8] = b"h2";

/// Always ring, whatever other libraries of the program have installed as the default of the process.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates of `pem` as trust anchors, all of which must be usable.
pub(crate) fn roots(pem: &Pem, what: &str, files: &Files) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in pem.certificates(what, files)? {
        roots.add(certificate).map_err(|error| {
            Error::invalid_argument(format!("{what}{} has an invalid certificate", pem.place()))
                .with_source(error)
        })?;
    }
    Ok(roots)
}

/// The protocols to negotiate: those of the user's own configuration, which must have `h2` among them, or `h2`.
pub(crate) fn with_h2(own: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    if own.is_empty() {
        return Ok(vec![H2.to_vec()]);
    }
    if own.iter().any(|protocol| protocol == H2) {
        return Ok(own.to_vec());
    }
    let own: Vec<_> = own.iter().map(|protocol| String::from_utf8_lossy(protocol)).collect();
    Err(Error::invalid_argument(format!(
        "the rustls configuration offers {} by ALPN and not h2, which gRPC needs",
        own.join(", ")
    )))
}
