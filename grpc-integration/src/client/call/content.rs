//! What a call sends: read once, sent as often as there are attempts.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use hither_core::contain::{contain, drop_contained};
use http_body::{Body as _, Frame};
use tonic::Status;
use tonic::body::Body;

use crate::client::transport::{ReplayBody, RequestBody, panicked};

/// The body of a call's request.
#[derive(Debug)]
pub(super) enum Content {
    /// All of it, as in a unary call.
    Complete(Bytes),
    Streamed(ReplayBody),
}

impl Default for Content {
    fn default() -> Self {
        Self::Complete(Bytes::new())
    }
}

impl Content {
    /// Reads what is there at once: for a unary call that is all.
    ///
    /// Nothing is woken by this: what is not there yet is asked for again when the request is sent.
    pub(super) fn begin(mut body: Body) -> Result<Self, Status> {
        let mut cx = Context::from_waker(Waker::noop());
        let beginning = match contain(|| Beginning::read(&mut body, &mut cx)) {
            Ok(read) => read?,
            Err(panic) => {
                drop_contained(body);
                return Err(panicked(&panic));
            }
        };
        match beginning {
            Beginning { first, second: None, ended: true } => match contain(|| drop(body)) {
                Ok(()) => Ok(Self::Complete(first.unwrap_or_default())),
                Err(panic) => Err(panicked(&panic)),
            },
            Beginning { first, second, ended } => {
                let frames = first.map(Frame::data).into_iter().chain(second);
                Ok(Self::Streamed(ReplayBody::new(frames, (!ended).then_some(body))))
            }
        }
    }

    /// Returns the body for one more attempt, if its beginning is still there.
    pub(super) fn attempt(&self) -> Option<RequestBody> {
        match self {
            Self::Complete(data) => Some(RequestBody::Complete(data.clone())),
            Self::Streamed(body) => body.attempt().map(RequestBody::Streamed),
        }
    }

    /// Ends the body of the attempt before, and returns whether there can be another.
    pub(super) fn rewind(&self) -> bool {
        match self {
            Self::Complete(_) => true,
            Self::Streamed(body) => body.rewind(),
        }
    }

    /// Returns whether all of it is there, so that several attempts can send it at the same time.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self, Self::Complete(_))
    }

    /// There will be no other attempt.
    pub(super) fn commit(self) -> Option<ReplayBody> {
        match self {
            Self::Complete(_) => None,
            Self::Streamed(body) => {
                body.commit();
                Some(body)
            }
        }
    }

    /// Returns the error that the caller's stream has ended with.
    pub(super) fn failed(&self) -> Option<Status> {
        match self {
            Self::Complete(_) => None,
            Self::Streamed(body) => body.failed(),
        }
    }
}

/// What a body yields at once. Tonic's yields the only message of a unary call, and then its end.
#[derive(Default)]
struct Beginning {
    first: Option<Bytes>,
    second: Option<Frame<Bytes>>,
    ended: bool,
}

impl Beginning {
    fn read(body: &mut Body, cx: &mut Context<'_>) -> Result<Self, Status> {
        let mut this = Self::default();
        while this.second.is_none() && !this.ended {
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => this.ended = true,
                Poll::Ready(Some(frame)) => match (frame?.into_data(), &this.first) {
                    (Ok(data), None) => {
                        this.first = Some(data);
                        this.ended = body.is_end_stream();
                    }
                    (Ok(data), Some(_)) => {
                        this.second = Some(Frame::data(data));
                        this.ended = body.is_end_stream();
                    }
                    (Err(trailers), _) => {
                        this.second = Some(trailers);
                        this.ended = true;
                    }
                },
            }
        }
        Ok(this)
    }
}
