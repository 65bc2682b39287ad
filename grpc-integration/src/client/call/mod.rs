//! One call: pick, send, and retry transparently what was not processed.

mod attempt;
mod config;
mod content;
mod deadline;
mod http_status;
mod pick;
mod progress;
mod response_body;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use hither_core::Backoff;
use http::header::USER_AGENT;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri, Version};
use tokio::time::{Sleep, sleep, sleep_until};
use tonic::body::Body;
use tonic::{Code, Status};

use super::pool::StateReader;
use super::transport::{Connection, ReplayBody, ResponseBody, SendError};
use attempt::Attempt;
pub use config::WaitForReady;
pub(crate) use config::{CallAuthority, CallConfig};
use content::{Content, KeptHeaders};
use deadline::Deadline;
use pick::{Picked, Picking};
use progress::Progress;
use response_body::CallBody;

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
    // One timer for the whole call, to the end of its response.
    let mut timer = deadline.map(|deadline| (deadline, Box::pin(sleep_until(deadline.at))));
    let mut progress = Progress::Picking;
    let outcome = {
        let call =
            Call { state, config, head, deadline, wait_for_ready, late: false, progress: &mut progress };
        let mut call = pin!(call.run(body));
        poll_fn(|cx| match (call.as_mut().poll(cx), &mut timer) {
            (Poll::Pending, Some((deadline, timer))) => timer.as_mut().poll(cx).map(|()| Err(*deadline)),
            (outcome, _) => outcome.map(Ok),
        })
        .await
    };
    match outcome {
        Ok(Ok((response, request))) => match progress {
            Progress::Sent(attempt) => Ok(respond(response, request, attempt, timer)),
            _ => Err(Status::internal("a response to a call that was not sent")),
        },
        Ok(Err(status)) => Err(status),
        Err(deadline) => Err(progress.exceeded(deadline)),
    }
}

struct Call<'a> {
    state: &'a StateReader,
    config: &'a CallConfig,
    head: Parts,
    deadline: Option<Deadline>,
    wait_for_ready: bool,
    /// Whether the call has waited, so that less time is left than the request's headers state.
    late: bool,
    progress: &'a mut Progress,
}

impl Call<'_> {
    /// Returns the response, and the request's stream if that goes on.
    async fn run(mut self, body: Body) -> Result<(Response<ResponseBody>, Option<ReplayBody>), Status> {
        let content = Content::begin(body).await?;
        let mut kept = None;
        let mut refusals: Option<Backoff> = None;
        loop {
            let (attempt, slot) = self.pick().await?;
            let Some(body) = content.attempt() else {
                // What was sent before is not buffered any more.
                return Err(match std::mem::replace(self.progress, Progress::Picking) {
                    Progress::Refused(status) => status,
                    _ => Status::internal("the request body cannot be replayed"),
                });
            };
            let kept = kept.get_or_insert_with(|| KeptHeaders::of(&self.head.headers));
            let request = self.request(&attempt)?;
            *self.progress = Progress::Sent(attempt);
            let sent = slot.send(request, body, self.deadline.map(|deadline| deadline.at)).await;
            let Progress::Sent(attempt) = self.progress else { continue };
            let refused = match sent {
                Ok(response) if http_status::is_grpc(response.status(), response.headers()) => {
                    return Ok((response, content.commit()));
                }
                Ok(response) => {
                    let status = attempt.at_peer(&http_status::status_of(response).await);
                    attempt.ended(status.code());
                    return Err(status);
                }
                Err(SendError::Unsent) => None,
                Err(SendError::Refused(status)) => Some(attempt.at_peer(&status)),
                Err(SendError::Failed(status)) => {
                    let status = content.failed().unwrap_or_else(|| attempt.at_peer(&status));
                    attempt.ended(status.code());
                    return Err(status);
                }
            };
            attempt.ended(Code::Unavailable);
            self.head.headers = kept.restore();
            self.late = true;
            if let Some(status) = refused {
                *self.progress = Progress::Refused(status);
                match &mut refusals {
                    // The first time at once, as in gRPC. A server that goes on refusing is not flooded.
                    None => refusals = Some(refusal_backoff()),
                    Some(backoff) => sleep(backoff.next_delay()).await,
                }
            }
        }
    }

    async fn pick(&mut self) -> Result<Picked, Status> {
        let Self { state, head, wait_for_ready, .. } = self;
        let picking =
            Picking { state, path: head.uri.path(), headers: &head.headers, wait_for_ready: *wait_for_ready };
        if let Some(picked) = picking.now(self.progress) {
            return picked;
        }
        self.late = true;
        // Boxed because it is large and rare.
        Box::pin(picking.wait(self.progress)).await
    }

    fn request(&mut self, attempt: &Attempt) -> Result<Request<()>, Status> {
        let mut headers = std::mem::take(&mut self.head.headers);
        headers
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("hither-tonic/", env!("CARGO_PKG_VERSION"))));
        if let Some(deadline) = &self.deadline {
            deadline.write(&mut headers, self.late);
        }
        let mut request = Request::new(());
        *request.uri_mut() = self.uri(attempt.connection())?;
        *request.method_mut() = self.head.method.clone();
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers;
        Ok(request)
    }

    fn uri(&self, connection: &Connection) -> Result<Uri, Status> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(connection.scheme().clone());
        uri.authority = Some(self.config.authority.of(connection.address()));
        let path = self.head.uri.path_and_query().cloned();
        uri.path_and_query = Some(path.unwrap_or(PathAndQuery::from_static("/")));
        Uri::from_parts(uri).map_err(|error| Status::internal(error.to_string()))
    }
}

/// The pauses between the attempts of a call that servers go on refusing.
fn refusal_backoff() -> Backoff {
    Backoff::proportional(Duration::from_millis(5), 2.0, Duration::from_secs(1), 0.2)
}

fn respond(
    response: Response<ResponseBody>,
    request: Option<ReplayBody>,
    mut attempt: Attempt,
    timer: Option<(Deadline, Pin<Box<Sleep>>)>,
) -> Response<Body> {
    attempt.ended_with(response.headers());
    let instance = attempt.instance().clone();
    let mut response = response.map(|body| Body::new(CallBody::new(body, request, attempt, timer)));
    response.extensions_mut().insert(instance);
    response
}
