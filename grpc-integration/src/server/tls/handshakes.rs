//! Handshakes of accepted connections, side by side.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::super::cut_stream::CutStream;
use super::super::listener::Listener;
use super::super::socket;
use crate::tls::{Peer, Watched, in_words};

/// How long no further warning is logged after one.
const QUIET: Duration = Duration::from_secs(30);
/// How long a client that was refused may take to close its side. A socket that is closed with something unread resets
/// the connection, and then the client may never see the alert that says why.
const LINGER: Duration = Duration::from_secs(1);
/// What such a client may still send.
const LINGER_BYTES: usize = 64 * 1024;

/// Does the handshakes of a listener's connections. Dropping it ends those that are pending.
#[derive(Debug)]
pub(in crate::server) struct Handshakes {
    config: Watched<ServerConfig>,
    timeout: Duration,
    most: usize,
    pending: JoinSet<Result<TlsStream<CutStream>, Failure>>,
    failures: Failures,
}

impl Handshakes {
    pub(super) fn new(config: Watched<ServerConfig>, timeout: Duration, most: usize) -> Self {
        Self { config, timeout, most, pending: JoinSet::new(), failures: Failures::default() }
    }

    /// Accepts connections, and completes with the next whose handshake has succeeded.
    pub(in crate::server) fn poll_next(
        &mut self,
        listener: &mut Listener,
        cx: &mut Context<'_>,
    ) -> Poll<TlsStream<CutStream>> {
        loop {
            match self.pending.poll_join_next(cx) {
                Poll::Ready(Some(Ok(Ok(stream)))) => return Poll::Ready(stream),
                Poll::Ready(Some(Ok(Err(failure)))) => self.failures.on_failure(failure),
                Poll::Ready(Some(Err(error))) => tracing::error!(cause = %error, "TLS handshake panicked"),
                // The task is woken when one ends.
                Poll::Pending if self.pending.len() >= self.most => return Poll::Pending,
                Poll::Pending | Poll::Ready(None) => match listener.poll_accept(cx) {
                    Poll::Ready(stream) => {
                        self.pending.spawn(handshake(self.config.current(), stream, self.timeout));
                    }
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }
}

async fn handshake(
    config: Arc<ServerConfig>,
    stream: CutStream,
    within: Duration,
) -> Result<TlsStream<CutStream>, Failure> {
    let peer = stream.peer();
    match timeout(within, TlsAcceptor::from(config).accept(stream).into_fallible()).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err((error, stream))) => {
            let gone = error.get_ref().is_none_or(|cause| !cause.is::<rustls::Error>());
            if !gone {
                let _ = timeout(LINGER, linger(stream)).await;
            }
            Err(Failure { peer, error: in_words(error, Peer::Client), gone })
        }
        Err(_) => {
            let error = io::Error::new(io::ErrorKind::TimedOut, format!("not done within {within:?}"));
            Err(Failure { peer, error, gone: false })
        }
    }
}

/// Closes this side, and reads until the other one is closed.
async fn linger(mut stream: CutStream) {
    let (mut buf, mut left) = ([0; 1024], LINGER_BYTES);
    if stream.shutdown().await.is_ok() {
        while let Ok(read @ 1..) = stream.read(&mut buf).await {
            left = left.saturating_sub(read);
            if left == 0 {
                return;
            }
        }
    }
}

/// A handshake that has failed.
#[derive(Debug)]
struct Failure {
    peer: socket::Peer,
    error: io::Error,
    /// The connection was closed by the client: a port scan, or a check that the port is open.
    gone: bool,
}

/// Logs handshakes that fail: each at DEBUG; at WARN the first at once, and further ones as a count, at most one line in
/// [`QUIET`].
#[derive(Debug, Default)]
struct Failures {
    warned: Option<Instant>,
    /// Failures since the last warning.
    count: u32,
}

impl Failures {
    fn on_failure(&mut self, Failure { peer, error, gone }: Failure) {
        tracing::debug!(%peer, cause = %error, "TLS handshake failed");
        if gone {
            return;
        }
        self.count = self.count.saturating_add(1);
        if self.warned.is_none_or(|warned| warned.elapsed() >= QUIET) {
            self.warned = Some(Instant::now());
            let count = std::mem::take(&mut self.count);
            tracing::warn!(%peer, cause = %error, count, "TLS handshakes failed; the last");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use rustls::server::ResolvesServerCertUsingSni;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::yield_now;

    use super::super::super::cutter::Cutter;
    use super::super::super::socket::Socket;
    use super::*;
    use crate::tls::provider;

    #[tokio::test]
    async fn no_more_connections_are_accepted_than_may_be_in_their_handshake() {
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
        let config = Watched::fixed(Arc::new(config));
        let mut handshakes = Handshakes::new(config, Duration::from_secs(3600), 3);
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let cutter = Cutter::default();
        let mut listener = Listener::new(Socket::Tcp(socket), cutter.switch());
        // All of them wait to be accepted before the first one is.
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push(TcpStream::connect(address).await.unwrap());
        }
        // It does not speak TLS, and is told so as soon as it is accepted.
        let mut fourth = clients.remove(3);
        fourth.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut open = async |what: &str, done: &mut dyn FnMut(usize) -> bool| {
            let accepting = async {
                while !done(cutter.open().connections) {
                    look(&mut handshakes, &mut listener).await;
                    yield_now().await;
                }
                for _ in 0..10 {
                    look(&mut handshakes, &mut listener).await;
                    yield_now().await;
                }
            };
            timeout(Duration::from_secs(10), accepting).await.unwrap_or_else(|_| panic!("{what}"));
            assert_eq!(cutter.open().connections, 3);
        };
        open("three are accepted", &mut |open| open == 3).await;
        let mut alert = [0; 16];
        let told = fourth.try_read(&mut alert).map_err(|error| error.kind());
        assert_eq!(told, Err(io::ErrorKind::WouldBlock));
        // One gives up, and the fourth takes its place.
        drop(clients.remove(0));
        open("the fourth is accepted", &mut |_| fourth.try_read(&mut alert).is_ok_and(|read| read > 0)).await;
    }

    /// Polls once.
    async fn look(handshakes: &mut Handshakes, listener: &mut Listener) {
        poll_fn(|cx| {
            assert!(handshakes.poll_next(listener, cx).is_pending(), "no handshake is done");
            Poll::Ready(())
        })
        .await;
    }
}
