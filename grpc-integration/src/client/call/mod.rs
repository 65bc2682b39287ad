//! One call: pick, send, and pick again if it did not get there.

mod attempt;
mod deadline;
mod response_body;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hither_core::Address;
use http::header::USER_AGENT;
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, Response, Uri, Version};
use tokio::time::sleep_until;
use tonic::body::Body;
use tonic::{Code, Status};

use super::balance::{CallInfo, Pick};
use super::pool::{Ready, State, StateReader};
use super::transport::{Failure, ReplayBody, RequestBody, ResponseBody};
use attempt::Attempt;
use deadline::Deadline;
use response_body::CallBody;

/// How often the picker is asked when it chooses endpoints that have no room.
const TRIES: usize = 3;

/// Makes a single call wait until an instance is ready, or not, whatever the channel's own setting.
///
/// A call that does not wait fails with UNAVAILABLE as soon as it is known that nobody is ready; one that
/// waits does so until its deadline. It goes into the request's extensions:
///
/// ```
/// use hither_tonic::WaitForReady;
///
/// let mut request = tonic::Request::new("a message");
/// request.extensions_mut().insert(WaitForReady(true));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitForReady(pub bool);

/// What is the same for all calls of a channel.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) authority: Authority,
    pub(crate) default_timeout: Option<Duration>,
    pub(crate) wait_for_ready: bool,
}

/// Makes one call.
///
/// # Cancellation
/// Cancels the call.
pub(crate) async fn call(
    shared: &StateReader,
    settings: &Settings,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let deadline = Deadline::of(&head.headers, settings.default_timeout);
    let wait_for_ready = head.extensions.get().map_or(settings.wait_for_ready, |WaitForReady(wait)| *wait);
    let mut progress = Progress::Picking;
    let call = Call { shared, settings, head, deadline, wait_for_ready, progress: &mut progress };
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

/// How far a call has come: what to say when its time is over.
enum Progress {
    Picking,
    /// Nobody was ready, for this reason.
    Waiting(String),
    /// Everybody was busy.
    Full,
    Sent(Address),
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Picking => f.write_str("no instance was picked"),
            Self::Waiting(why) => f.write_str(why),
            Self::Full => f.write_str("all connections have as many calls as the servers allow"),
            Self::Sent(peer) => write!(f, "no answer from {peer}"),
        }
    }
}

/// What came of a look at who is ready.
enum Picked {
    Done(Result<Attempt, Status>),
    /// All connections are full.
    Full,
    /// The call waits for a change.
    NotNow,
}

struct Call<'a> {
    shared: &'a StateReader,
    settings: &'a Settings,
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
                // What was sent before is not there any more.
                return Err(refused.unwrap_or_else(|| Status::internal("the request is gone")));
            };
            *self.progress = Progress::Sent(attempt.peer().clone());
            let sent = attempt.connection().send(self.request(replayed)?).await;
            let status = match sent {
                Ok(response) => return Ok(self.respond(response, body, attempt)),
                Err(Failure::Unsent) => {
                    attempt.ended(Code::Unavailable);
                    continue;
                }
                Err(Failure::Refused(status)) if refused.is_none() => {
                    attempt.ended(Code::Unavailable);
                    refused = Some(at_peer(&status, attempt.peer()));
                    continue;
                }
                Err(Failure::Refused(status) | Failure::Failed(status)) => status,
            };
            let status = body.failed().unwrap_or_else(|| at_peer(&status, attempt.peer()));
            attempt.ended(status.code());
            return Err(status);
        }
    }

    /// Waits for an endpoint with room.
    async fn pick(&mut self) -> Result<Attempt, Status> {
        // Nearly always this is all, and takes no lock.
        if let Picked::Done(picked) = self.try_pick() {
            return picked;
        }
        // When there are no more changes, the pool has said that it is closed.
        let mut changes = self.shared.changes();
        loop {
            {
                let (_waiting, freed) = self.shared.room().wait();
                let mut freed = pin!(freed);
                freed.as_mut().enable();
                match self.try_pick() {
                    Picked::Done(picked) => return picked,
                    Picked::NotNow => {}
                    Picked::Full => {
                        tokio::select! {
                            _ = changes.changed() => {}
                            () = freed => {}
                        }
                        continue;
                    }
                }
            }
            // The room that this call was told of, if it was, is for somebody else.
            self.shared.room().freed();
            let _ = changes.changed().await;
        }
    }

    fn try_pick(&mut self) -> Picked {
        match &**self.shared.state() {
            State::Ready(ready) => self.pick_among(ready),
            State::Failing(why) if !self.wait_for_ready => {
                Picked::Done(Err(Status::unavailable(why.to_string())))
            }
            State::Failing(why) | State::Connecting(why) => {
                *self.progress = Progress::Waiting(why.to_string());
                Picked::NotNow
            }
            State::Closed => Picked::Done(Err(Status::unavailable(
                "the channel is closed: the Tokio runtime that it was made on is gone",
            ))),
        }
    }

    fn pick_among(&mut self, ready: &Ready) -> Picked {
        let info = CallInfo::new(self.head.uri.path(), &self.head.headers);
        let attempt = |reserved| Picked::Done(Ok(Attempt::new(reserved, Arc::clone(&ready.picker))));
        for _ in 0..TRIES {
            match ready.picker.pick(&info) {
                Pick::Instance(endpoint) => {
                    if let Some(reserved) = endpoint.reserve() {
                        return attempt(reserved);
                    }
                }
                Pick::Queue => return Picked::NotNow,
                Pick::Fail(status) if self.wait_for_ready => {
                    *self.progress = Progress::Waiting(status.message().to_owned());
                    return Picked::NotNow;
                }
                Pick::Fail(status) | Pick::Drop(status) => return Picked::Done(Err(status)),
            }
        }
        let mut others: Vec<_> = ready.endpoints.iter().collect();
        others.sort_by_key(|endpoint| endpoint.in_flight());
        if let Some(reserved) = others.into_iter().find_map(|endpoint| endpoint.reserve()) {
            return attempt(reserved);
        }
        *self.progress = Progress::Full;
        Picked::Full
    }

    fn request(&self, body: RequestBody) -> Result<Request<RequestBody>, Status> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.settings.authority.clone());
        let path = self.head.uri.path_and_query().cloned();
        uri.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
        let mut request = Request::new(body);
        *request.uri_mut() = Uri::from_parts(uri).map_err(|error| Status::internal(error.to_string()))?;
        *request.method_mut() = self.head.method.clone();
        *request.version_mut() = Version::HTTP_2;
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
        let endpoint = attempt.endpoint().clone();
        let mut response =
            response.map(|body| Body::new(CallBody::new(body, request, attempt, self.deadline)));
        response.extensions_mut().insert(endpoint);
        response
    }
}

/// The same status, saying whose it is.
fn at_peer(status: &Status, peer: &Address) -> Status {
    Status::new(status.code(), format!("{} at {peer}", status.message()))
}
