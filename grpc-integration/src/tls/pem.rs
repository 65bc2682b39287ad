//! Certificates and keys in PEM.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Files;
use crate::error::{Error, Result};

/// PEM, or the file with it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Pem {
    Text(Arc<[u8]>),
    File(PathBuf),
}

impl Pem {
    pub(crate) fn text(text: impl Into<Vec<u8>>) -> Self {
        Self::Text(text.into().into())
    }

    pub(crate) fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Text(_) => None,
            Self::File(file) => Some(file),
        }
    }

    /// The name of the file, to be appended to what it is.
    pub(super) fn place(&self) -> String {
        self.file().map(|file| format!(" {}", file.display())).unwrap_or_default()
    }

    fn content<'a>(&'a self, what: &str, files: &'a Files) -> Result<&'a [u8]> {
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
        let content = match self {
            Self::Text(text) => text,
            Self::File(file) => files.content(file, what)?,
        };
        // Some editors write one, and the first section would not be seen.
        Ok(content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content))
    }

    /// All certificates, in order; whatever else is in the text is skipped.
    ///
    /// # Errors
    /// `InvalidArgument` when there is none, or the text is broken.
    pub(super) fn certificates(&self, what: &str, files: &Files) -> Result<Vec<CertificateDer<'static>>> {
        let certificates = CertificateDer::pem_slice_iter(self.content(what, files)?)
            .collect::<Result<Vec<_>, pem::Error>>()
            .map_err(|error| self.broken(what, error))?;
        if certificates.is_empty() {
            return Err(Error::invalid_argument(format!(
                "{what}{} has no certificate in it (expected PEM)",
                self.place()
            )));
        }
        Ok(certificates)
    }

    /// The first private key. The error never contains any of it.
    fn key(&self, what: &str, files: &Files) -> Result<PrivateKeyDer<'static>> {
        let content = self.content(what, files)?;
        match PrivateKeyDer::from_pem_slice(content) {
            Ok(key) => Ok(key),
            Err(pem::Error::NoItemsFound) => {
                const ENCRYPTED: &[u8] = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
                let why = if content.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) {
                    "is encrypted: give it without a password"
                } else {
                    "has no private key in it (expected PEM)"
                };
                Err(Error::invalid_argument(format!("{what}{} {why}", self.place())))
            }
            // Some of these errors quote the line, which is a part of the key.
            Err(_) => Err(Error::invalid_argument(format!("{what}{} is no valid PEM", self.place()))),
        }
    }

    fn broken(&self, what: &str, error: pem::Error) -> Error {
        let error = match error {
            pem::Error::MissingSectionEnd { .. } => "a certificate has no end".to_owned(),
            pem::Error::IllegalSectionStart { .. } => "a line that begins a section is broken".to_owned(),
            error => error.to_string(),
        };
        Error::invalid_argument(format!("{what}{} is no valid PEM: {error}", self.place()))
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

/// A certificate, with those that lead to its authority, and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) certificate: Pem,
    pub(crate) key: Pem,
}

type CertificateAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Identity {
    /// `whose` is `client` or `server`.
    pub(crate) fn load(&self, whose: &str, files: &Files) -> Result<CertificateAndKey> {
        let certificate = self.certificate.certificates(&format!("the {whose} certificate"), files)?;
        Ok((certificate, self.key.key(&format!("the {whose} key"), files)?))
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().filter_map(Pem::file)
    }
}

/// The error for an identity that rustls does not take.
pub(crate) fn unusable(whose: &str, error: rustls::Error) -> Error {
    let message = match error {
        rustls::Error::InconsistentKeys(_) => {
            format!("the {whose} key does not belong to the {whose} certificate")
        }
        _ => format!("the {whose} certificate and its key cannot be used"),
    };
    Error::invalid_argument(message).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["a.internal".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn pem_is_read_whatever_is_around_it() {
        let (certificate, key) = certificate();
        let files = Files::default();
        for text in [
            certificate.clone(),
            certificate.trim_end().to_owned(),
            certificate.replace('\n', "\r\n"),
            format!("\n\n{certificate}\n\n\n"),
            format!("\u{feff}{certificate}"),
            format!("subject=CN = a\nissuer=CN = b\n{certificate}"),
            format!("{key}{certificate}"),
        ] {
            let pem = Pem::text(text.clone());
            assert_eq!(pem.certificates("the CA", &files).unwrap().len(), 1, "{text:?}");
        }
        let twice = Pem::text(format!("{certificate}{certificate}"));
        assert_eq!(twice.certificates("the CA", &files).unwrap().len(), 2);
        for text in [key.clone(), key.replace('\n', "\r\n"), format!("{certificate}{key}")] {
            Pem::text(text).key("the key", &files).unwrap();
        }
    }

    #[test]
    fn broken_pem_is_named_and_not_quoted() {
        let (certificate, key) = certificate();
        let files = Files::default();
        for (text, why) in [
            (String::new(), "has no certificate in it"),
            (key.clone(), "has no certificate in it"),
            (certificate[..certificate.len() / 2].to_owned(), "a certificate has no end"),
            (certificate.replace("\nM", "\n*"), "no valid PEM"),
        ] {
            let error = Pem::text(text).certificates("the CA", &files).unwrap_err().to_string();
            assert!(error.starts_with("the CA ") && error.contains(why), "{error}");
        }
        for (text, why) in [
            (String::new(), "has no private key in it"),
            (certificate, "has no private key in it"),
            (key[..key.len() / 2].to_owned(), "no valid PEM"),
            (key.replace("PRIVATE", "ENCRYPTED PRIVATE"), "is encrypted"),
        ] {
            let error = Pem::text(text).key("the key", &files).unwrap_err().report();
            assert!(error.starts_with("the key ") && error.contains(why), "{error}");
            assert!(!error.contains(&key[40..60]), "{error}");
        }
    }
}
