//! One connection, and how much room it has.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hither_core::Address;
use http::{Request, Response};

use super::watched::{Peer, Stage};
use super::{Failure, Http2, RequestBody, ResponseBody, Transport};
use crate::client::connector::Connector;

/// One open HTTP/2 connection. It closes when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    address: Address,
    transport: Http2,
    peer: Arc<Peer>,
    reserved: AtomicUsize,
}

impl Connection {
    /// Connects, and waits until the peer has said that it speaks HTTP/2.
    ///
    /// # Cancellation
    /// Gives the connection up.
    pub(crate) async fn open(connector: &dyn Connector, address: &Address) -> io::Result<Self> {
        let io = connector.connect(address).await?;
        let peer = Arc::new(Peer::new());
        let mut stage = peer.stage();
        let transport = Http2::start(io, Arc::clone(&peer)).await?;
        let connection = Self { address: address.clone(), transport, peer, reserved: AtomicUsize::new(0) };
        let stage = stage.wait_for(|stage| *stage != Stage::Greeting).await.map(|stage| stage.clone());
        match stage {
            Ok(Stage::Open) => Ok(connection),
            Ok(Stage::Closed(reason)) => Err(io::Error::other(reason)),
            _ => Err(io::Error::other("the peer takes no calls")),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Takes room for one call, if there is some. It is given back with [`release`](Self::release).
    pub(crate) fn try_reserve(&self) -> bool {
        self.is_usable() && {
            let room = usize::try_from(self.peer.max_streams()).unwrap_or(usize::MAX);
            let take = |reserved: usize| (reserved < room).then_some(reserved + 1);
            self.reserved.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
        }
    }

    pub(crate) fn release(&self) {
        self.reserved.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether as many calls are under way as the peer allows.
    pub(crate) fn is_full(&self) -> bool {
        self.peer.max_streams() as usize <= self.reserved.load(Ordering::SeqCst)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.reserved.load(Ordering::SeqCst) == 0
    }

    /// Whether it takes new calls.
    pub(crate) fn is_usable(&self) -> bool {
        self.peer.is_open() && !self.transport.is_closed()
    }

    /// Sends one request, for which room was taken; resolves with the response's headers.
    ///
    /// # Cancellation
    /// Cancels the call.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let sent = self.transport.clone().send(request).await;
        if let Err(Failure::Unsent) = sent {
            self.peer.retire();
        }
        sent
    }

    /// Completes when it takes no new calls any more, and says why.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) fn gone(&self) -> impl Future<Output = String> + Send + 'static + use<> {
        let mut stage = self.peer.stage();
        async move {
            match stage
                .wait_for(|stage| matches!(stage, Stage::GoingAway | Stage::Closed(_)))
                .await
                .as_deref()
            {
                Ok(Stage::Closed(reason)) => reason.clone(),
                Ok(_) => "the peer is going away".to_owned(),
                Err(_) => "closed".to_owned(),
            }
        }
    }
}
