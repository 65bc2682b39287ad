//! One connection and its stream capacity.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hither_core::Address;
use http::uri::Scheme;
use http::{Request, Response};

use super::peer::{Peer, Stage};
use super::{Http2, RequestBody, ResponseBody, SendError, Transport};
use crate::client::connector::{Connector, Destination};

/// One open HTTP/2 connection. It closes when it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    address: Address,
    scheme: Scheme,
    transport: Http2,
    peer: Arc<Peer>,
    reserved: AtomicUsize,
}

impl Connection {
    /// Connects, and waits for the peer's HTTP/2 SETTINGS.
    ///
    /// # Cancellation
    /// Drops the connection.
    pub(crate) async fn open(connector: &dyn Connector, destination: Destination<'_>) -> io::Result<Self> {
        let connected = connector.connect(destination).await?;
        let scheme = connected.scheme().clone();
        let peer = Arc::new(Peer::new());
        let mut stage = peer.stage();
        let transport = Http2::start(connected.into_io(), Arc::clone(&peer)).await?;
        let address = destination.address().clone();
        let connection = Self { address, scheme, transport, peer, reserved: AtomicUsize::new(0) };
        let stage = stage.wait_for(|stage| *stage != Stage::Handshake).await.map(|stage| stage.clone());
        match stage {
            Ok(Stage::Open) => Ok(connection),
            Ok(Stage::Closed(reason)) => Err(io::Error::other(reason)),
            _ => Err(io::Error::other("the peer accepts no calls")),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the `:scheme` of requests.
    pub(crate) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Reserves a stream for one call, if there is capacity. It is released with [`release`](Self::release).
    pub(crate) fn try_reserve(&self) -> bool {
        self.is_usable() && {
            let max = usize::try_from(self.peer.max_streams()).unwrap_or(usize::MAX);
            let take = |reserved: usize| (reserved < max).then_some(reserved + 1);
            self.reserved.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
        }
    }

    pub(crate) fn release(&self) {
        self.reserved.fetch_sub(1, Ordering::SeqCst);
    }

    /// Returns whether as many calls are in flight as the peer allows.
    pub(crate) fn is_full(&self) -> bool {
        self.peer.max_streams() as usize <= self.reserved.load(Ordering::SeqCst)
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.reserved.load(Ordering::SeqCst) == 0
    }

    /// Returns whether it accepts new calls.
    pub(crate) fn is_usable(&self) -> bool {
        self.peer.is_open() && !self.transport.is_closed()
    }

    /// Sends one request, for which a stream was reserved; completes with the response's headers.
    ///
    /// # Cancellation
    /// Cancels the call.
    pub(crate) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<ResponseBody>, SendError> {
        let sent = self.transport.clone().send(request).await;
        if let Err(SendError::Unsent) = sent {
            self.peer.retire();
        }
        sent
    }

    /// Completes when it accepts no new calls any more, with the reason.
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
                Ok(_) => "the peer sent GOAWAY".to_owned(),
                Err(_) => "closed".to_owned(),
            }
        }
    }
}
