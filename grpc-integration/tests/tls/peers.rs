//! Servers that are not ours: tonic's, and some that misbehave.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::pki::{Ca, Issued};
use crate::support::Echo;

/// A tonic server with tonic's TLS. Dropping it ends it.
pub(crate) struct TonicServer {
    pub(crate) address: SocketAddr,
    pub(crate) accepted: Arc<AtomicUsize>,
    pub(crate) echo: Echo,
    served: JoinHandle<()>,
}

impl TonicServer {
    pub(crate) async fn start(identity: &Issued, client_ca: Option<&Ca>) -> Self {
        let mut tls =
            ServerTlsConfig::new().identity(Identity::from_pem(&identity.certificate, &identity.key));
        if let Some(ca) = client_ca {
            tls = tls.client_ca_root(Certificate::from_pem(ca.pem()));
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = Echo::new("tonic");
        let mut server = Server::builder().tls_config(tls).unwrap();
        let accepted = Arc::<AtomicUsize>::default();
        let counter = Arc::clone(&accepted);
        let incoming = TcpListenerStream::new(listener).inspect(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
        });
        let router = server.add_service(echo.clone());
        let served = tokio::spawn(async move { router.serve_with_incoming(incoming).await.unwrap() });
        Self { address, accepted, echo, served }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }
}

impl Drop for TonicServer {
    fn drop(&mut self) {
        self.served.abort();
    }
}

/// Does `serve` with each connection to the address that is returned.
pub(crate) async fn raw<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// A server that writes this when something arrives, and goes on reading.
pub(crate) async fn plaintext(answer: &'static [u8]) -> String {
    raw(move |mut stream| async move {
        let mut buf = [0; 4096];
        let _ = stream.read(&mut buf).await;
        let _ = stream.write_all(answer).await;
        while stream.read(&mut buf).await.is_ok_and(|read| read > 0) {}
    })
    .await
}

/// A TLS server that does the handshake, and then nothing but reading.
pub(crate) async fn tls(config: ServerConfig) -> String {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(mut stream) = acceptor.accept(stream).await {
                let mut buf = [0; 4096];
                while stream.read(&mut buf).await.is_ok_and(|read| read > 0) {}
            }
        }
    })
    .await
}

/// A configuration of a server with these protocols.
pub(crate) fn server_config(identity: &Issued, alpn: &[&str]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity.chain(), identity.key())
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// The address of a server that accepts and does nothing.
pub(crate) async fn silent() -> String {
    raw(|stream| async move {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        drop(stream);
    })
    .await
}
