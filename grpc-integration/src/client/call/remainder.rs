//! The calls that wait, are refused, fail, or are answered by something that is not gRPC.

use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use hither_core::Backoff;
use http::{Request, Response};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use super::attempt::Attempt;
use super::deadline::Timer;
use super::failure::{Answer, Failure};
use super::pick::Picking;
use super::progress::Progress;
use super::{Call, ResponseBody};
use crate::client::balance::CallInfo;
use crate::client::ready_instance::ReadyInstance;
use crate::client::retry::Withdrawal;
use crate::client::transport::{Refusal, SendError, Sending, http_status};
use crate::grpc_response::ResponseKind;

/// How often a call is sent again after the server has closed the connection with an error. The call may be the cause, for
/// example with headers that are too large for the server, and would end one connection after the other.
const BLAMES: u32 = 4;
/// How often a call is refused on a connection that goes on, until it fails: with the pauses in between, after some 1.3
/// seconds. Servers and proxies that restart refuse more often than the one time that gRFC A6 knows of (grpc/grpc-node#1969, grpc/grpc-java#10533).
const REFUSALS: u32 = 10;

/// What a call, or another attempt of it, comes here with.
pub(super) enum First {
    /// It could not be picked for at once.
    Unpicked(Request<()>),
    /// It was not sent, and this is why.
    Failed(Failure),
    /// It was sent.
    Sent(Attempt, Sending),
    /// Its first attempt has ended, with a failure or without a response of gRPC's.
    Ended(Attempt, Result<Response<ResponseBody>, SendError>),
    /// A policy makes another attempt.
    Again,
}

/// A call, and how far it has come. Attempts are here what gRFC A6 counts as one: what a server has not processed is sent
/// again.
pub(super) struct Remainder<'a> {
    call: &'a Call,
    pub(super) timer: Option<Timer>,
    progress: Progress,
    /// Where it was sent before.
    tried: Vec<ReadyInstance>,
    /// How many attempts there were before.
    previous: u32,
    pauses: Option<Backoff>,
    /// How often a server has refused it, and not closed the connection.
    refusals: u32,
    /// Since when no attempt is in flight, unless it is the first.
    idle: Option<Instant>,
    /// What the next attempt is paid with, if it is made.
    withdrawal: Option<Withdrawal<'a>>,
    /// What became of it before: the word for that, and the status.
    before: Option<(&'static str, Status)>,
    /// How many connections were closed with an error under it.
    blames: u32,
}

impl<'a> Remainder<'a> {
    pub(super) fn of(call: &'a Call, timer: Option<Timer>) -> Self {
        Self {
            call,
            timer,
            progress: Progress::Picking,
            tried: Vec::new(),
            previous: 0,
            pauses: None,
            refusals: 0,
            idle: None,
            withdrawal: None,
            before: None,
            blames: 0,
        }
    }

    /// Makes the next attempt one that was preceded by this one.
    pub(super) fn follow(&mut self, failure: &Failure, withdrawal: Withdrawal<'a>) {
        self.withdrawal = Some(withdrawal);
        self.tried.extend(failure.instance.clone());
        self.previous += 1;
        self.idle = Some(Instant::now());
        self.before = Some(("failed", failure.status()));
        self.progress = Progress::Picking;
    }

    /// Makes the next attempt one that was preceded by those on these instances, which may not have ended.
    pub(super) fn join(&mut self, tried: &[ReadyInstance], previous: u32) {
        (self.tried, self.previous) = (tried.to_vec(), previous);
    }

    pub(super) fn pay_with(&mut self, withdrawal: Withdrawal<'a>) {
        self.withdrawal = Some(withdrawal);
    }

    /// Returns whether it is the call's first attempt.
    pub(super) fn is_first(&self) -> bool {
        self.previous == 0
    }

    /// Runs one attempt to its response, or until the deadline.
    pub(super) async fn run(&mut self, first: First) -> Result<Answer, Failure> {
        let mut timer = self.take_timer();
        let outcome = within(&mut timer, self.attempt(first)).await;
        self.timer = timer;
        // Given back if nothing was sent.
        self.withdrawal = None;
        let outcome = outcome.unwrap_or_else(|| Err(self.exceeded()));
        // What has failed is in flight no longer, though others of a hedged call may be.
        let progress = mem::replace(&mut self.progress, Progress::Picking);
        match (outcome?, progress) {
            (response, Progress::Sent(_, attempt)) => Ok((response, attempt)),
            _ => Err(Failure::last(Status::internal("a response to a call that was not sent"))),
        }
    }

