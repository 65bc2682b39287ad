//! Which messages are gRPC's, and the status of responses.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tonic::Code;

pub(crate) const GRPC_STATUS: &str = "grpc-status";
static STATUS: HeaderName = HeaderName::from_static(GRPC_STATUS);

/// What the headers of a response tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponseKind {
    /// Whether it is gRPC's: by its content type, or because it has a gRPC status.
    pub(crate) is_grpc: bool,
    /// The gRPC status, if it is in the headers.
    pub(crate) code: Option<Code>,
}

impl ResponseKind {
    pub(crate) fn of(status: StatusCode, headers: &HeaderMap) -> Self {
        let (mut kind, mut code) = (None, None);
        // There are few, and comparing costs less than hashing.
        for (name, value) in headers {
            if *name == CONTENT_TYPE {
                kind = kind.or(Some(value));
            } else if *name == STATUS {
                code = code.or(Some(value));
            }
        }
        let code = code.map(|code| Code::from_bytes(code.as_bytes()));
        let is_grpc = code.is_some() || status == StatusCode::OK && kind.is_some_and(is_of_grpc);
        Self { is_grpc, code }
    }
}

/// Returns whether a request has a content type of gRPC's.
#[cfg(all(feature = "server", feature = "metrics"))]
pub(crate) fn has_grpc_type(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(is_of_grpc)
}

/// Returns whether a content type is gRPC's.
fn is_of_grpc(kind: &HeaderValue) -> bool {
    let rest = kind.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// Returns the status in trailers or headers, if there is one.
pub(crate) fn code_in(headers: &HeaderMap) -> Option<Code> {
    // There are few, and comparing costs less than hashing.
    let (_, status) = headers.iter().find(|(name, _)| **name == STATUS)?;
    Some(Code::from_bytes(status.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_grpc(status: StatusCode, headers: &HeaderMap) -> bool {
        ResponseKind::of(status, headers).is_grpc
    }

    #[test]
    fn only_a_content_type_of_grpc_or_a_status_makes_a_response_grpc() {
        let headers = |name: &'static str, value: &'static str| {
            let value = HeaderValue::from_static(value);
            HeaderMap::from_iter([(HeaderName::from_static(name), value)])
        };
        let ok = StatusCode::OK;
        for kind in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
            assert!(is_grpc(ok, &headers("content-type", kind)), "{kind}");
            assert!(!is_grpc(StatusCode::BAD_GATEWAY, &headers("content-type", kind)), "{kind}");
        }
        for kind in ["text/html", "application/grpc-web", "application/json", ""] {
            assert!(!is_grpc(ok, &headers("content-type", kind)), "{kind}");
        }
        assert!(!is_grpc(ok, &HeaderMap::new()));
        assert!(is_grpc(StatusCode::SERVICE_UNAVAILABLE, &headers("grpc-status", "8")));
    }
}
