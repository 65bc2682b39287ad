//! What became of a request that got no response.

use std::error::Error as StdError;

use h2::Reason;
use hither_core::report;
use tonic::{Code, Status};

/// Why there is no response, sorted by what may be done about it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It never left: it may be sent anywhere else, as often as one likes.
    Unsent,
    /// The server says that it did not look at it: it may be sent once more.
    Refused(Status),
    /// The server may have worked on it.
    Failed(Status),
}

impl Failure {
    /// What an error means that came instead of a response's headers.
    pub(crate) fn of(error: &(dyn StdError + 'static)) -> Self {
        let status = status_of(error);
        match http2_error(error) {
            Some(error) if is_refusal(error) => Self::Refused(status),
            _ => Self::Failed(status),
        }
    }
}

/// REFUSED_STREAM, or a stream above the last one that the server's GOAWAY names.
fn is_refusal(error: &h2::Error) -> bool {
    error.is_remote()
        && (error.is_go_away() || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM))
}

/// The status that gRPC gives to an HTTP/2 error. What is not an answer of the server's to this very call is
/// a lost connection: UNAVAILABLE.
pub(crate) fn status_of(error: &(dyn StdError + 'static)) -> Status {
    let code = match http2_error(error) {
        Some(error) if error.is_reset() => error.reason().map_or(Code::Unknown, code_of),
        _ => Code::Unavailable,
    };
    Status::new(code, report(error))
}

/// As in gRPC's PROTOCOL-HTTP2, "Errors".
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
    fn what_is_no_answer_of_the_server_is_a_lost_connection() {
        let status = status_of(&std::io::Error::other("connection reset"));
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "connection reset"));
        assert!(matches!(Failure::of(&std::io::Error::other("x")), Failure::Failed(_)));
    }
}
