//! The head of a call's request, for each of its attempts.

use std::mem;
use std::sync::OnceLock;

use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::{self, PathAndQuery};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use tonic::Status;

use super::config::{CallConfig, CallSettings, WaitForReady};
use super::deadline::Deadline;
use crate::client::call_headers;
use crate::client::telemetry::AttemptTelemetry;
use crate::client::transport::{Connection, HEADER_OVERHEAD};
use crate::deadline::GRPC_TIMEOUT;

const GRPC: &str = "application/grpc";
/// gRFC A6.
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
const TRAILERS: &str = "trailers";
/// More than the size of all headers that are added to the caller's, with the names of the pseudo-headers.
const ADDED: usize = 1024;

/// Connection-specific headers, which are an error in HTTP/2 (RFC 9113, section 8.2.2): gateways may forward them.
const CONNECTION_SPECIFIC: [&str; 5] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

/// What is kept of the head of a request. The first attempt sends the head itself, later ones a new one made of this.
#[derive(Debug)]
pub(super) struct Head {
    method: Method,
    path: PathAndQuery,
    kept: KeptHeaders,
    pub(super) deadline: Option<Deadline>,
    pub(super) wait_for_ready: bool,
    /// For the policy; they are not sent.
    pub(super) extensions: Extensions,
    /// What the policy draws for the call.
    pub(super) chance: OnceLock<u64>,
}

impl Head {
    /// Takes out of a request what must not be sent, and returns what is kept of the rest.
    pub(super) fn of<B>(request: &mut Request<B>, settings: &CallSettings) -> Self {
        // h2 would look for its own among the extensions.
        let extensions = mem::take(request.extensions_mut());
        let wait_for_ready = extensions.get().map_or(settings.wait_for_ready, |WaitForReady(wait)| *wait);
        let headers = request.headers_mut();
        let (kept, timeout) = KeptHeaders::of(headers);
        let deadline = Deadline::of(timeout, settings.limit);
        if kept.connection_specific {
            for name in CONNECTION_SPECIFIC {
                headers.remove(name);
            }
            // Of `te` only this value is allowed.
            headers.insert(TE, HeaderValue::from_static(TRAILERS));
        }
        let path = request.uri().path_and_query().cloned().unwrap_or(PathAndQuery::from_static("/"));
        let method = request.method().clone();
        Self { method, path, kept, deadline, wait_for_ready, extensions, chance: OnceLock::new() }
    }

    pub(super) fn path(&self) -> &str {
        self.path.path()
    }

    /// Completes a request for an attempt on this connection. `previous`: how many attempts there were before; `None` if
    /// it is the first and has not waited.
    #[inline]
    pub(super) fn complete(
        &self,
        request: &mut Request<()>,
        config: &CallConfig,
        connection: &Connection,
        previous: Option<u32>,
        telemetry: &AttemptTelemetry,
    ) -> Result<(), Status> {
        if !self.kept.user_agent {
            request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(call_headers::USER_AGENT));
        }
        if let Some(deadline) = &self.deadline {
            deadline.write(request.headers_mut(), previous.is_some());
        }
        if let Some(previous @ 1..) = previous {
            request.headers_mut().insert(PREVIOUS_ATTEMPTS, HeaderValue::from(previous));
        }
        let mut size = self.kept.size;
        if let Some(propagation) = &config.propagation {
            telemetry.in_scope(|| propagation.inject(request.headers_mut()))?;
            size = request.headers().iter().map(|(name, value)| header_size(name, value)).sum();
        }
        let authority = config.authority.of(connection.address());
        let line = self.method.as_str().len() + self.path.as_str().len() + authority.as_str().len();
        let mut parts = uri::Parts::default();
        parts.scheme = Some(connection.scheme().clone());
        parts.authority = Some(authority);
        parts.path_and_query = Some(self.path.clone());
        *request.uri_mut() = Uri::from_parts(parts).map_err(|error| Status::internal(error.to_string()))?;
        *request.version_mut() = Version::HTTP_2;
        connection.check_request(request, size + line + ADDED)
    }

    /// Returns the request for another attempt.
    pub(super) fn again(&self) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.headers_mut() = self.kept.restore();
        request
    }
}

