//! One stream of `grpc.health.v1.Health/Watch`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Uri};
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use http_body::Body as _;
use tokio::task::coop::consume_budget;
use tonic::{Code, Status};

use super::message::{Responses, ServingStatus};
use crate::client::call_headers;
use crate::client::transport::http_status::status_of;
use crate::client::transport::{Connection, RequestBody, ResponseBody, SendError, Sending, Slot};
use crate::grpc_response::ResponseKind;

const PATH: &str = "/grpc.health.v1.Health/Watch";

/// A stream on which a server reports its health. Dropping it cancels it.
#[derive(Debug)]
pub(super) struct HealthStream {
    body: ResponseBody,
    responses: Responses,
}

impl HealthStream {
    /// Opens a stream, and waits for the headers of the response.
    ///
    /// # Errors
    /// The status with which it has ended.
    ///
    /// # Cancellation
    /// Cancels the stream.
    pub(super) async fn open(slot: Slot, authority: Authority, message: Bytes) -> Result<Self, Status> {
        let request = request(slot.connection(), authority)?;
        let sent = Sending::new(slot, request, RequestBody::Complete(message), None).await;
        let response = sent.map_err(|error| match error {
            SendError::Unsent => Status::unavailable("the request was not sent"),
            SendError::Refused { status, .. } | SendError::Failed(status) | SendError::Lost(status) => status,
        })?;
        let (head, body) = response.into_parts();
        match ResponseKind::of(head.status, &head.headers) {
            ResponseKind { is_grpc: false, .. } => Err(status_of(&head, body).await),
            ResponseKind { code: Some(_), .. } => Err(ended(&head.headers)),
            ResponseKind { code: None, .. } => Ok(Self { body, responses: Responses::default() }),
        }
    }

    /// Returns the next report.
    ///
    /// # Errors
    /// The stream has ended.
    ///
    /// # Cancellation
    /// Safe.
    pub(super) async fn next(&mut self) -> Result<ServingStatus, End> {
        loop {
            // A server may always have another one.
            consume_budget().await;
            if let Some(status) = self.responses.next().map_err(End::Broken)? {
                return Ok(status);
            }
            match poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.responses.push(&data),
                    Err(frame) => {
                        return Err(End::Status(frame.trailers_ref().map_or_else(without_status, ended)));
                    }
                },
                Some(Err(status)) => return Err(End::Status(status)),
                None => return Err(End::Status(without_status())),
            }
        }
    }
}

/// How a stream has ended.
#[derive(Debug)]
pub(super) enum End {
    Status(Status),
    /// The server has sent something else than reports.
    Broken(String),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

fn request(connection: &Arc<Connection>, authority: Authority) -> Result<Request<()>, Status> {
    let uri = Uri::builder()
        .scheme(connection.scheme().clone())
        .authority(authority)
        .path_and_query(PathAndQuery::from_static(PATH))
        .build()
        .map_err(|error| Status::internal(error.to_string()))?;
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = uri;
    for (name, value) in
        [(TE, "trailers"), (CONTENT_TYPE, "application/grpc"), (USER_AGENT, call_headers::USER_AGENT)]
    {
        request.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(request)
}

/// The status with which a stream ends. OK is one too: the server reports no more.
fn ended(trailers: &HeaderMap) -> Status {
    Status::from_header_map(trailers).unwrap_or_else(without_status)
}

fn without_status() -> Status {
    Status::new(Code::Unknown, "the stream has ended without a status")
}
