//! The handle of one connection, and its stream capacity.

use std::fmt;
use std::io;
use std::sync::Arc;

use h2::client;
use hither_core::Address;
use http::uri::Scheme;
use http::{HeaderMap, Request};
use tonic::Status;
use tracing::{Instrument, Span};

use super::config::TransportConfig;
use super::driver::{CONNECTION_WINDOW, Driver, UNSETTLED};
use super::ending::Ending;
use super::header_list;
use super::peer::Stage;
use super::protocol::not_http2;
use super::send_error::{self, SendError};
use super::shared::Shared;
use super::wire::Wire;
use crate::client::connector::{Connector, Destination};
use crate::client::sync::{AtomicBool, Ordering};

/// The limit of headers that h2 is given, beside our own: it ends the connection when a peer exceeds that far, and cuts
/// trailers that exceed it a little without an error. So it is never small.
fn h2_headers(max: u32) -> u32 {
    max.saturating_mul(2).max(32 * 1024 * 1024)
}
/// h2 ends a connection whose peer sends many small DATA frames, unless they are read. That bounds memory, as the window
/// of a stream does too.
const DATA_FRAMES: usize = usize::MAX / 2;

/// How many streams h2 remembers that were reset a moment ago, whose frames are still under way. Frames of those that it
/// has forgotten are errors of the stream, of which it allows no more than a thousand on a connection: no limit is right for
/// a client whose program cancels many calls.
const RESET_STREAMS: usize = 4096;

/// One open HTTP/2 connection. It closes when it is dropped and its last stream has ended.
pub(crate) struct Connection {
    address: Address,
    scheme: Scheme,
    max_response_headers: usize,
    /// After how much that was read the window of a stream is given back: a part of it, so that the peer is never held
    /// back, and seldom.
    pub(super) release_after: usize,
    /// Whether a call has failed because it was lost.
    has_lost: AtomicBool,
    shared: Arc<Shared>,
}

