//! What etcd's errors mean: the only place that knows.
//!
//! Status codes alone mislead: `Unknown`, `Cancelled` and `Unavailable` may all say that a connection broke. Only
//! a message that begins with `etcdserver:` is the server's own answer; everything else is about the way there.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use hither_core::{Error, ErrorKind, report};
use tonic::{Code, Status};

/// A failed call: what the caller is told, and what the call teaches about lease, leader and connection.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) reason: Reason,
    pub(crate) recovery: Recovery,
}

/// The answers that this backend itself acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    LeaseNotFound,
    LeaseExists,
    /// etcd asks nobody who they are.
    AuthOff,
    /// The member has no leader at the moment, or another one than before.
    Election,
    /// The answer is larger than what we take.
    TooLarge,
    Other,
}

/// What to do with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    Keep,
    /// Drop it and choose the next endpoint.
    Rotate,
    /// Drop it and connect to the same endpoint: a new connection authenticates anew.
    Reauthenticate,
    /// The same if it is an old one. A young one has a good token, and what it may not do no other may.
    ReauthenticateOld,
}

/// How old a connection is whose token may be worth nothing any more. etcd's live for 300 s.
const OLD: Duration = Duration::from_secs(30);

impl Recovery {
    /// What it comes to for a connection of this age.
    pub(crate) fn at(self, age: Duration) -> Self {
        match self {
            Self::ReauthenticateOld if age < OLD => Self::Keep,
            Self::ReauthenticateOld => Self::Reauthenticate,
            recovery => recovery,
        }
    }
}

struct Row {
    /// What the message has after `etcdserver: `.
    text: &'static str,
    kind: ErrorKind,
    retryable: bool,
    reason: Reason,
    recovery: Recovery,
}

const fn row(
    text: &'static str,
    kind: ErrorKind,
    retryable: bool,
    reason: Reason,
    recovery: Recovery,
) -> Row {
    Row { text, kind, retryable, reason, recovery }
}

/// The first row that matches counts.
const SERVER: &[Row] = &[
    row("requested lease not found", ErrorKind::LeaseExpired, true, Reason::LeaseNotFound, Recovery::Keep),
    row("lease already exists", ErrorKind::Unexpected, true, Reason::LeaseExists, Recovery::Keep),
    row("too large lease TTL", ErrorKind::InvalidArgument, false, Reason::Other, Recovery::Keep),
    row(
        "mvcc: required revision has been compacted",
        ErrorKind::Unavailable,
        true,
        Reason::Other,
        Recovery::Keep,
    ),
    row(
        "mvcc: required revision is a future revision",
        ErrorKind::Unavailable,
        true,
        Reason::Other,
        Recovery::Keep,
    ),
    row("mvcc: database space exceeded", ErrorKind::Unavailable, true, Reason::Other, Recovery::Keep),
    row("request is too large", ErrorKind::InvalidArgument, false, Reason::Other, Recovery::Keep),
    // A token that expired, or that a restarted member never knew.
    row("invalid auth token", ErrorKind::Unauthenticated, true, Reason::Other, Recovery::Reauthenticate),
    row(
        "revision of auth store is old",
        ErrorKind::Unauthenticated,
        true,
        Reason::Other,
        Recovery::Reauthenticate,
    ),
    // A password, or its absence, does not get better by repetition; an operator's change of it does.
    row("user name is empty", ErrorKind::Unauthenticated, false, Reason::Other, Recovery::Reauthenticate),
    row("authentication failed", ErrorKind::Unauthenticated, false, Reason::Other, Recovery::Reauthenticate),
    row(
        "authentication is not enabled",
        ErrorKind::Unauthenticated,
        false,
        Reason::AuthOff,
        Recovery::Reauthenticate,
    ),
    // Members of 2023 say this of an expired token too.
    row("permission denied", ErrorKind::PermissionDenied, false, Reason::Other, Recovery::ReauthenticateOld),
    // This member cannot serve; another one may. Of too many requests one speaks that lags behind the others.
    row("too many requests", ErrorKind::Unavailable, true, Reason::Other, Recovery::Rotate),
    row("not capable", ErrorKind::Unavailable, true, Reason::Other, Recovery::Rotate),
    row("no leader", ErrorKind::Unavailable, true, Reason::Election, Recovery::Rotate),
    row("not leader", ErrorKind::Unavailable, true, Reason::Election, Recovery::Rotate),
    row("leader changed", ErrorKind::Unavailable, true, Reason::Election, Recovery::Rotate),
    row("request timed out", ErrorKind::Unavailable, true, Reason::Other, Recovery::Rotate),
    row("server stopped", ErrorKind::Unavailable, true, Reason::Other, Recovery::Rotate),
    row("stopped", ErrorKind::Unavailable, true, Reason::Other, Recovery::Rotate),
    row("unhealthy cluster", ErrorKind::Unavailable, true, Reason::Other, Recovery::Rotate),
    row("rpc not supported for learner", ErrorKind::Unavailable, true, Reason::Other, Recovery::Rotate),
];

