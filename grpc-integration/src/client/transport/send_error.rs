//! Why a request got no response, and the gRPC status for that.

use std::io;

use h2::Reason;
use hither_core::report;
use tonic::{Code, Status};

/// Why there is no response, sorted by whether the request may be retried.
#[derive(Debug)]
pub(crate) enum SendError {
    /// It was never sent.
    Unsent,
    /// The server refused it before it was processed: it may be retried (transparent retry, gRFC A6).
    Refused { status: Status, refusal: Refusal },
    /// The server may have processed it: it must not be retried.
    Failed(Status),
    /// The same: the connection was lost, with all that was in flight on it.
    Lost(Status),
}

/// How a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// By REFUSED_STREAM.
    Stream,
    /// The server closes the connection, and has not come to the request.
    Close,
    /// The server closes the connection because of an error, which this very request may have caused.
    Blame,
}

/// Returns how the server has refused the request, if it has not processed it: it was answered with REFUSED_STREAM, or is
/// above the last one in the server's GOAWAY.
pub(super) fn refusal(error: &h2::Error) -> Option<Refusal> {
    match error.reason() {
        _ if !error.is_remote() => None,
        Some(Reason::NO_ERROR) if error.is_go_away() => Some(Refusal::Close),
        _ if error.is_go_away() => Some(Refusal::Blame),
        Some(Reason::REFUSED_STREAM) if error.is_reset() => Some(Refusal::Stream),
        _ => None,
    }
}

/// Returns whether the stream has failed with its connection, which is not so if it was reset.
pub(super) fn is_loss(error: &h2::Error) -> bool {
    error.is_io() || error.is_go_away()
}

/// Returns the gRPC status for an HTTP/2 error. An error that is not the server's answer to this very call is a lost
/// connection: UNAVAILABLE. `lost` is why the connection was lost, if that is known; `max_headers` the limit of a
/// response's headers.
pub(super) fn status_of(error: &h2::Error, lost: Option<String>, max_headers: usize) -> Status {
    match error.reason() {
        // That is h2's verdict on this response alone.
        Some(Reason::PROTOCOL_ERROR) if error.is_reset() && error.is_library() => Status::internal(format!(
            "the response is malformed, or its headers exceed the limit of {max_headers} bytes"
        )),
        Some(reason) if error.is_reset() => Status::new(code_of(reason), describe(error)),
        _ => Status::unavailable(lost.unwrap_or_else(|| describe(error))),
    }
}

/// Describes an HTTP/2 error in one line.
pub(super) fn describe(error: &h2::Error) -> String {
    if let Some(error) = error.get_io() {
        return match error.kind() {
            // h2's error for streams whose connection has ended without one.
            io::ErrorKind::BrokenPipe => "the connection was closed".to_owned(),
            _ => report(error),
        };
    }
    let Some(reason) = error.reason() else { return report(error) };
    let detail = detail_of(error).map(|detail| format!(": {detail}")).unwrap_or_default();
    match (error.is_go_away(), error.is_remote()) {
        (true, true) => format!("the server closed the connection with {reason:?}{detail}"),
        (true, false) => format!("the server broke the HTTP/2 protocol: {reason:?}{detail}"),
        (false, true) => format!("the server reset the stream with {reason:?}"),
        // CANCEL is ours, and means that the request's body has failed.
        (false, false) if reason == Reason::CANCEL => "the call was cancelled".to_owned(),
        (false, false) => format!("the server broke the HTTP/2 protocol on this stream: {reason:?}"),
    }
}

/// Returns the debug data of GOAWAY. h2 shows it at the end of the error's text, as a byte string, and nowhere else.
fn detail_of(error: &h2::Error) -> Option<String> {
    let text = error.to_string();
    let (_, detail) = text.split_once(" (b\"")?;
    Some(detail.strip_suffix("\")")?.chars().take(200).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_is_not_from_the_server_is_a_lost_connection() {
        let error = h2::Error::from(Reason::INTERNAL_ERROR);
        let status = status_of(&error, Some("connection reset".to_owned()), 1);
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "connection reset"));
        assert_eq!(refusal(&error), None);
    }
}
