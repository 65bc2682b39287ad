//! Sending one request on a reserved stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use tokio::time::Instant;

use super::connection::Slot;
use super::request_body::RequestBody;
use super::response_body::{ResponseBody, reset};
use super::send_error::SendError;
use super::ticket::{Outcome, Ticket};

/// The future of a response's headers. Dropping it cancels the request: if it was not sent yet, nothing is sent.
#[derive(Debug)]
pub(crate) struct Sending {
    /// `None` once there is an outcome.
    request: Option<(Arc<Ticket>, Slot)>,
}

impl Sending {
    /// Sends the request, unless `deadline` passes before that.
    #[inline(always)]
    pub(crate) fn new(
        slot: Slot,
        request: Request<()>,
        body: RequestBody,
        deadline: Option<Instant>,
    ) -> Self {
        let ticket = Ticket::of(request, body, deadline);
        if !slot.shared().queue.push(&ticket) {
            ticket.give_back();
        }
        Self { request: Some((ticket, slot)) }
    }
}

impl Sending {
    /// Whether the request is out of the connection's queue.
    pub(crate) fn was_sent(&self) -> bool {
        self.request.as_ref().is_none_or(|(ticket, _)| ticket.was_sent())
    }
}

impl Future for Sending {
    type Output = Result<Response<ResponseBody>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some((ticket, _)) = &self.request else { return Poll::Pending };
        let outcome = ready!(ticket.poll(cx));
        let Some((ticket, slot)) = self.request.take() else { return Poll::Pending };
        ticket.recycle();
        Poll::Ready(match outcome {
            Outcome::Response(response) => ResponseBody::begin(response, slot),
            Outcome::Failed { error, written } => Err(slot.connection().classify(&error, written)),
            Outcome::Unsent => Err(SendError::Unsent),
        })
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Some((ticket, slot)) = self.request.take() else { return };
        if let Some(response) = ticket.cancel() {
            slot.shared().peer.on_given_up();
            reset(response, slot);
        }
    }
}
