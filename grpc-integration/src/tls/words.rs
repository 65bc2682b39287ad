//! What went wrong in TLS, in words that name the remedy where there is one.

use std::io;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible};

use super::spiffe::SpiffeError;

/// The other side.
#[allow(dead_code, reason = "each side has the other")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Server,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// An error of a TLS stream with a text for people. One of the stream below stays as it is.
pub(crate) fn in_words(error: io::Error, peer: Peer) -> io::Error {
    match error.get_ref().and_then(|source| source.downcast_ref::<Error>()) {
        Some(cause) => io::Error::new(error.kind(), text(cause, peer)),
        None => error,
    }
}

fn text(error: &Error, peer: Peer) -> String {
    let name = peer.name();
    match error {
        Error::InvalidCertificate(error) => format!("the {name}'s certificate {}", certificate(error)),
        Error::AlertReceived(alert) => format!("the {name} ended TLS: {}", self::alert(*alert, peer)),
        // The first byte is not that of a TLS record.
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => match peer {
            Peer::Server => {
                "the server does not speak TLS: it is one without TLS, or another port".to_owned()
            }
            Peer::Client => "the client does not speak TLS".to_owned(),
        },
        Error::NoCertificatesPresented => format!("the {name} sent no certificate, and one is required"),
        Error::NoApplicationProtocol => format!("the {name} does not offer h2 by ALPN, which gRPC needs"),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled,
        ) => format!("the {name} and this side have no version of TLS in common (here 1.2 and 1.3)"),
        error => format!("TLS with the {name} failed: {error}"),
    }
}

/// Reads on from "the server's certificate".
fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::ExpiredContext { time, not_after } => {
            format!("expired {} ago", span(*not_after, *time))
        }
        CertificateError::Expired => "has expired".to_owned(),
        CertificateError::NotValidYetContext { time, not_before } => {
            format!("is not valid yet, only in {}: compare the clocks", span(*time, *not_before))
        }
        CertificateError::NotValidYet => "is not valid yet: compare the clocks".to_owned(),
        CertificateError::UnknownIssuer => {
            "is of an unknown authority: it is signed by none of the trusted CAs".to_owned()
        }
        CertificateError::BadSignature => {
            "is of an unknown authority: a trusted CA has the name of its issuer, but another key".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let expected = expected.to_str();
            if presented.is_empty() {
                format!("is not valid for {expected}, and has no name at all (subjectAltName)")
            } else {
                let presented: Vec<_> = presented.iter().map(|name| bare(name)).collect();
                format!("is not valid for {expected}, only for {}", presented.join(", "))
            }
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not for this side of TLS (extended key usage)".to_owned()
        }
        CertificateError::Other(other) => {
            if let Some(error) = other.0.downcast_ref::<SpiffeError>() {
                return error.to_string();
            }
            match other.0.downcast_ref::<webpki::Error>() {
                Some(webpki::Error::CaUsedAsEndEntity) => {
                    "is that of an authority itself (CA:TRUE): issue one for the name".to_owned()
                }
                Some(webpki::Error::UnsupportedCertVersion) => {
                    "is of X.509 version 1, without names: issue one with a subjectAltName".to_owned()
                }
                _ => format!("is refused: {}", other.0),
            }
        }
        error => format!("is refused: {error}"),
    }
}

/// Reads on from "the server ended TLS:".
fn alert(alert: AlertDescription, peer: Peer) -> String {
    let own = match peer {
        Peer::Server => "client",
        Peer::Client => "server",
    };
    match alert {
        AlertDescription::CertificateRequired => format!("it requires a {own} certificate"),
        // The second: an authority of the same name is known.
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            format!("the {own}'s certificate is of an authority that is unknown there")
        }
        AlertDescription::CertificateExpired => format!("the {own}'s certificate has expired"),
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => format!("it refuses the {own}'s certificate ({alert:?})"),
        AlertDescription::NoApplicationProtocol => "it does not speak h2 (ALPN), which gRPC needs".to_owned(),
        AlertDescription::UnrecognisedName => "it has no certificate for that name".to_owned(),
        AlertDescription::ProtocolVersion => "it speaks neither TLS 1.2 nor 1.3".to_owned(),
        // TLS 1.2 has no alert of its own for a missing certificate.
        AlertDescription::HandshakeFailure => {
            format!("no agreement (HandshakeFailure): of ciphers, or it requires a {own} certificate")
        }
        alert => format!("{alert:?}"),
    }
}

/// The name itself of what rustls prints as `DnsName("a.internal")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

fn span(from: UnixTime, to: UnixTime) -> String {
    let seconds = to.as_secs().saturating_sub(from.as_secs());
    match seconds {
        172_800.. => format!("{} days", seconds / 86_400),
        7_200.. => format!("{} hours", seconds / 3_600),
        _ => format!("{:?}", Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_alert_is_put_in_words_from_the_right_side() {
        for (alert, peer, expected) in [
            (
                AlertDescription::CertificateRequired,
                Peer::Server,
                "the server ended TLS: it requires a client certificate",
            ),
            (
                AlertDescription::UnknownCA,
                Peer::Client,
                "the client ended TLS: the server's certificate is of an authority that is unknown there",
            ),
            (AlertDescription::InternalError, Peer::Server, "the server ended TLS: InternalError"),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, Error::AlertReceived(alert));
            assert_eq!(in_words(error, peer).to_string(), expected);
        }
    }

    #[test]
    fn an_error_of_the_stream_below_stays_as_it_is() {
        let error = in_words(io::ErrorKind::ConnectionReset.into(), Peer::Server);
        assert_eq!(error.to_string(), io::Error::from(io::ErrorKind::ConnectionReset).to_string());
    }
}
