//! Why a request got no response, and the gRPC status for that.

use std::error::Error as StdError;

use h2::Reason;
use hither_core::report;
use tonic::{Code, Status};

/// Why there is no response, sorted by whether the request may be retried.
#[derive(Debug)]
pub(crate) enum SendError {
    /// It was never sent: it may be retried without a limit.
    Unsent,
    /// The server refused it before it was processed: it may be retried once (transparent retry, gRFC A6).
    Refused(Status),
    /// The server may have processed it: it must not be retried.
    Failed(Status),
}

impl SendError {
    /// Classifies an error that came instead of a response's headers.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Self {
        let status = status_of(error);
        match http2_error(error) {
            Some(error) if is_refusal(error) => Self::Refused(status),
            _ => Self::Failed(status),
        }
    }
}

/// REFUSED_STREAM, or a stream above the last one in the server's GOAWAY.
fn is_refusal(error: &h2::Error) -> bool {
    error.is_remote()
        && (error.is_go_away() || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM))
}

/// Returns the gRPC status for an HTTP/2 error. An error that is not the server's answer to this very call is a lost
/// connection: UNAVAILABLE.
pub(crate) fn status_of(error: &(dyn StdError + 'static)) -> Status {
    let code = match http2_error(error) {
        Some(error) if error.is_reset() => error.reason().map_or(Code::Unknown, code_of),
        _ => Code::Unavailable,
    };
    Status::new(code, report(error))
}

/// The table in gRPC's PROTOCOL-HTTP2, "Errors".
fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::NO_ERROR
        | Reason::PROTOCOL_ERROR
        | Reason::INTERNAL_ERROR
        | Reason::FLOW_CONTROL_ERROR
        | Reason::SETTINGS_TIMEOUT
        | Reason::FRAME_SIZE_ERROR
        | Reason::COMPRESSION_ERROR
        | Reason::CONNECT_ERROR => Code::Internal,
        Reason::REFUSED_STREAM => Code::Unavailable,
        Reason::CANCEL => Code::Cancelled,
        Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Unknown,
    }
}

fn http2_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a h2::Error> {
    match error.downcast_ref() {
        Some(error) => Some(error),
        None => http2_error(error.source()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_not_from_the_server_is_a_lost_connection() {
        let status = status_of(&std::io::Error::other("connection reset"));
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "connection reset"));
        assert!(matches!(SendError::of(&std::io::Error::other("x")), SendError::Failed(_)));
    }
}
