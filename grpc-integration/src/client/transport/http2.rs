//! HTTP/2 over hyper.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::Instrument;

use super::peer::Peer;
use super::watched::Watched;
use super::{RequestBody, SendError, Transport, status_of};
use crate::client::connector::BoxedIo;

/// How long a peer may take to read our last frames before the connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// hyper's handle of one connection, which closes when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Hyper {
    requests: SendRequest<RequestBody>,
    /// Held for reading while a request is put into hyper's queue, and for writing while the queue is dropped.
    ///
    /// Without it a request that is put in at that very moment would neither be taken out nor returned, and its
    /// call would hang: a Tokio channel that is dropped while a value is half-way in keeps the value until its
    /// last sender is gone, and that is us.
    queue: Arc<RwLock<()>>,
    _held: Arc<oneshot::Sender<()>>,
}

impl Hyper {
    /// Sends the connection preface, and spawns the task that drives the connection. `peer` gets what the peer
    /// announces, and the end of the connection.
    pub(crate) async fn start(io: BoxedIo, peer: Arc<Peer>) -> io::Result<Self> {
        let (io, mut cut) = Watched::new(io, Arc::clone(&peer));
        let (requests, mut connection) =
            Builder::new(TokioExecutor::new()).handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        let (held, dropped) = oneshot::channel();
        let queue = Arc::<RwLock<()>>::default();
        let dispatch = Arc::clone(&queue);
        let drive = async move {
            match (&mut connection).await {
                Ok(()) => peer.close("closed"),
                Err(error) => peer.close(status_of(&error).message()),
            }
            {
                let _no_sender = dispatch.write().unwrap_or_else(PoisonError::into_inner);
                drop(connection);
            }
            // After GOAWAY hyper's connection ends long before its last stream does.
            tokio::select! {
                () = cut.released() => return,
                _ = dropped => {}
            }
            if timeout(CLOSE_TIMEOUT, cut.released()).await.is_err() {
                tracing::debug!("peer did not read GOAWAY; closing");
            }
        };
        tokio::spawn(drive.in_current_span());
        Ok(Self { requests, queue, _held: Arc::new(held) })
    }
}

impl Transport for Hyper {
    type Body = Incoming;

    fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }

    async fn send(&mut self, request: Request<RequestBody>) -> Result<Response<Incoming>, SendError> {
        let response = {
            let _queue_stays = self.queue.read().unwrap_or_else(PoisonError::into_inner);
            self.requests.try_send_request(request)
        };
        match response.await {
            Ok(response) => Ok(response),
            Err(error) if error.message().is_some() => Err(SendError::Unsent),
            Err(error) => Err(SendError::of(&error.into_error())),
        }
    }
}