    /// Picks and sends; waits for an instance with capacity until the deadline.
    pub(super) async fn begin(&mut self, request: Request<()>) -> First {
        let mut timer = self.take_timer();
        let outcome = within(&mut timer, self.send(request)).await;
        self.timer = timer;
        match outcome.unwrap_or_else(|| Err(self.exceeded())) {
            Ok((attempt, sending)) => First::Sent(attempt, sending),
            Err(failure) => First::Failed(failure),
        }
    }

    fn take_timer(&mut self) -> Option<Timer> {
        self.timer.take().or_else(|| self.call.head.deadline.map(Timer::new))
    }

    /// The deadline has passed.
    fn exceeded(&mut self) -> Failure {
        let Some(deadline) = self.call.head.deadline else {
            return Failure::last(Status::internal("a deadline has passed that was not set"));
        };
        let status = match &mut self.progress {
            Progress::Sent(sending, attempt) => attempt.exceeded(&deadline, sending.as_ref()),
            progress => deadline.exceeded(progress),
        };
        Failure::last(match &self.before {
            Some((word, before)) => Status::new(
                status.code(),
                format!("{}; {word} before: {}", status.message(), before.message()),
            ),
            None => status,
        })
    }

    /// Sends the call until a server has processed it; once, if it is hedged: the other attempts have to know where it is. The
    /// attempt that was answered is left in `progress`.
    async fn attempt(&mut self, first: First) -> Result<Response<ResponseBody>, Failure> {
        let (mut ended, mut unsent) = match first {
            First::Unpicked(request) => (None, Some(request)),
            First::Failed(failure) => return Err(failure),
            First::Sent(attempt, sending) => (Some(self.sent(attempt, sending).await), None),
            First::Ended(attempt, ended) => {
                self.progress = Progress::Sent(None, attempt);
                (Some(ended), None)
            }
            First::Again => (None, None),
        };
        loop {
            if let Some(ended) = ended.take() {
                if let Some(response) = self.end(ended).await? {
                    return Ok(response);
                }
                if self.call.is_hedged() {
                    return Err(Failure::unprocessed());
                }
            }
            self.progress = Progress::Picking;
            let request = unsent.take().unwrap_or_else(|| self.call.head.again());
            let (attempt, sending) = self.send(request).await?;
            ended = Some(self.sent(attempt, sending).await);
        }
    }

    /// Waits for the response.
    async fn sent(
        &mut self,
        attempt: Attempt,
        sending: Sending,
    ) -> Result<Response<ResponseBody>, SendError> {
        self.progress = Progress::Sent(Some(sending), attempt);
        poll_fn(|cx| match &mut self.progress {
            Progress::Sent(Some(sending), _) => Pin::new(sending).poll(cx),
            _ => Poll::Pending,
        })
        .await
    }

    /// Picks and sends.
    async fn send(&mut self, request: Request<()>) -> Result<(Attempt, Sending), Failure> {
        let Self { call, progress, tried, previous, withdrawal, before, idle, .. } = self;
        let info = CallInfo::new(call.head.path(), request.headers(), &call.head.extensions);
        let picking = Picking { tried, ..call.picking(info, *previous) };
        let (mut attempt, slot) = match picking.now(progress) {
            Some(picked) => picked?.begin(),
            None => picking.wait(progress).await?.begin(),
        };
        let Some(body) = call.content.attempt() else {
            // It has failed, or what was sent before is not buffered any more.
            let before = before.take().map(|(_, status)| status);
            let unknown = || Status::internal("the request body cannot be replayed");
            let status = call.content.failed().or(before).unwrap_or_else(unknown);
            attempt.unsent(Code::Cancelled);
            return Err(Failure::last(status));
        };
        let sending = call.send(&mut attempt, slot, request, body, Some(*previous));
        if let Some(since) = idle.take() {
            call.context.idled(since.elapsed());
        }
        let sending = sending.map_err(Failure::last)?;
        if let Some(withdrawal) = withdrawal.take() {
            withdrawal.spend();
        }
        Ok((attempt, sending))
    }