impl Connection {
    /// Connects, and waits for the peer's HTTP/2 SETTINGS.
    ///
    /// # Cancellation
    /// Drops the connection.
    pub(crate) async fn open(
        connector: &dyn Connector,
        destination: Destination<'_>,
        config: &TransportConfig,
    ) -> io::Result<Self> {
        let connected = connector.connect(destination).await?;
        let scheme = connected.scheme().clone();
        let (wire, facts) = Wire::new(connected.into_io());
        let (requests, h2) = client::Builder::new()
            .initial_window_size(config.stream_window)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(h2_headers(config.max_response_headers))
            .initial_max_send_streams(UNSETTLED)
            .data_frame_budget(DATA_FRAMES)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .max_local_error_reset_streams(None)
            .enable_push(false)
            .handshake(wire)
            .await
            .map_err(|error| io::Error::other(send_error::describe(&error)))?;
        let shared = Arc::new(Shared::new(facts, Arc::clone(&config.capacity)));
        let mut stage = shared.peer.stage();
        let connection = Self {
            address: destination.address().clone(),
            scheme,
            max_response_headers: config.max_response_headers as usize,
            release_after: config.stream_window as usize / 4,
            has_lost: AtomicBool::new(false),
            shared: Arc::clone(&shared),
        };
        let driver = Driver::new(shared, h2, requests, config);
        // A span that is none would be entered at each poll all the same.
        match Span::current() {
            span if span.is_none() => tokio::spawn(driver),
            span => tokio::spawn(driver.instrument(span)),
        };
        let stage = stage.wait_for(|stage| *stage != Stage::Handshake).await.map(|stage| stage.clone());
        match stage {
            // GOAWAY and the end may have come with the SETTINGS, or before this was polled again. The peer can be connected to:
            // what such connections are worth is for those who made them to judge.
            Ok(Stage::Open | Stage::GoingAway(_)) => Ok(connection),
            Ok(Stage::Closed(_)) if connection.shared.peer.is_settled() => Ok(connection),
            Ok(Stage::Closed(ending)) => {
                let first = connection.shared.wire.first();
                Err(io::Error::other(not_http2(first).unwrap_or(ending.cause)))
            }
            Ok(Stage::Handshake) | Err(_) => Err(io::Error::other("the connection's task has ended")),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Returns the `:scheme` of requests.
    pub(crate) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Reserves a stream for one call, if there is capacity.
    pub(crate) fn try_reserve(self: &Arc<Self>) -> Option<Slot> {
        if !self.shared.try_reserve() {
            return None;
        }
        Some(Slot { connection: Arc::clone(self), is_call: true })
    }

    /// Reserves a stream for something else than a call: what it brings shows nothing of how calls are answered.
    pub(crate) fn try_reserve_aside(self: &Arc<Self>) -> Option<Slot> {
        let mut slot = self.try_reserve()?;
        slot.is_call = false;
        Some(slot)
    }

    /// Returns whether the peer allows one stream at a time.
    pub(crate) fn has_one_stream(&self) -> bool {
        self.shared.peer.max_streams() <= 1
    }

    /// Returns whether as many calls are in flight as it takes.
    pub(crate) fn is_full(&self) -> bool {
        self.shared.peer.max_streams() <= self.shared.reserved()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.shared.reserved() == 0
    }

    /// Returns whether it accepts new calls.
    pub(crate) fn is_usable(&self) -> bool {
        self.shared.peer.is_open()
    }

    /// Returns whether the call is the first that has failed because it was lost.
    pub(crate) fn is_first_loss(&self) -> bool {
        !self.has_lost.swap(true, Ordering::Relaxed)
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Completes when it accepts no new calls any more, with the reason.
    ///
    /// # Cancellation
    /// Safe.
    pub(crate) fn gone(&self) -> impl Future<Output = Ending> + Send + 'static + use<> {
        let mut stage = self.shared.peer.stage();
        async move {
            match stage
                .wait_for(|stage| matches!(stage, Stage::GoingAway(_) | Stage::Closed(_)))
                .await
                .as_deref()
            {
                Ok(Stage::GoingAway(ending) | Stage::Closed(ending)) => ending.clone(),
                _ => Ending::unused("closed"),
            }
        }
    }

    /// An error for headers above the limit.
    pub(super) fn check_headers(&self, headers: &HeaderMap) -> Result<(), Status> {
        let max = self.max_response_headers;
        let size = header_list::size(headers);
        if size <= max {
            return Ok(());
        }
        let error = format!("headers of {size} bytes exceed the limit of {max}");
        Err(Status::resource_exhausted(error))
    }

    /// An error for a request whose headers exceed what the server has announced that it accepts. They are no larger than
    /// `bound`, which costs less to know than their size.
    #[inline]
    pub(crate) fn check_request(&self, request: &Request<()>, bound: usize) -> Result<(), Status> {
        let max = self.shared.wire.max_request_headers() as usize;
        if bound <= max {
            return Ok(());
        }
        let size = header_list::request_size(request);
        if size <= max {
            return Ok(());
        }
        let error = format!("request headers of {size} bytes exceed the {max} that {} accepts", self.address);
        Err(Status::resource_exhausted(error))
    }

    /// Returns the status for an error of a stream on this connection.
    pub(super) fn status_of(&self, error: &h2::Error) -> Status {
        let lost = if error.is_io() { self.shared.peer.reason() } else { None };
        send_error::status_of(error, lost, self.max_response_headers)
    }

    /// Classifies an error that came instead of a response. `written` is what the connection had written before the
    /// request was sent.
    pub(super) fn classify(&self, error: &h2::Error, written: u64) -> SendError {
        if !error.is_remote() && self.shared.wire.written() == written {
            return SendError::Unsent;
        }
        let status = self.status_of(error);
        match send_error::refusal(error) {
            Some(refusal) => SendError::Refused { status, refusal },
            None if send_error::is_loss(error) => SendError::Lost(status),
            None => SendError::Failed(status),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.queue.orphan();
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A stream reserved for one call, released when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    connection: Arc<Connection>,
    is_call: bool,
}

impl Slot {
    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Headers or data have arrived on the stream.
    pub(super) fn on_answer(&self) {
        let peer = &self.connection.shared.peer;
        if self.is_call {
            peer.on_answer();
        } else {
            peer.on_active();
        }
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.connection.shared
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connection.shared.release();
    }
}
