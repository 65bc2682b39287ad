//! Which messages are gRPC's, and the status of responses.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tonic::Code;

pub(crate) const GRPC_STATUS: &str = "grpc-status";

/// Returns whether a response is gRPC's: by its content type, or because it has a gRPC status.
pub(crate) fn is_grpc(status: StatusCode, headers: &HeaderMap) -> bool {
    status == StatusCode::OK && has_grpc_type(headers) || headers.contains_key(GRPC_STATUS)
}

/// Returns whether a request or a response has a content type of gRPC's.
pub(crate) fn has_grpc_type(headers: &HeaderMap) -> bool {
    let is_grpc = |value: &HeaderValue| {
        let rest = value.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    };
    // There are few, and comparing costs less than hashing.
    let mut kind = headers.iter().filter(|(name, _)| **name == CONTENT_TYPE);
    kind.next().is_some_and(|(_, kind)| is_grpc(kind))
}

/// Returns the status in trailers or headers, if there is one.
pub(crate) fn code_in(headers: &HeaderMap) -> Option<Code> {
    static NAME: HeaderName = HeaderName::from_static(GRPC_STATUS);
    // There are few, and comparing costs less than hashing.
    let (_, status) = headers.iter().find(|(name, _)| **name == NAME)?;
    Some(Code::from_bytes(status.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

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
