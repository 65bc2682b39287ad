//! An established TLS stream.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client;

use crate::client::connector::BoxedIo;
use crate::tls::{Peer, in_words};

/// A TLS stream whose errors are in words.
///
/// In TLS 1.3 a server refuses a client's certificate after the client has finished its handshake, so that error comes
/// with the first read (rustls/tokio-rustls#38).
pub(super) struct TlsStream(client::TlsStream<BoxedIo>);

impl TlsStream {
    pub(super) fn new(stream: client::TlsStream<BoxedIo>) -> Self {
        Self(stream)
    }

    /// The reason of a write that failed: the alert that came before, if there is one. A server that refuses the client
    /// sends one and closes, and what is written after that resets the connection.
    fn write_error(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Error {
        // What is read here is lost, on a connection that is.
        let mut scratch = [0; 1024];
        loop {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.0).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(Err(alert))
                    if alert.get_ref().is_some_and(|cause| cause.is::<rustls::Error>()) =>
                {
                    return in_words(alert, Peer::Server);
                }
                _ => return error,
            }
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf).map(|outcome| match outcome {
            // Many peers close without close_notify. HTTP/2 has lengths and ends of its own, so nothing that was cut off
            // passes for complete, and this is the end of the stream.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            outcome => outcome.map_err(|error| in_words(error, Peer::Server)),
        })
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.0).poll_write(cx, buf);
        outcome.map(|outcome| outcome.map_err(|error| self.write_error(cx, error)))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.0).poll_write_vectored(cx, bufs);
        outcome.map(|outcome| outcome.map_err(|error| self.write_error(cx, error)))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.0).poll_flush(cx);
        outcome.map(|outcome| outcome.map_err(|error| self.write_error(cx, error)))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::future::join;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::AsyncWriteExt;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::tls::provider;

    #[tokio::test]
    async fn a_write_that_fails_gives_the_alert_that_came_before() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(["a.internal".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider()).build();
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier.unwrap())
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();

        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let name = "a.internal".try_into().unwrap();
        let connect = TlsConnector::from(Arc::new(client)).connect(name, Box::new(ours) as BoxedIo);
        let (connected, accepted) = join(connect, TlsAcceptor::from(Arc::new(server)).accept(theirs)).await;
        assert!(accepted.is_err(), "and its side is closed");
        let mut stream = TlsStream::new(connected.unwrap());
        let error = stream.write_all(b"PRI * HTTP/2.0").await.and(stream.flush().await).unwrap_err();
        assert_eq!(error.to_string(), "the server ended TLS: it requires a client certificate");
    }
}