impl Failure {
    pub(crate) fn new(error: Error, recovery: Recovery) -> Self {
        Self { error, reason: Reason::Other, recovery }
    }

    /// A failure of the connection, or of the way to the server.
    pub(crate) fn unavailable(endpoint: &str, why: impl fmt::Display) -> Self {
        Self::new(Error::new(ErrorKind::Unavailable, format!("etcd at {endpoint}: {why}")), Recovery::Rotate)
    }

    /// There is nobody to ask.
    pub(crate) fn gone(why: &'static str) -> Self {
        Self::new(Error::new(ErrorKind::Unavailable, why), Recovery::Rotate)
    }

    /// No answer in time.
    pub(crate) fn timeout(endpoint: &str, within: Duration) -> Self {
        Self::new(
            Error::new(ErrorKind::Timeout, format!("etcd at {endpoint} did not answer within {within:?}")),
            Recovery::Rotate,
        )
    }

    /// What a call to `endpoint` failed with.
    pub(crate) fn of(error: etcd_client::Error, endpoint: &str) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::of_status(&status, endpoint),
            // The crate's own word for a keep-alive answer without a time to live.
            etcd_client::Error::LeaseKeepAliveError(text) if text == "lease not found" => {
                let text = "requested lease not found";
                Self::answer(find(text), text, Code::NotFound, endpoint)
            }
            etcd_client::Error::InvalidArgs(text) => {
                Self::new(Error::new(ErrorKind::InvalidArgument, text), Recovery::Keep)
            }
            // The options let none through that could be one of these; and if they did, another endpoint may serve.
            etcd_client::Error::InvalidUri(error) => {
                let failure = Self::unavailable(endpoint, "this is no endpoint");
                Self::new(failure.error.with_source(error), Recovery::Rotate)
            }
            etcd_client::Error::TransportError(error) => {
                Self::unavailable(endpoint, &error).because_of(error.source())
            }
            // "channel closed" of a stream that broke, and the like: all about the connection.
            other => Self::unavailable(endpoint, other),
        }
    }

    /// What the server says when it ends a watch: a status as Go prints it.
    pub(crate) fn of_cancelled_watch(reason: &str, compact_revision: i64, endpoint: &str) -> Self {
        if compact_revision > 0 {
            let text = "mvcc: required revision has been compacted";
            return Self::answer(find(text), text, Code::OutOfRange, endpoint);
        }
        let text = reason.rsplit_once("desc = ").map_or(reason, |(_, text)| text);
        let text = text.strip_prefix("etcdserver: ").unwrap_or(text);
        let text = if text.is_empty() { "the watch was cancelled without a reason" } else { text };
        Self::answer(find(text), text, Code::Unknown, endpoint)
    }

    fn of_status(status: &Status, endpoint: &str) -> Self {
        match status.message().strip_prefix("etcdserver: ") {
            Some(text) => Self::answer(find(text), text, status.code(), endpoint),
            None if status.message() == "context deadline exceeded" => {
                Self::unavailable(endpoint, "no quorum answers")
            }
            // More than etcd's limit on a request and half a MiB above: its gRPC library refuses it, unread.
            None if status.message().starts_with("grpc: received message larger than max") => {
                let message = format!("etcd at {endpoint}: {}", status.message());
                Self::new(Error::new(ErrorKind::InvalidArgument, message), Recovery::Keep)
            }
            // The client's own limit, not the connection's fault.
            None if status.message().contains("decoded message length too large") => {
                let message = format!("etcd at {endpoint}: {}", status.message());
                let error = Error::new(ErrorKind::InvalidData, message).with_retryable(true);
                Self { error, reason: Reason::TooLarge, recovery: Recovery::Keep }
            }
            None => Self::unavailable(endpoint, status.message()).because_of(status.source()),
        }
    }

    /// Whether etcd said that we may not do this.
    pub(crate) fn is_denial(&self) -> bool {
        self.error.kind() == ErrorKind::PermissionDenied
    }

    /// Whether etcd said that we may not do this, or that it does not know us.
    pub(crate) fn is_refusal(&self) -> bool {
        self.is_denial() || self.error.kind() == ErrorKind::Unauthenticated
    }

    fn because_of(mut self, source: Option<&(dyn StdError + 'static)>) -> Self {
        if let Some(source) = source {
            self.error = self.error.with_source(Cause(report(source)));
        }
        self
    }

    /// The server's own answer.
    fn answer(row: Option<&Row>, text: &str, code: Code, endpoint: &str) -> Self {
        let message = format!("etcd at {endpoint}: {text}");
        match row {
            Some(row) => Self {
                error: Error::new(row.kind, message).with_retryable(row.retryable),
                reason: row.reason,
                recovery: row.recovery,
            },
            None => Self::new(Error::new(kind_of(code), message), Recovery::Keep),
        }
    }
}

