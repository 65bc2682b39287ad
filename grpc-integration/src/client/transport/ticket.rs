//! One request on its way to the connection's task, and the response on its way back.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response};
use tokio::time::Instant;

use super::connection::Slot;
use super::request_body::RequestBody;
use super::resets::Cancelled;
use super::response_body::ResponseBody;
use super::send_error::SendError;
use super::upload;

/// A request, until its response has begun. It is in the queue of a connection until the connection's task sends it.
#[derive(Debug)]
pub(super) struct Ticket(Mutex<State>);

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a ticket is one allocation, as large as its request")]
enum State {
    Queued {
        request: Request<()>,
        body: RequestBody,
        deadline: Option<Instant>,
        waker: Option<Waker>,
    },
    Sent {
        response: ResponseFuture,
        /// How many bytes the connection had written before: when it still has not written more, this was not sent.
        written: u64,
    },
    /// It was not sent, and is not going to be.
    Unsent,
    /// The response has begun, or the call is over.
    Over,
}

impl Ticket {
    pub(super) fn new(request: Request<()>, body: RequestBody, deadline: Option<Instant>) -> Self {
        Self(Mutex::new(State::Queued { request, body, deadline, waker: None }))
    }

    /// Sends the request, unless its call is over or its deadline has passed: then nothing is sent. `now` is asked for
    /// only if there is a deadline. Returns `false` if the connection accepts no request.
    pub(super) fn send(
        &self,
        requests: &mut SendRequest<Bytes>,
        written: u64,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        let mut state = self.lock();
        let State::Queued { request, body, deadline, waker } = mem::replace(&mut *state, State::Over) else {
            return true;
        };
        if deadline.is_some_and(|deadline| deadline <= now()) {
            // The call ends by its own timer.
            return true;
        }
        match requests.send_request(request, body.is_empty()) {
            Ok((mut response, stream)) => {
                upload::start(stream, body);
                if let Some(waker) = &waker {
                    // So that the response wakes the call, which need not be woken for this.
                    let _ = Pin::new(&mut response).poll(&mut Context::from_waker(waker));
                }
                *state = State::Sent { response, written };
                true
            }
            Err(_) => {
                *state = State::Unsent;
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
                false
            }
        }
    }

    /// It is not going to be sent.
    pub(super) fn give_back(&self) {
        let mut state = self.lock();
        if let State::Queued { waker, .. } = &mut *state {
            let waker = waker.take();
            let queued = mem::replace(&mut *state, State::Unsent);
            drop(state);
            drop(queued);
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The future of a response's headers. Dropping it cancels the request: if it was not sent yet, nothing is sent.
#[derive(Debug)]
pub(crate) struct Sending {
    ticket: Arc<Ticket>,
    /// `None` once the response has begun.
    slot: Option<Slot>,
}

impl Sending {
    pub(super) fn new(ticket: Arc<Ticket>, slot: Slot) -> Self {
        Self { ticket, slot: Some(slot) }
    }
}

impl Future for Sending {
    type Output = Result<Response<ResponseBody>, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.ticket.lock();
        let ended = match &mut *state {
            State::Queued { waker, .. } => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            State::Sent { response, written } => match Pin::new(response).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(response)) => Ok(response),
                Poll::Ready(Err(error)) => Err(Some((error, *written))),
            },
            State::Unsent => Err(None),
            // Deadline passed before it was sent.
            State::Over => return Poll::Pending,
        };
        *state = State::Over;
        drop(state);
        let Some(slot) = this.slot.take() else { return Poll::Pending };
        Poll::Ready(match ended {
            Ok(response) => ResponseBody::begin(response, slot),
            Err(Some((error, written))) => Err(slot.connection().classify(&error, written)),
            Err(None) => Err(SendError::Unsent),
        })
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        // The request and the caller's body are dropped without the lock.
        let state = mem::replace(&mut *self.ticket.lock(), State::Over);
        if let State::Sent { response, .. } = state {
            Cancelled::response(response, slot).end();
        }
    }
}
