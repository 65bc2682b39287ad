//! One request between a call and the task of its connection.

use std::cell::RefCell;
use std::mem;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{Request, Response};
use tokio::time::Instant;

use super::request_body::RequestBody;
use super::upload::{self, Upload};
use crate::client::sync::{Mutex, MutexGuard};

/// How many tickets a thread keeps.
const SPARES: usize = 64;

thread_local! {
    /// Tickets of calls that are over, for those to come: they save an allocation. Each thread has its own, without a lock.
    static SPARE: RefCell<Vec<Arc<Ticket>>> = const { RefCell::new(Vec::new()) };
}

/// A request, until its response has begun. It is in the queue of a connection until the connection's task sends it.
#[derive(Debug)]
pub(super) struct Ticket(Mutex<State>);

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "a ticket is one allocation, as large as its request")]
enum State {
    Queued {
        /// `None` while h2 is given it, under the lock.
        request: Option<Request<()>>,
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
    /// Returns a ticket for a request. It may be one that another call has had, if nothing else refers to that one.
    #[inline(always)]
    pub(super) fn of(request: Request<()>, body: RequestBody, deadline: Option<Instant>) -> Arc<Self> {
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        if let Some(mut ticket) = spare
            && let Some(Self(state)) = Arc::get_mut(&mut ticket)
        {
            let state = state.get_mut().unwrap_or_else(PoisonError::into_inner);
            // Written out twice, so that the request is copied once.
            *state = State::Queued { request: Some(request), body, deadline, waker: None };
            return ticket;
        }
        Arc::new(Self(Mutex::new(State::Queued { request: Some(request), body, deadline, waker: None })))
    }

    /// The call needs its ticket no more.
    pub(super) fn recycle(self: Arc<Self>) {
        // An error means that the thread is about to end.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARES {
                spare.push(self);
            }
        });
    }

    /// Sends the request, unless its call is over or its deadline has passed: then nothing is sent. `now` is asked for
    /// only if there is a deadline. Returns what is left to send of its body; an error if the connection accepts no
    /// request.
    pub(super) fn send(
        &self,
        requests: &mut SendRequest<Bytes>,
        written: u64,
        now: impl FnOnce() -> Instant,
    ) -> Result<Option<Upload>, Unsent> {
        let mut state = self.lock();
        let State::Queued { request, body, deadline, waker } = &mut *state else { return Ok(None) };
        if deadline.is_some_and(|deadline| deadline <= now()) {
            // The call ends by its own timer. The caller's body is dropped without the lock.
            let expired = mem::replace(&mut *state, State::Over);
            drop(state);
            drop(expired);
            return Ok(None);
        }
        let Some(request) = request.take() else { return Ok(None) };
        let (body, waker) = (mem::take(body), waker.take());
        match requests.send_request(request, body.is_empty()) {
            Ok((mut response, stream)) => {
                let upload = upload::begin(stream, body);
                // So that the response wakes the call, which need not be woken for this.
                let has_ended = waker.as_ref().is_some_and(|waker| {
                    Pin::new(&mut response).poll(&mut Context::from_waker(waker)).is_ready()
                });
                *state = State::Sent { response, written };
                // A caller's waker is its own code, and is dropped without the lock too.
                drop(state);
                if has_ended && let Some(waker) = waker {
                    // The next poll returns it again, and h2 has kept no waker.
                    waker.wake();
                }
                Ok(upload)
            }
            Err(_) => {
                *state = State::Unsent;
                drop(state);
                if let Some(waker) = waker {
                    waker.wake();
                }
                Err(Unsent)
            }
        }
    }

    /// Returns whether its call has ended.
    pub(super) fn is_over(&self) -> bool {
        matches!(*self.lock(), State::Over)
    }

    /// Returns whether its request was sent, while its call has no outcome.
    pub(super) fn was_sent(&self) -> bool {
        matches!(*self.lock(), State::Sent { .. })
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

    /// Polls for the response.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let mut state = self.lock();
        let outcome = match &mut *state {
            State::Queued { waker, .. } => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                    *waker = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
            State::Sent { response, written } => match ready!(Pin::new(response).poll(cx)) {
                Ok(response) => Outcome::Response(response),
                Err(error) => Outcome::Failed { error, written: *written },
            },
            State::Unsent => Outcome::Unsent,
            // Its deadline had passed before it was sent, or it was polled after its end.
            State::Over => return Poll::Pending,
        };
        *state = State::Over;
        Poll::Ready(outcome)
    }

    /// The call is over. Returns the stream, if there is one that has no response yet.
    pub(super) fn cancel(&self) -> Option<ResponseFuture> {
        let state = mem::replace(&mut *self.lock(), State::Over);
        // The request, and with it the caller's body, are dropped without the lock.
        match state {
            State::Sent { response, .. } => Some(response),
            State::Queued { .. } | State::Unsent | State::Over => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The request was not sent, and its call knows.
#[derive(Debug)]
pub(super) struct Unsent;

/// What has become of a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Response(Response<RecvStream>),
    /// `written`: how many bytes the connection had written before the request was sent.
    Failed {
        error: h2::Error,
        written: u64,
    },
    Unsent,
}
