//! One HTTP/2 connection, and the request and response bodies that go over it.

mod connection;
mod failure;
mod frames;
mod http2;
mod request_body;
mod watched;

use std::fmt;
use std::future::Future;

use bytes::Bytes;
use http::{Request, Response};

pub(crate) use connection::Connection;
pub(crate) use failure::{Failure, status_of};
pub(crate) use request_body::{ReplayBody, RequestBody};

/// How requests travel over an established HTTP/2 connection. Behind it stands hyper; the place for another
/// implementation.
pub(crate) trait Transport: Clone + fmt::Debug + Send + Sync + 'static {
    type Body: http_body::Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send + Unpin;

    /// Whether nothing can be sent any more.
    fn is_closed(&self) -> bool;

    /// Sends one request; resolves when the response's headers are there. Dropping the future cancels it.
    fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> impl Future<Output = Result<Response<Self::Body>, Failure>> + Send;
}

/// The transport in use.
pub(crate) type Http2 = http2::Hyper;

/// The response body of the transport in use.
pub(crate) type ResponseBody = <Http2 as Transport>::Body;