fn find(text: &str) -> Option<&'static Row> {
    SERVER.iter().find(|row| text.starts_with(row.text))
}

/// For answers that no row knows.
fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::Unavailable | Code::ResourceExhausted => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::Unimplemented => ErrorKind::Unsupported,
        _ => ErrorKind::Unexpected,
    }
}

/// The sources of a status as text: the types behind them are the transport's own affair.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: &str = "127.0.0.1:2379";

    fn status(code: Code, message: &str) -> Failure {
        Failure::of(etcd_client::Error::GRpcStatus(Status::new(code, message)), AT)
    }

    #[test]
    fn a_denial_is_blamed_on_the_token_of_an_old_connection_alone() {
        for (recovery, young, old) in [
            (Recovery::ReauthenticateOld, Recovery::Keep, Recovery::Reauthenticate),
            (Recovery::Reauthenticate, Recovery::Reauthenticate, Recovery::Reauthenticate),
            (Recovery::Rotate, Recovery::Rotate, Recovery::Rotate),
            (Recovery::Keep, Recovery::Keep, Recovery::Keep),
        ] {
            assert_eq!((recovery.at(OLD - Duration::from_secs(1)), recovery.at(OLD)), (young, old));
        }
    }

    #[test]
    fn every_answer_of_the_server_has_its_row() {
        use ErrorKind as K;
        use Reason::{AuthOff, Election, LeaseExists, LeaseNotFound, Other};
        use Recovery::{Keep, Reauthenticate, ReauthenticateOld, Rotate};

        let cases = [
            (Code::NotFound, "requested lease not found", K::LeaseExpired, true, LeaseNotFound, Keep),
            (Code::FailedPrecondition, "lease already exists", K::Unexpected, true, LeaseExists, Keep),
            (Code::OutOfRange, "too large lease TTL", K::InvalidArgument, false, Other, Keep),
            (
                Code::OutOfRange,
                "mvcc: required revision has been compacted",
                K::Unavailable,
                true,
                Other,
                Keep,
            ),
            (
                Code::OutOfRange,
                "mvcc: required revision is a future revision",
                K::Unavailable,
                true,
                Other,
                Keep,
            ),
            (Code::ResourceExhausted, "mvcc: database space exceeded", K::Unavailable, true, Other, Keep),
            (Code::InvalidArgument, "request is too large", K::InvalidArgument, false, Other, Keep),
            (Code::ResourceExhausted, "too many requests", K::Unavailable, true, Other, Rotate),
            (Code::FailedPrecondition, "not capable", K::Unavailable, true, Other, Rotate),
            (Code::Unauthenticated, "invalid auth token", K::Unauthenticated, true, Other, Reauthenticate),
            (
                Code::InvalidArgument,
                "revision of auth store is old",
                K::Unauthenticated,
                true,
                Other,
                Reauthenticate,
            ),
            (Code::InvalidArgument, "user name is empty", K::Unauthenticated, false, Other, Reauthenticate),
            (
                Code::InvalidArgument,
                "authentication failed, invalid user ID or password",
                K::Unauthenticated,
                false,
                Other,
                Reauthenticate,
            ),
            (
                Code::FailedPrecondition,
                "authentication is not enabled",
                K::Unauthenticated,
                false,
                AuthOff,
                Reauthenticate,
            ),
            (
                Code::PermissionDenied,
                "permission denied",
                K::PermissionDenied,
                false,
                Other,
                ReauthenticateOld,
            ),
            (Code::Unavailable, "no leader", K::Unavailable, true, Election, Rotate),
            (Code::FailedPrecondition, "not leader", K::Unavailable, true, Election, Rotate),
            (Code::Unavailable, "leader changed", K::Unavailable, true, Election, Rotate),
            (Code::Unavailable, "request timed out", K::Unavailable, true, Other, Rotate),
            (
                Code::Unavailable,
                "request timed out, possibly due to previous leader failure",
                K::Unavailable,
                true,
                Other,
                Rotate,
            ),
            (Code::Unavailable, "server stopped", K::Unavailable, true, Other, Rotate),
            (Code::Unavailable, "stopped", K::Unavailable, true, Other, Rotate),
            (Code::Unavailable, "unhealthy cluster", K::Unavailable, true, Other, Rotate),
            (Code::Unavailable, "rpc not supported for learner", K::Unavailable, true, Other, Rotate),
        ];
        for row in SERVER {
            let is_tried = |text| find(text).is_some_and(|found| found.text == row.text);
            assert!(cases.iter().any(|case| is_tried(case.1)), "no case for {}", row.text);
        }
        for (code, text, kind, retryable, reason, recovery) in cases {
            let failure = status(code, &format!("etcdserver: {text}"));
            assert_eq!(failure.error.kind(), kind, "{text}");
            assert_eq!(failure.error.is_retryable(), retryable, "{text}");
            assert_eq!((failure.reason, failure.recovery), (reason, recovery), "{text}");
            assert_eq!(failure.error.message(), format!("etcd at {AT}: {text}"));
        }
    }

    #[test]
    fn an_answer_without_a_row_is_sorted_by_its_code() {
        for (code, kind) in [
            (Code::InvalidArgument, ErrorKind::InvalidArgument),
            (Code::OutOfRange, ErrorKind::InvalidArgument),
            (Code::PermissionDenied, ErrorKind::PermissionDenied),
            (Code::Unauthenticated, ErrorKind::Unauthenticated),
            (Code::Unavailable, ErrorKind::Unavailable),
            (Code::ResourceExhausted, ErrorKind::Unavailable),
            (Code::DeadlineExceeded, ErrorKind::Timeout),
            (Code::Unimplemented, ErrorKind::Unsupported),
            (Code::Internal, ErrorKind::Unexpected),
        ] {
            let failure = status(code, "etcdserver: something new");
            assert_eq!((failure.error.kind(), failure.recovery), (kind, Recovery::Keep), "{code:?}");
        }
    }

    #[test]
    fn whatever_the_server_did_not_say_is_about_the_connection() {
        for (code, text) in [
            (Code::Unknown, "transport error"),
            (Code::Unknown, "h2 protocol error: error reading a body from connection"),
            (Code::Unknown, "context deadline exceeded"),
            (Code::Cancelled, "Timeout expired"),
            (Code::Cancelled, "operation was canceled"),
            (Code::Unavailable, "tcp connect error"),
            (Code::Unavailable, "invalid peer certificate: UnknownIssuer"),
        ] {
            let failure = status(code, text);
            assert_eq!(failure.error.kind(), ErrorKind::Unavailable, "{text}");
            assert_eq!(failure.recovery, Recovery::Rotate, "{text}");
            assert!(failure.error.is_retryable());
        }
        let closed = Failure::of(etcd_client::Error::WatchError("channel closed".into()), AT);
        assert_eq!((closed.error.kind(), closed.recovery), (ErrorKind::Unavailable, Recovery::Rotate));
    }

    #[test]
    fn a_message_beyond_our_own_limit_keeps_the_connection() {
        let text = "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes";
        let failure = status(Code::OutOfRange, text);
        assert_eq!((failure.error.kind(), failure.recovery), (ErrorKind::InvalidData, Recovery::Keep));
        assert_eq!(failure.reason, Reason::TooLarge);
    }

    #[test]
    fn a_message_beyond_etcds_limit_is_one_that_it_will_never_take() {
        let text = "grpc: received message larger than max (3000153 vs. 2097152)";
        let failure = status(Code::ResourceExhausted, text);
        assert_eq!((failure.error.kind(), failure.recovery), (ErrorKind::InvalidArgument, Recovery::Keep));
    }

    #[test]
    fn a_keep_alive_answer_without_time_to_live_says_that_the_lease_is_gone() {
        let failure = Failure::of(etcd_client::Error::LeaseKeepAliveError("lease not found".into()), AT);
        assert_eq!(failure.error.kind(), ErrorKind::LeaseExpired);
        let failure = Failure::of(etcd_client::Error::LeaseKeepAliveError("channel closed".into()), AT);
        assert_eq!(failure.error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_cancelled_watch_is_classified_by_its_reason() {
        let of = |reason, compacted| Failure::of_cancelled_watch(reason, compacted, AT);
        assert_eq!((of("", 16).error.kind(), of("", 16).recovery), (ErrorKind::Unavailable, Recovery::Keep));
        let token = of("rpc error: code = Unauthenticated desc = etcdserver: invalid auth token", 0);
        assert_eq!(
            (token.error.kind(), token.recovery),
            (ErrorKind::Unauthenticated, Recovery::Reauthenticate)
        );
        let denied = of("rpc error: code = PermissionDenied desc = etcdserver: permission denied", 0);
        assert_eq!(denied.error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(of("etcdserver: no leader", 0).recovery, Recovery::Rotate);
        assert_eq!(of("", 0).error.kind(), ErrorKind::Unexpected);
        assert!(of("", 0).error.is_retryable());
    }
}
