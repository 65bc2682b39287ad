//! One call: pick, send, and retry transparently what was not processed.

mod attempt;
mod deadline;
mod response_body;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{Address, AddressKind};
use http::header::USER_AGENT;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Request, Response, Uri, Version};
use tokio::time::sleep_until;
use tonic::body::Body;
use tonic::{Code, Status};

use super::balance::{CallInfo, Pick};
use super::pool::{Ready, State, StateReader, closed};
use super::transport::{ReplayBody, RequestBody, ResponseBody, SendError};
use attempt::Attempt;
use deadline::Deadline;
use response_body::CallBody;

/// How often the picker is asked while it picks instances without capacity.
const TRIES: usize = 3;

/// Sets for a single call whether it waits until an instance is ready, whatever the channel's own setting.
///
/// A call that does not wait fails with UNAVAILABLE as soon as it is known that no instance is ready; a
/// wait-for-ready call waits until its deadline. It goes into the request's extensions:
///
/// ```
/// use hither_tonic::WaitForReady;
///
/// let mut request = tonic::Request::new("a message");
/// request.extensions_mut().insert(WaitForReady(true));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaitForReady(pub bool);

/// The settings that all calls of a channel share.
#[derive(Debug)]
pub(crate) struct CallConfig {
    pub(crate) authority: CallAuthority,
    pub(crate) default_timeout: Option<Duration>,
    pub(crate) wait_for_ready: bool,
}

/// The `:authority` of calls.
#[derive(Debug)]
pub(crate) enum CallAuthority {
    Fixed(Authority),
    /// The address that an attempt is sent to.
    PerInstance,
}

impl CallAuthority {
    fn of(&self, peer: &Address) -> Authority {
        let localhost = || Authority::from_static("localhost");
        match (self, peer.kind()) {
            (Self::Fixed(authority), _) => authority.clone(),
            (Self::PerInstance, AddressKind::Unix(_)) => localhost(),
            // A connector may understand a host name that is no authority.
            (Self::PerInstance, _) => peer.to_string().parse().unwrap_or_else(|_| localhost()),
        }
    }
}

/// Makes one call.
///
/// # Cancellation
/// Cancels the call.
pub(crate) async fn call(
    state: &StateReader,
    config: &CallConfig,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let deadline = Deadline::of(&head.headers, config.default_timeout);
    let wait_for_ready = head.extensions.get().map_or(config.wait_for_ready, |WaitForReady(wait)| *wait);
    let mut progress = Progress::Picking;
    let call = Call { state, config, head, deadline, wait_for_ready, progress: &mut progress };
    let call = call.run(ReplayBody::new(body));
    let Some(deadline) = deadline else {
        return call.await;
    };
    let outcome = tokio::select! {
        biased;
        () = sleep_until(deadline.at) => None,
        outcome = call => Some(outcome),
    };
    outcome.unwrap_or_else(|| Err(deadline.exceeded(progress)))
}

/// How far a call has come: the message when its deadline is exceeded.
enum Progress {
    Picking,
    /// No instance was ready, for this reason.
    Waiting(String),
    /// No connection had capacity.
    Full,
    Sent(Address),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Picking => f.write_str("no instance was picked"),
            Self::Waiting(reason) => f.write_str(reason),
            Self::Full => f.write_str("all connections have as many calls as the servers allow"),
            Self::Sent(peer) => write!(f, "no answer from {peer}"),
        }
    }
}

/// The outcome of one look at the state.
enum Picked {
    Done(Result<Attempt, Status>),
    /// No connection has capacity.
    Full,
    /// The call is queued until the state changes.
    Queued,
}

struct Call<'a> {
    state: &'a StateReader,
    config: &'a CallConfig,
    head: Parts,
    deadline: Option<Deadline>,
    wait_for_ready: bool,
    progress: &'a mut Progress,
}