/// A copy of headers, to send them again after the server has refused them. What every request of gRPC's has costs
/// nothing, and `grpc-timeout` is always written anew.
#[derive(Debug, Default)]
struct KeptHeaders {
    te_trailers: bool,
    content_type_grpc: bool,
    user_agent: bool,
    /// Whether there are headers that must not be sent.
    connection_specific: bool,
    others: Vec<(HeaderName, HeaderValue)>,
    /// The size of all headers, as HTTP/2 counts it.
    size: usize,
}

impl KeptHeaders {
    /// Returns the copy, and the value of `grpc-timeout`. One pass, because looking names up costs more.
    fn of(headers: &HeaderMap) -> (Self, Option<&HeaderValue>) {
        let (mut kept, mut timeout) = (Self::default(), None);
        for (name, value) in headers {
            kept.size += header_size(name, value);
            // The first of its name, so that the order of several values stays.
            let first = |name: &HeaderName| kept.others.iter().all(|(other, _)| other != name);
            if *name == TE && value == TRAILERS {
                kept.te_trailers = true;
            } else if *name == CONTENT_TYPE && !kept.content_type_grpc && value == GRPC && first(name) {
                kept.content_type_grpc = true;
            } else if name.as_str() == GRPC_TIMEOUT {
                timeout = timeout.or(Some(value));
            } else if *name == TE || CONNECTION_SPECIFIC.contains(&name.as_str()) {
                (kept.connection_specific, kept.te_trailers) = (true, true);
            } else {
                kept.user_agent |= *name == USER_AGENT;
                kept.others.push((name.clone(), value.clone()));
            }
        }
        (kept, timeout)
    }

    fn restore(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.others.len() + 4);
        if self.te_trailers {
            headers.insert(TE, HeaderValue::from_static(TRAILERS));
        }
        if self.content_type_grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
        }
        for (name, value) in &self.others {
            headers.append(name.clone(), value.clone());
        }
        headers
    }
}

/// The size of a header, as HTTP/2 counts it.
fn header_size(name: &HeaderName, value: &HeaderValue) -> usize {
    name.as_str().len() + value.len() + HEADER_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_headers_are_restored_whole_but_for_the_timeout() {
        let header = |name: &'static str, value: &'static str| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let all = [
            header("te", "trailers"),
            header("content-type", "application/grpc"),
            header("user-agent", "me"),
            header("x-a", "1"),
            header("x-a", "2"),
            header("content-type", "application/grpc+json"),
            header("authorization", "secret"),
        ];
        for skipped in 0..=all.len() {
            let mut headers = HeaderMap::new();
            for (name, value) in all.iter().skip(skipped) {
                headers.append(name.clone(), value.clone());
            }
            let (kept, timeout) = KeptHeaders::of(&headers);
            assert_eq!((kept.restore(), timeout), (headers.clone(), None), "{skipped}");
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("1S"));
            assert_eq!(KeptHeaders::of(&headers).1.unwrap(), "1S");
        }
    }

    #[test]
    fn headers_of_http_1_connections_are_not_sent() {
        let mut headers = HeaderMap::new();
        for name in CONNECTION_SPECIFIC {
            headers.append(name, HeaderValue::from_static("x"));
        }
        headers.append(TE, HeaderValue::from_static("gzip"));
        headers.append("x-a", HeaderValue::from_static("1"));
        let mut request = Request::new(());
        *request.headers_mut() = headers;
        let settings = CallSettings { limit: None, wait_for_ready: false, policy: None };
        let head = Head::of(&mut request, &settings);
        let expected = HeaderMap::from_iter(
            [(TE, "trailers"), (HeaderName::from_static("x-a"), "1")]
                .map(|(name, value)| (name, HeaderValue::from_static(value))),
        );
        assert_eq!((request.headers(), head.again().headers()), (&expected, &expected));
    }
}