    /// An attempt has ended. Returns the response, or nothing if it is to be sent again, now.
    async fn end(
        &mut self,
        ended: Result<Response<ResponseBody>, SendError>,
    ) -> Result<Option<Response<ResponseBody>>, Failure> {
        let Self { call, progress, tried, pauses, refusals, before, blames, idle, .. } = self;
        let Progress::Sent(_, attempt) = progress else {
            return Err(Failure::last(Status::internal("an attempt has ended that was not made")));
        };
        // The caller's own error: what was read before it is no whole request.
        if let Err(error) = &ended
            && let Some(status) = call.content.failed()
        {
            match error {
                SendError::Unsent => attempt.unsent(Code::Cancelled),
                _ => attempt.ended(Code::Cancelled),
            }
            return Err(Failure::last(status));
        }
        match ended {
            Ok(response) => {
                attempt.answered();
                let kind = ResponseKind::of(response.status(), response.headers());
                if !kind.is_grpc {
                    let (head, body) = response.into_parts();
                    let status = attempt.at_peer(&http_status::status_of(&head, body).await);
                    attempt.ended_as(status.code(), &head.headers);
                    return Err(Failure::new(status, attempt).with_pushback(&head.headers));
                }
                if let Some(deadline) = call.head.deadline.filter(|_| call.is_late(kind.code)) {
                    return Err(Failure::last(attempt.exceeded(&deadline, None)));
                }
                let Some(code) = call.failed(kind.code) else { return Ok(Some(response)) };
                attempt.ended_with(response.headers());
                match mem::replace(progress, Progress::Picking) {
                    Progress::Sent(_, attempt) => Err(Failure::answered(code, response, attempt)),
                    _ => Ok(Some(response)),
                }
            }
            Err(SendError::Unsent) => {
                let is_usable = attempt.connection().is_usable();
                attempt.unsent(Code::Unavailable);
                *idle = Some(Instant::now());
                *progress = Progress::Picking;
                // A connection that accepts requests and sends none would be asked again and again.
                if is_usable {
                    pause(pauses).await;
                }
                Ok(None)
            }
            Err(SendError::Refused { status, refusal }) => {
                let status = attempt.at_peer(&status);
                match refusal {
                    Refusal::Stream => attempt.ended(status.code()),
                    Refusal::Close => attempt.turned_away(status.code()),
                    Refusal::Blame => attempt.lost(status.code()),
                }
                *blames += u32::from(refusal == Refusal::Blame);
                if refusal == Refusal::Stream {
                    *refusals += 1;
                    // From the second time on it is an attempt that has failed (gRFC A6).
                    if *refusals > 1 && call.is_repeated_after(status.code()) {
                        return Err(Failure::new(status, attempt));
                    }
                    if !tried.contains(attempt.instance()) {
                        tried.push(attempt.instance().clone());
                    }
                }
                if *blames > BLAMES || *refusals >= REFUSALS {
                    return Err(Failure::last(status));
                }
                *before = Some(("refused", status));
                *idle = Some(Instant::now());
                *progress = Progress::Refused;
                pause(pauses).await;
                Ok(None)
            }
            Err(SendError::Failed(status)) => {
                let status = attempt.failed(&status, call.head.deadline.as_ref());
                attempt.ended(status.code());
                Err(Failure::new(status, attempt))
            }
            Err(SendError::Lost(status)) => {
                let status = attempt.at_peer(&status);
                attempt.lost(status.code());
                Err(Failure::new(status, attempt))
            }
        }
    }
}

/// Runs a future until its end, or until the deadline, if there is one: `None`.
async fn within<T>(timer: &mut Option<Timer>, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|cx| match (future.as_mut().poll(cx), &mut *timer) {
        (Poll::Pending, Some(timer)) => timer.poll(cx).map(|()| None),
        (outcome, _) => outcome.map(Some),
    })
    .await
}

/// The first time a refused call is sent again at once, as in gRPC. A server that goes on refusing is not flooded.
async fn pause(pauses: &mut Option<Backoff>) {
    match pauses {
        None => {
            let (first, longest) = (Duration::from_millis(5), Duration::from_secs(1));
            *pauses = Some(Backoff::proportional(first, 2.0, longest, 0.2));
        }
        Some(backoff) => sleep(backoff.next_delay()).await,
    }
}