impl Call<'_> {
    async fn run(mut self, body: ReplayBody) -> Result<Response<Body>, Status> {
        let mut refused = None;
        loop {
            let mut attempt = self.pick().await?;
            let Some(replayed) = body.attempt() else {
                // What was sent before is not buffered any more.
                return Err(
                    refused.unwrap_or_else(|| Status::internal("the request body cannot be replayed"))
                );
            };
            *self.progress = Progress::Sent(attempt.peer().clone());
            let request = self.request(replayed, &attempt)?;
            let status = match attempt.connection().send(request).await {
                Ok(response) => return Ok(self.respond(response, body, attempt)),
                Err(SendError::Unsent) => {
                    attempt.ended(Code::Unavailable);
                    continue;
                }
                Err(SendError::Refused(status)) if refused.is_none() => {
                    attempt.ended(Code::Unavailable);
                    refused = Some(attempt.at_peer(&status));
                    continue;
                }
                Err(SendError::Refused(status) | SendError::Failed(status)) => status,
            };
            let status = body.failed().unwrap_or_else(|| attempt.at_peer(&status));
            attempt.ended(status.code());
            return Err(status);
        }
    }

    /// Waits for an instance with capacity.
    async fn pick(&mut self) -> Result<Attempt, Status> {
        // Nearly always this is all, and takes no lock.
        if let Picked::Done(picked) = self.try_pick() {
            return picked;
        }
        // When there are no more changes, the pool has published `Closed`.
        let mut changes = self.state.changes();
        loop {
            {
                let (_waiter, capacity) = self.state.capacity().wait();
                let mut capacity = pin!(capacity);
                capacity.as_mut().enable();
                match self.try_pick() {
                    Picked::Done(picked) => return picked,
                    Picked::Queued => {}
                    Picked::Full => {
                        tokio::select! {
                            _ = changes.changed() => {}
                            () = capacity => {}
                        }
                        continue;
                    }
                }
            }
            // If this call was woken for free capacity, another one has to be woken in its place.
            self.state.capacity().wake_one();
            let _ = changes.changed().await;
        }
    }

    fn try_pick(&mut self) -> Picked {
        match &**self.state.load() {
            State::Ready(ready) => self.pick_among(ready),
            State::Failing(reason) if !self.wait_for_ready => Picked::Done(Err(reason.error().into())),
            State::Failing(reason) | State::Connecting(reason) => {
                *self.progress = Progress::Waiting(reason.to_string());
                Picked::Queued
            }
            State::Closed => Picked::Done(Err(closed().into())),
        }
    }

    fn pick_among(&mut self, ready: &Ready) -> Picked {
        let info = CallInfo::new(self.head.uri.path(), &self.head.headers);
        let attempt = |reservation| Picked::Done(Ok(Attempt::new(reservation, Arc::clone(&ready.picker))));
        for _ in 0..TRIES {
            match ready.picker.pick(&info) {
                Pick::Instance(instance) => {
                    if let Some(reservation) = instance.reserve() {
                        return attempt(reservation);
                    }
                }
                Pick::Queue => return Picked::Queued,
                Pick::Fail(status) if self.wait_for_ready => {
                    *self.progress = Progress::Waiting(status.message().to_owned());
                    return Picked::Queued;
                }
                Pick::Fail(status) | Pick::Drop(status) => return Picked::Done(Err(status)),
            }
        }
        let mut others: Vec<_> = ready.instances.iter().collect();
        others.sort_by_key(|instance| instance.in_flight());
        if let Some(reservation) = others.into_iter().find_map(|instance| instance.reserve()) {
            return attempt(reservation);
        }
        *self.progress = Progress::Full;
        Picked::Full
    }

    fn request(&self, body: RequestBody, attempt: &Attempt) -> Result<Request<RequestBody>, Status> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(attempt.connection().scheme().clone());
        uri.authority = Some(self.config.authority.of(attempt.peer()));
        let path = self.head.uri.path_and_query().cloned();
        uri.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
        let mut request = Request::new(body);
        *request.uri_mut() = Uri::from_parts(uri).map_err(|error| Status::internal(error.to_string()))?;
        *request.method_mut() = self.head.method.clone();
        *request.version_mut() = Version::HTTP_2;
        // A copy, because the server may refuse the stream (REFUSED_STREAM, GOAWAY) after the headers were given to the
        // transport, which returns them only if nothing was sent; the transparent retry then sends them again.
        let mut headers = self.head.headers.clone();
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("hither-tonic/", env!("CARGO_PKG_VERSION"))));
        if let Some(deadline) = self.deadline {
            deadline.write(&mut headers);
        }
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn respond(
        &self,
        response: Response<ResponseBody>,
        request: ReplayBody,
        mut attempt: Attempt,
    ) -> Response<Body> {
        request.commit();
        attempt.ended_with(response.headers());
        let instance = attempt.instance().clone();
        let mut response =
            response.map(|body| Body::new(CallBody::new(body, request, attempt, self.deadline)));
        response.extensions_mut().insert(instance);
        response
    }
}
