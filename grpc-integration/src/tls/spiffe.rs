//! SPIFFE ids: the URI by which a workload's certificate names it.

use std::collections::BTreeSet;
use std::fmt;

use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, OtherError};
use webpki::EndEntityCert;

use crate::error::{Error, Result};

const SCHEME: &str = "spiffe://";

/// The SPIFFE ids that a peer may have. Empty: its certificate need not have one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SpiffeIds {
    ids: BTreeSet<String>,
    trust_domains: BTreeSet<String>,
}

impl SpiffeIds {
    pub(crate) fn allow_id(&mut self, id: String) {
        self.ids.insert(id);
    }

    pub(crate) fn allow_trust_domain(&mut self, domain: String) {
        self.trust_domains.insert(domain);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty() && self.trust_domains.is_empty()
    }

    /// # Errors
    /// `InvalidArgument` for an id or a trust domain that no certificate can have.
    pub(crate) fn validate(&self) -> Result<()> {
        for id in &self.ids {
            trust_domain(id).map_err(|why| {
                Error::invalid_argument(format!("{id:?} is no SPIFFE id such as spiffe://domain/path: {why}"))
            })?;
        }
        for domain in &self.trust_domains {
            if !is_trust_domain(domain) {
                let message = format!("{domain:?} is no trust domain of SPIFFE such as prod.example.com");
                return Err(Error::invalid_argument(message));
            }
        }
        Ok(())
    }

    /// Checks a certificate whose signature was verified.
    pub(crate) fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if self.is_empty() {
            return Ok(());
        }
        let certificate = EndEntityCert::try_from(certificate)
            .map_err(|_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding))?;
        self.check_uris(&certificate.valid_uri_names().collect::<Vec<_>>()).map_err(|why| {
            let error = OtherError(std::sync::Arc::new(SpiffeError(why)));
            rustls::Error::InvalidCertificate(CertificateError::Other(error))
        })
    }

    fn check_uris(&self, uris: &[&str]) -> Result<(), String> {
        let [id] = uris else {
            // The specification has a verifier refuse more than one.
            return Err(format!("has {} URIs where a SPIFFE id is one", uris.len()));
        };
        let domain = trust_domain(id).map_err(|why| format!("has the URI {id:?}, no SPIFFE id: {why}"))?;
        if self.ids.contains(*id) || self.trust_domains.contains(domain) {
            return Ok(());
        }
        Err(format!("has the SPIFFE id {id}, which is not allowed"))
    }
}

/// Why a peer's SPIFFE id was refused. It reads on from "the server's certificate".
#[derive(Debug)]
pub(super) struct SpiffeError(String);

impl fmt::Display for SpiffeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SpiffeError {}

/// The trust domain of a valid id.
fn trust_domain(id: &str) -> Result<&str, &'static str> {
    if id.len() > 2048 {
        return Err("longer than 2048 bytes");
    }
    let rest = id.strip_prefix(SCHEME).ok_or("it does not begin with spiffe://")?;
    let (domain, path) = rest.split_once('/').ok_or("it has no path")?;
    if !is_trust_domain(domain) {
        return Err("its trust domain has other characters than a-z, 0-9, '.', '-' and '_'");
    }
    let is_segment = |segment: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        !matches!(segment, "" | "." | "..") && segment.chars().all(legal)
    };
    if !path.split('/').all(is_segment) {
        return Err("its path has an empty or illegal segment");
    }
    Ok(domain)
}

fn is_trust_domain(domain: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
    !domain.is_empty() && domain.len() <= 255 && domain.chars().all(legal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(ids: &[&str], domains: &[&str]) -> SpiffeIds {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        SpiffeIds { ids: own(ids), trust_domains: own(domains) }
    }

    #[test]
    fn an_id_or_its_trust_domain_must_be_allowed() {
        let ids = allowed(&["spiffe://a.example/greeter"], &["b.example"]);
        ids.validate().unwrap();
        for (uris, why) in [
            (&["spiffe://a.example/greeter"][..], ""),
            (&["spiffe://b.example/ns/x/sa/y"], ""),
            (&["spiffe://a.example/other"], "not allowed"),
            (&["spiffe://a.example/greeter/more"], "not allowed"),
            (&["spiffe://b.example.evil/greeter"], "not allowed"),
            (&["spiffe://evil.b.example/greeter"], "not allowed"),
            (&["https://b.example/greeter"], "no SPIFFE id"),
            (&["spiffe://b.example"], "no SPIFFE id"),
            (&["spiffe://b.example@evil/greeter"], "no SPIFFE id"),
            (&["spiffe://b.example/../greeter"], "no SPIFFE id"),
            (&[], "0 URIs"),
            (&["spiffe://a.example/greeter", "spiffe://b.example/x"], "2 URIs"),
        ] {
            let outcome = ids.check_uris(uris);
            assert_eq!(outcome.is_ok(), why.is_empty(), "{uris:?}");
            assert!(outcome.err().unwrap_or_default().contains(why), "{uris:?}");
        }
    }

    #[test]
    fn settings_that_no_certificate_can_match_are_refused() {
        for (ids, domains) in [
            (&["greeter"][..], &[][..]),
            (&["spiffe://A.example/x"], &[]),
            (&["spiffe://a.example/x/"], &[]),
            (&[], &["spiffe://a.example"]),
            (&[], &[""]),
            (&[], &["a.example/"]),
        ] {
            allowed(ids, domains).validate().unwrap_err();
        }
    }
}
