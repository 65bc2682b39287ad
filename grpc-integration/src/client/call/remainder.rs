//! The calls that wait, are refused, or are answered by something that is not gRPC.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use hither_core::Backoff;
use http::{Request, Response};
use tokio::time::sleep;
use tonic::{Code, Status};

use super::attempt::Attempt;
use super::deadline::Timer;
use super::http_status;
use super::progress::Progress;
use super::{Call, CallBody, ResponseBody};
use crate::client::transport::SendError;

/// How often a call is sent again after the server has closed the connection with an error. The call may be the cause, for
/// example with headers that are too large for the server, and would end one connection after the other.
const BLAMES: u32 = 4;

/// What a call comes here with.
pub(super) enum First {
    /// It could not be picked for at once.
    Unpicked(Request<()>),
    /// Its first attempt has ended, without a response of gRPC's.
    Ended(Attempt, Result<Response<ResponseBody>, SendError>),
}

/// A call, and how far it has come.
pub(super) struct Remainder {
    call: Call,
    progress: Progress,
    refusals: Option<Backoff>,
    /// The status that a server has refused it with last.
    refused: Option<Status>,
    /// How many connections were closed with an error under it.
    blames: u32,
}

impl Remainder {
    pub(super) fn of(call: Call) -> Self {
        Self { call, progress: Progress::Picking, refusals: None, refused: None, blames: 0 }
    }

    /// Runs the call to its response.
    pub(super) async fn run(mut self, first: First) -> Result<Response<CallBody>, Status> {
        let mut timer = self.call.timer.take().or_else(|| self.call.head.deadline.map(Timer::new));
        let outcome = {
            let mut attempts = pin!(self.attempts(first));
            poll_fn(|cx| match (attempts.as_mut().poll(cx), &mut timer) {
                (Poll::Pending, Some(timer)) => timer.poll(cx).map(|()| None),
                (outcome, _) => outcome.map(Some),
            })
            .await
        };
        self.call.timer = timer;
        match (outcome, &self.call.timer, self.progress) {
            (Some(Ok(response)), _, Progress::Sent(attempt)) => Ok(self.call.respond(response, attempt)),
            (Some(Ok(_)), _, _) => Err(Status::internal("a response to a call that was not sent")),
            (Some(Err(status)), _, _) => Err(status),
            (None, Some(timer), mut progress) => {
                let status = match &mut progress {
                    Progress::Sent(attempt) => attempt.exceeded(timer.deadline()),
                    progress => timer.deadline().exceeded(progress),
                };
                Err(match self.refused {
                    Some(refused) => {
                        let why = format!("{}; refused before: {}", status.message(), refused.message());
                        Status::new(status.code(), why)
                    }
                    None => status,
                })
            }
            (None, None, _) => Err(Status::internal("a deadline has passed that was not set")),
        }
    }

    /// Sends the call until it is answered. The attempt that was is left in `progress`.
    async fn attempts(&mut self, first: First) -> Result<Response<ResponseBody>, Status> {
        let Self { call, progress, refusals, refused, blames } = self;
        let (mut ended, mut unsent) = match first {
            First::Unpicked(request) => (None, Some(request)),
            First::Ended(attempt, ended) => {
                *progress = Progress::Sent(attempt);
                (Some(ended), None)
            }
        };
        loop {
            if let Some(ended) = ended.take() {
                let Progress::Sent(attempt) = progress else {
                    return Err(Status::internal("an attempt has ended that was not made"));
                };
                // The caller's own error: what was read before it is no whole request.
                if let Err(error) = &ended
                    && let Some(status) = call.content.failed()
                {
                    match error {
                        SendError::Unsent => attempt.unsent(Code::Cancelled),
                        _ => attempt.ended(Code::Cancelled),
                    }
                    return Err(status);
                }
                match ended {
                    Ok(response) if http_status::is_grpc(response.status(), response.headers()) => {
                        return Ok(response);
                    }
                    Ok(response) => {
                        let (head, body) = response.into_parts();
                        let status = attempt.at_peer(&http_status::status_of(&head, body).await);
                        attempt.ended_as(status.code(), &head.headers);
                        return Err(status);
                    }
                    Err(SendError::Unsent) => {
                        let is_usable = attempt.connection().is_usable();
                        attempt.unsent(Code::Unavailable);
                        *progress = Progress::Picking;
                        // A connection that accepts requests and sends none would be asked again and again.
                        if is_usable {
                            pause(refusals).await;
                        }
                    }
                    Err(SendError::Refused { status, blamed }) => {
                        let status = attempt.at_peer(&status);
                        attempt.ended(status.code());
                        *blames += u32::from(blamed);
                        if *blames > BLAMES {
                            return Err(status);
                        }
                        *refused = Some(status);
                        *progress = Progress::Refused;
                        pause(refusals).await;
                    }
                    Err(SendError::Failed(status)) => {
                        let status = attempt.failed(&status, call.head.deadline.as_ref());
                        attempt.ended(status.code());
                        return Err(status);
                    }
                }
            }
            *progress = Progress::Picking;
            let request = unsent.take().unwrap_or_else(|| call.head.again());
            let picking = call.picking(request.headers());
            let (mut attempt, slot) = match picking.now(progress) {
                Some(picked) => picked?,
                None => picking.wait(progress).await?,
            };
            let Some(body) = call.content.attempt() else {
                // It has failed, or what was sent before is not buffered any more.
                let unknown = || Status::internal("the request body cannot be replayed");
                let status = call.content.failed().or(refused.take()).unwrap_or_else(unknown);
                attempt.unsent(Code::Cancelled);
                return Err(status);
            };
            let sending = call.send(&mut attempt, slot, request, body, true)?;
            *progress = Progress::Sent(attempt);
            ended = Some(sending.await);
        }
    }
}

/// The first time a refused call is sent again at once, as in gRPC. A server that goes on refusing is not flooded.
async fn pause(refusals: &mut Option<Backoff>) {
    match refusals {
        None => {
            let (first, longest) = (Duration::from_millis(5), Duration::from_secs(1));
            *refusals = Some(Backoff::proportional(first, 2.0, longest, 0.2));
        }
        Some(backoff) => sleep(backoff.next_delay()).await,
    }
}
