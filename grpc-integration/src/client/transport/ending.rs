//! Why a connection accepts no requests any more.

use std::io;

use h2::Reason;

use super::send_error::describe;

/// Why a connection accepts no requests any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    /// In words, with what the peer has said.
    pub(crate) cause: String,
    /// The name that gRPC has for it (gRFC A94, `grpc.disconnect_error`).
    pub(crate) name: &'static str,
}

impl Ending {
    /// Nobody uses it any more.
    pub(crate) const UNUSED: &'static str = "subchannel shutdown";
    const UNKNOWN: &'static str = "unknown";

    /// The peer, or h2, has ended it with this error.
    pub(super) fn of(error: &h2::Error) -> Self {
        Self { cause: describe(error), name: name_of(error) }
    }

    /// We have closed it, because nobody uses it any more.
    pub(super) fn unused(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), name: Self::UNUSED }
    }

    /// The peer does not answer.
    pub(super) fn timed_out(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), name: "connection timed out" }
    }

    /// gRPC has no name for it.
    pub(super) fn unknown(cause: impl Into<String>) -> Self {
        Self { cause: cause.into(), name: Self::UNKNOWN }
    }
}

fn name_of(error: &h2::Error) -> &'static str {
    match (error.get_io(), error.reason()) {
        (Some(error), _) => socket_error(error.kind()),
        (None, Some(reason)) if error.is_go_away() && error.is_remote() => goaway(reason),
        _ => Ending::UNKNOWN,
    }
}

fn socket_error(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::ConnectionReset => "connection reset",
        io::ErrorKind::TimedOut => "connection timed out",
        io::ErrorKind::ConnectionAborted => "connection aborted",
        _ => "socket error",
    }
}

/// The names of RFC 9113. Other codes are the peer's own invention, and would be a time series each.
fn goaway(reason: Reason) -> &'static str {
    match reason {
        Reason::NO_ERROR => "GOAWAY NO_ERROR",
        Reason::PROTOCOL_ERROR => "GOAWAY PROTOCOL_ERROR",
        Reason::INTERNAL_ERROR => "GOAWAY INTERNAL_ERROR",
        Reason::FLOW_CONTROL_ERROR => "GOAWAY FLOW_CONTROL_ERROR",
        Reason::SETTINGS_TIMEOUT => "GOAWAY SETTINGS_TIMEOUT",
        Reason::STREAM_CLOSED => "GOAWAY STREAM_CLOSED",
        Reason::FRAME_SIZE_ERROR => "GOAWAY FRAME_SIZE_ERROR",
        Reason::REFUSED_STREAM => "GOAWAY REFUSED_STREAM",
        Reason::CANCEL => "GOAWAY CANCEL",
        Reason::COMPRESSION_ERROR => "GOAWAY COMPRESSION_ERROR",
        Reason::CONNECT_ERROR => "GOAWAY CONNECT_ERROR",
        Reason::ENHANCE_YOUR_CALM => "GOAWAY ENHANCE_YOUR_CALM",
        Reason::INADEQUATE_SECURITY => "GOAWAY INADEQUATE_SECURITY",
        Reason::HTTP_1_1_REQUIRED => "GOAWAY HTTP_1_1_REQUIRED",
        _ => Ending::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_of_goaway_are_named_as_h2_names_them_and_there_is_an_end_to_them() {
        for code in 0..=13 {
            let reason = Reason::from(code);
            assert_eq!(goaway(reason), format!("GOAWAY {reason:?}"));
        }
        for code in [14, 255, u32::MAX] {
            assert_eq!(goaway(Reason::from(code)), "unknown");
        }
    }

    #[test]
    fn errors_of_sockets_are_named_by_their_kind() {
        for (kind, name) in [
            (io::ErrorKind::ConnectionReset, "connection reset"),
            (io::ErrorKind::TimedOut, "connection timed out"),
            (io::ErrorKind::ConnectionAborted, "connection aborted"),
            (io::ErrorKind::BrokenPipe, "socket error"),
            (io::ErrorKind::Other, "socket error"),
        ] {
            assert_eq!(socket_error(kind), name);
        }
    }
}
