//! TLS over the streams of another connector.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use hither_core::Address;
use http::uri::Scheme;
use rustls::ClientConfig;
use tokio::sync::watch;

use super::ClientTls;
use super::name::Names;
use super::stream::TlsStream;
use crate::client::connector::{Connected, Connector, Destination};
use crate::client::server_key::ServerKeys;
use crate::error::Result;
use crate::tls::{H2, Peer, Watched, in_words};

/// Does a TLS handshake over what another connector has opened.
#[derive(Debug)]
pub(crate) struct TlsConnector {
    inner: Arc<dyn Connector>,
    config: Watched<ClientConfig>,
    names: Names,
}

impl TlsConnector {
    /// Checks the settings, and the addresses that are known already; follows the files. Needs a Tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` for settings that cannot be used.
    pub(crate) fn new(inner: Arc<dyn Connector>, tls: &ClientTls, known: &[Address]) -> Result<Self> {
        let mut names = tls.names.clone();
        names.optional = !tls.spiffe.is_empty() && !names.are_set();
        let config = tls.start()?;
        names.check(known)?;
        Ok(Self { inner, config, names })
    }

    /// Notifies of each change of the files, after which connections are made with what is new.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.config.changes()
    }

    /// A connection is made for one name.
    pub(crate) fn server_keys(&self) -> ServerKeys {
        self.names.metadata_key.as_deref().map(ServerKeys::with_name_from_metadata).unwrap_or_default()
    }
}

#[async_trait]
impl Connector for TlsConnector {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let name = self
            .names
            .of(destination.instance(), destination.address())
            .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why))?;
        let io = self.inner.connect(destination).await?.into_io();
        let handshake = tokio_rustls::TlsConnector::from(self.config.current()).connect(name, io);
        let stream = Box::pin(handshake).await.map_err(failed)?;
        match stream.get_ref().1.alpn_protocol() {
            Some(H2) => Ok(Connected::new(TlsStream::new(stream)).with_scheme(Scheme::HTTPS)),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the server did not select h2 by ALPN, which gRPC needs: it speaks HTTP/1 only, or no ALPN",
            )),
        }
    }

    fn wants_resolved(&self) -> bool {
        self.inner.wants_resolved()
    }
}

fn failed(error: io::Error) -> io::Error {
    // Plaintext servers, and those that are starting.
    if error.kind() == io::ErrorKind::UnexpectedEof {
        let message = "the server closed the connection during the TLS handshake; it may be one without TLS";
        return io::Error::new(io::ErrorKind::UnexpectedEof, message);
    }
    in_words(error, Peer::Server)
}
