//! One HTTP/2 connection, and the request and response bodies that go over it.

mod connection;
mod frames;
mod http2;
mod peer;
mod request_body;
mod send_error;
mod watched;

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use http::{Request, Response};

pub(crate) use connection::Connection;
pub(crate) use request_body::{ReplayBody, RequestBody};
pub(crate) use send_error::{SendError, status_of};

/// Sends requests over an established HTTP/2 connection. Implemented over hyper; the place for another
/// implementation.
pub(crate) trait Transport: Clone + fmt::Debug + Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send + Unpin;

    /// Returns whether nothing can be sent any more.
    fn is_closed(&self) -> bool;

    /// Sends one request; completes with the response's headers. Dropping the future cancels the request.
    fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Self::Body>, SendError>> + Send;
}

/// The transport in use.
pub(crate) type Http2 = http2::Hyper;

/// The response body of the transport in use.
pub(crate) type ResponseBody = <Http2 as Transport>::Body;
