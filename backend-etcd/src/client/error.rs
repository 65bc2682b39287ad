//! What etcd's errors mean, and what is done about each: the only place that knows.
//!
//! Status codes alone mislead: `Unknown`, `Cancelled` and `Unavailable` may all mean that a connection broke. Only
//! a message that begins with `etcdserver:` is an answer of etcd; every other one is about the connection.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use hither_core::{Error, ErrorKind};
use tonic::{Code, Status};

/// A failed request: the error for the caller, and its reason.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) reason: Reason,
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// What a failure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The request, or the data: every member would give the same answer.
    Request,
    /// A lease with this id exists already.
    LeaseExists,
    /// The response is larger than our limit on a message.
    TooLarge,
    /// This member, or the connection to it: another one may serve.
    Member,
    /// The member has no leader at the moment, or another one than before.
    Election,
    /// The token, or the password.
    Credentials,
    /// The request carries credentials, and authentication is not enabled.
    AuthDisabled,
    /// The permissions of the user.
    Denied,
}

/// What to do with the connection after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovery {
    Keep,
    /// Drop it, and connect to the next endpoint.
    Rotate,
    /// Drop it, and connect to the same endpoint: a new connection authenticates anew.
    Reconnect,
}

/// From this age on a connection may have a token that is worth nothing any more. etcd's tokens live for 300 s.
const OLD: Duration = Duration::from_secs(30);

impl Reason {
    /// What to do with a connection of age `age`.
    pub(crate) fn recovery(self, age: Duration) -> Recovery {
        match self {
            Self::Request | Self::LeaseExists | Self::TooLarge => Recovery::Keep,
            Self::Member | Self::Election => Recovery::Rotate,
            Self::Credentials | Self::AuthDisabled => Recovery::Reconnect,
            // Members of 2023 answer this to an expired token too. The token of a young connection is good, and what it
            // may not do no other may.
            Self::Denied if age >= OLD => Recovery::Reconnect,
            Self::Denied => Recovery::Keep,
        }
    }

    /// Whether the server refused the client, for its identity or its permissions.
    pub(crate) fn is_refusal(self) -> bool {
        matches!(self, Self::Credentials | Self::AuthDisabled | Self::Denied)
    }
}

struct Row {
    /// The message after `etcdserver: `, or its beginning.
    text: &'static str,
    kind: ErrorKind,
    retryable: bool,
    reason: Reason,
}

const fn row(text: &'static str, kind: ErrorKind, retryable: bool, reason: Reason) -> Row {
    Row { text, kind, retryable, reason }
}

const COMPACTED: &str = "mvcc: required revision has been compacted";
const LEASE_NOT_FOUND: &str = "requested lease not found";

/// The answers of etcd whose meaning is not that of their code. The first row that matches counts.
const SERVER: &[Row] = &[
    row(LEASE_NOT_FOUND, ErrorKind::LeaseExpired, true, Reason::Request),
    row("lease already exists", ErrorKind::Unexpected, true, Reason::LeaseExists),
    row(COMPACTED, ErrorKind::Unavailable, true, Reason::Request),
    row("mvcc: required revision is a future revision", ErrorKind::Unavailable, true, Reason::Request),
    row("mvcc: database space exceeded", ErrorKind::Unavailable, true, Reason::Request),
    // A token that expired, or that a restarted member never knew.
    row("invalid auth token", ErrorKind::Unauthenticated, true, Reason::Credentials),
    row("revision of auth store is old", ErrorKind::Unauthenticated, true, Reason::Credentials),
    // No retry corrects a password, or its absence; an operator does.
    row("user name is empty", ErrorKind::Unauthenticated, false, Reason::Credentials),
    row("authentication failed", ErrorKind::Unauthenticated, false, Reason::Credentials),
    row("authentication is not enabled", ErrorKind::Unauthenticated, false, Reason::AuthDisabled),
    row("permission denied", ErrorKind::PermissionDenied, false, Reason::Denied),
    // This member cannot serve; another one may. One that lags behind the others answers "too many requests".
    row("too many requests", ErrorKind::Unavailable, true, Reason::Member),
    row("not capable", ErrorKind::Unavailable, true, Reason::Member),
    row("rpc not supported for learner", ErrorKind::Unavailable, true, Reason::Member),
    row("cluster ID mismatch", ErrorKind::Unavailable, true, Reason::Member),
    row("corrupt cluster", ErrorKind::Unavailable, true, Reason::Member),
    row("stopped", ErrorKind::Unavailable, true, Reason::Member),
    row("no leader", ErrorKind::Unavailable, true, Reason::Election),
    row("not leader", ErrorKind::Unavailable, true, Reason::Election),
    row("leader changed", ErrorKind::Unavailable, true, Reason::Election),
];

fn find(text: &str) -> Option<&'static Row> {
    SERVER.iter().find(|row| text.starts_with(row.text))
}

/// The meaning of an answer of etcd that has no row.
fn by_code(code: Code) -> (ErrorKind, Reason) {
    match code {
        Code::InvalidArgument | Code::OutOfRange => (ErrorKind::InvalidArgument, Reason::Request),
        Code::PermissionDenied => (ErrorKind::PermissionDenied, Reason::Denied),
        Code::Unauthenticated => (ErrorKind::Unauthenticated, Reason::Credentials),
        Code::Ok | Code::NotFound | Code::AlreadyExists | Code::FailedPrecondition => {
            (ErrorKind::Unexpected, Reason::Request)
        }
        Code::Unavailable | Code::ResourceExhausted => (ErrorKind::Unavailable, Reason::Member),
        Code::DeadlineExceeded => (ErrorKind::Timeout, Reason::Member),
        Code::Unimplemented => (ErrorKind::Unsupported, Reason::Member),
        Code::Cancelled | Code::Unknown | Code::Aborted | Code::Internal | Code::DataLoss => {
            (ErrorKind::Unexpected, Reason::Member)
        }
    }
}

impl Failure {
    fn new(reason: Reason, kind: ErrorKind, message: String) -> Self {
        Self { error: Error::new(kind, message), reason }
    }

    /// A failure of a member, or of the connection to it.
    pub(crate) fn unavailable(endpoint: &str, why: impl fmt::Display) -> Self {
        Self::new(Reason::Member, ErrorKind::Unavailable, format!("etcd at {endpoint}: {why}"))
    }

    /// No response in time.
    pub(crate) fn timeout(endpoint: &str, within: Duration) -> Self {
        let message = format!("etcd at {endpoint} did not answer within {within:?}");
        Self::new(Reason::Member, ErrorKind::Timeout, message)
    }

    /// No endpoint was connected to in time.
    pub(crate) fn connect_timeout(within: Duration) -> Self {
        let message = format!("no etcd endpoint connected within {within:?}");
        Self::new(Reason::Member, ErrorKind::Timeout, message)
    }

    /// There is no endpoint to ask.
    pub(crate) fn no_endpoint(why: &'static str) -> Self {
        Self { error: Error::new(ErrorKind::Unavailable, why), reason: Reason::Member }
    }

    /// A response that violates etcd's protocol: whatever else is in it is not to be believed.
    pub(crate) fn protocol(endpoint: &str, what: impl fmt::Display) -> Self {
        let failure =
            Self::new(Reason::Member, ErrorKind::InvalidData, format!("etcd at {endpoint}: {what}"));
        Self { error: failure.error.with_retryable(true), ..failure }
    }

    /// A file of the configuration cannot be used. It was usable once and may be again, so this is worth a retry.
    pub(crate) fn unusable_files(endpoint: &str, error: Error) -> Self {
        let message = format!("etcd at {endpoint}: the files of the configuration cannot be used");
        let error = Error::new(ErrorKind::Unavailable, message).with_source(error);
        Self { error, reason: Reason::Request }
    }

    /// The failure of a request to `endpoint`.
    pub(crate) fn of(error: etcd_client::Error, endpoint: &str) -> Self {
        match error {
            etcd_client::Error::GRpcStatus(status) => Self::of_status(&status, endpoint),
            // The text of the crate for a keep-alive response without a time to live.
            etcd_client::Error::LeaseKeepAliveError(text) if text == "lease not found" => {
                Self::answer(LEASE_NOT_FOUND, Code::NotFound, endpoint)
            }
            etcd_client::Error::InvalidArgs(text) => {
                Self::new(Reason::Request, ErrorKind::InvalidArgument, text)
            }
            // The configuration lets none through that could be one of these; and if it did, another endpoint may serve.
            etcd_client::Error::InvalidUri(error) => {
                let failure = Self::unavailable(endpoint, "not an endpoint");
                Self { error: failure.error.with_source(error), ..failure }
            }
            etcd_client::Error::TransportError(error) => {
                Self::unavailable(endpoint, &error).because_of(error.source())
            }
            // "channel closed" of a stream that broke, and the like: all about the connection.
            other => Self::unavailable(endpoint, other),
        }
    }

    /// The failure of a watch that the server cancelled; `reason` is a status as Go prints it.
    pub(crate) fn of_cancelled_watch(reason: &str, compact_revision: i64, endpoint: &str) -> Self {
        if compact_revision > 0 {
            return Self::answer(COMPACTED, Code::OutOfRange, endpoint);
        }
        let (code, text) = reason
            .strip_prefix("rpc error: code = ")
            .and_then(|rest| rest.split_once(" desc = "))
            .map_or((Code::Unknown, reason), |(code, text)| (code_named(code), text));
        let text = text.strip_prefix("etcdserver: ").unwrap_or(text);
        let text = if text.is_empty() { "the watch was cancelled without a reason" } else { text };
        Self::answer(text, code, endpoint)
    }

    fn of_status(status: &Status, endpoint: &str) -> Self {
        match status.message().strip_prefix("etcdserver: ") {
            Some(text) => Self::answer(text, status.code(), endpoint),
            None if status.message() == "context deadline exceeded" => {
                Self::unavailable(endpoint, "no quorum answers")
            }
            // More than etcd's limit on a request and half a MiB above: its gRPC library refuses the request unread.
            None if status.message().starts_with("grpc: received message larger than max") => {
                let message = format!("etcd at {endpoint}: {}", status.message());
                Self::new(Reason::Request, ErrorKind::InvalidArgument, message)
            }
            // Our own limit, not the fault of the connection.
            None if status.message().contains("decoded message length too large") => {
                let message = format!("etcd at {endpoint}: {}", status.message());
                let error = Error::new(ErrorKind::InvalidData, message).with_retryable(true);
                Self { error, reason: Reason::TooLarge }
            }
            None if status.message().is_empty() => {
                Self::unavailable(endpoint, status.code()).because_of(status.source())
            }
            None => Self::unavailable(endpoint, status.message()).because_of(status.source()),
        }
    }

    /// An answer of etcd.
    fn answer(text: &str, code: Code, endpoint: &str) -> Self {
        let message = format!("etcd at {endpoint}: {text}");
        match find(text) {
            Some(row) => Self {
                error: Error::new(row.kind, message).with_retryable(row.retryable),
                reason: row.reason,
            },
            None => {
                let (kind, reason) = by_code(code);
                Self::new(reason, kind, message)
            }
        }
    }

    fn because_of(self, source: Option<&(dyn StdError + 'static)>) -> Self {
        match source.and_then(|source| Cause::of(source, self.error.message())) {
            Some(cause) => Self { error: self.error.with_source(cause), ..self },
            None => self,
        }
    }
}

/// The code that Go prints as `name`.
fn code_named(name: &str) -> Code {
    (1..=16).map(Code::from_i32).find(|code| format!("{code:?}") == name).unwrap_or(match name {
        "Canceled" => Code::Cancelled,
        _ => Code::Unknown,
    })
}

/// The sources of a status as text, without those that repeat the message or each other. Their types are private to the
/// transport.
#[derive(Debug)]
struct Cause(String);

impl Cause {
    fn of(source: &(dyn StdError + 'static), message: &str) -> Option<Self> {
        let mut texts: Vec<String> = Vec::new();
        let mut next = Some(source);
        while let Some(error) = next {
            let text = error.to_string();
            let is_news = |known: &str| !known.contains(&text);
            // "transport error" adds nothing to the error around it.
            if text != "transport error" && is_news(message) && texts.iter().all(|known| is_news(known)) {
                texts.push(text);
            }
            next = error.source();
        }
        (!texts.is_empty()).then(|| Self(texts.join(": ")))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

#[cfg(test)]
mod tests {
    use super::super::published_errors::PUBLISHED;
    use super::*;

    const AT: &str = "127.0.0.1:2379";

    fn status(code: Code, message: &str) -> Failure {
        Failure::of(etcd_client::Error::GRpcStatus(Status::new(code, message)), AT)
    }

    const YOUNG: Duration = Duration::from_secs(29);

    #[test]
    fn every_answer_that_etcd_publishes_has_its_recovery() {
        // Those whose recovery does not follow from their code.
        let credentials = [
            "user name is empty",
            "authentication failed, invalid user ID or password",
            "authentication is not enabled",
            "invalid auth token",
            "revision of auth store is old",
        ];
        let another_member =
            ["cluster ID mismatch", "not leader", "not capable", "rpc not supported for learner"];
        for (code, text) in PUBLISHED.iter().copied() {
            let failure = status(code, &format!("etcdserver: {text}"));
            let recovery = failure.reason.recovery(YOUNG);
            let expected = match code {
                _ if credentials.contains(&text) => Recovery::Reconnect,
                _ if another_member.contains(&text) => Recovery::Rotate,
                _ if text == "mvcc: database space exceeded" => Recovery::Keep,
                // As etcd's own client: these are about the member.
                Code::Unavailable
                | Code::DataLoss
                | Code::ResourceExhausted
                | Code::Cancelled
                | Code::DeadlineExceeded => Recovery::Rotate,
                _ => Recovery::Keep,
            };
            assert_eq!(recovery, expected, "{code:?} {text}");
            if recovery == Recovery::Rotate {
                assert!(failure.error.is_retryable(), "{text}: another member may serve");
            }
            assert_eq!(failure.error.message(), format!("etcd at {AT}: {text}"));
        }
    }

    #[test]
    fn every_answer_that_etcd_publishes_has_its_kind() {
        for (code, text) in PUBLISHED.iter().copied() {
            let error = status(code, &format!("etcdserver: {text}")).error;
            let (kind, retryable) = match text {
                "requested lease not found" => (ErrorKind::LeaseExpired, true),
                "permission denied" => (ErrorKind::PermissionDenied, false),
                "invalid auth token" | "revision of auth store is old" => (ErrorKind::Unauthenticated, true),
                "user name is empty"
                | "authentication failed, invalid user ID or password"
                | "authentication is not enabled" => (ErrorKind::Unauthenticated, false),
                "not leader" | "not capable" | "rpc not supported for learner" | "cluster ID mismatch" => {
                    (ErrorKind::Unavailable, true)
                }
                _ if text.starts_with("mvcc: ") => (ErrorKind::Unavailable, true),
                _ => match code {
                    Code::InvalidArgument | Code::OutOfRange => (ErrorKind::InvalidArgument, false),
                    Code::Unavailable | Code::ResourceExhausted | Code::DataLoss => {
                        (ErrorKind::Unavailable, true)
                    }
                    Code::DeadlineExceeded => (ErrorKind::Timeout, true),
                    _ => (ErrorKind::Unexpected, true),
                },
            };
            assert_eq!((error.kind(), error.is_retryable()), (kind, retryable), "{code:?} {text}");
        }
    }

    #[test]
    fn every_row_is_of_an_answer_that_etcd_publishes() {
        for row in SERVER.iter().filter(|row| row.text != "stopped") {
            let is_found = |text| find(text).is_some_and(|found| found.text == row.text);
            assert!(PUBLISHED.iter().any(|(_, text)| is_found(text)), "{}", row.text);
        }
    }

    #[test]
    fn the_reasons_that_a_request_acts_on_are_recognised() {
        let reason = |text: &str| status(Code::Unavailable, &format!("etcdserver: {text}")).reason;
        assert_eq!(reason("lease already exists"), Reason::LeaseExists);
        assert_eq!(reason("authentication is not enabled"), Reason::AuthDisabled);
        for text in ["no leader", "not leader", "leader changed"] {
            assert_eq!(reason(text), Reason::Election);
        }
    }

    #[test]
    fn a_denial_is_blamed_on_the_token_of_an_old_connection_alone() {
        assert_eq!(Reason::Denied.recovery(YOUNG), Recovery::Keep);
        assert_eq!(Reason::Denied.recovery(OLD), Recovery::Reconnect);
    }

    #[test]
    fn an_unknown_answer_is_sorted_by_its_code() {
        use ErrorKind as K;
        for (code, kind, recovery) in [
            (Code::InvalidArgument, K::InvalidArgument, Recovery::Keep),
            (Code::OutOfRange, K::InvalidArgument, Recovery::Keep),
            (Code::FailedPrecondition, K::Unexpected, Recovery::Keep),
            (Code::PermissionDenied, K::PermissionDenied, Recovery::Keep),
            (Code::Unauthenticated, K::Unauthenticated, Recovery::Reconnect),
            (Code::Unavailable, K::Unavailable, Recovery::Rotate),
            (Code::ResourceExhausted, K::Unavailable, Recovery::Rotate),
            (Code::DeadlineExceeded, K::Timeout, Recovery::Rotate),
            (Code::Unimplemented, K::Unsupported, Recovery::Rotate),
            (Code::Unknown, K::Unexpected, Recovery::Rotate),
            (Code::Internal, K::Unexpected, Recovery::Rotate),
            (Code::DataLoss, K::Unexpected, Recovery::Rotate),
            (Code::Aborted, K::Unexpected, Recovery::Rotate),
            (Code::Cancelled, K::Unexpected, Recovery::Rotate),
        ] {
            let failure = status(code, "etcdserver: something new");
            assert_eq!((failure.error.kind(), failure.reason.recovery(YOUNG)), (kind, recovery), "{code:?}");
        }
    }

    #[test]
    fn a_status_that_is_not_of_etcd_is_about_the_connection() {
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
            assert_eq!(failure.reason.recovery(YOUNG), Recovery::Rotate, "{text}");
            assert!(failure.error.is_retryable());
        }
        let closed = Failure::of(etcd_client::Error::WatchError("channel closed".into()), AT);
        assert_eq!(
            (closed.error.kind(), closed.reason.recovery(YOUNG)),
            (ErrorKind::Unavailable, Recovery::Rotate)
        );
    }

    #[test]
    fn a_response_above_our_limit_keeps_the_connection() {
        let text = "Error, decoded message length too large: found 9 bytes, the limit is: 4 bytes";
        let failure = status(Code::OutOfRange, text);
        assert_eq!(
            (failure.error.kind(), failure.reason.recovery(YOUNG)),
            (ErrorKind::InvalidData, Recovery::Keep)
        );
        assert_eq!(failure.reason, Reason::TooLarge);
    }

    #[test]
    fn a_request_above_the_limit_of_etcd_is_invalid() {
        let text = "grpc: received message larger than max (3000153 vs. 2097152)";
        let failure = status(Code::ResourceExhausted, text);
        assert_eq!(
            (failure.error.kind(), failure.reason.recovery(YOUNG)),
            (ErrorKind::InvalidArgument, Recovery::Keep)
        );
    }

    #[test]
    fn a_keep_alive_response_without_time_to_live_means_that_the_lease_is_gone() {
        let failure = Failure::of(etcd_client::Error::LeaseKeepAliveError("lease not found".into()), AT);
        assert_eq!(failure.error.kind(), ErrorKind::LeaseExpired);
        let failure = Failure::of(etcd_client::Error::LeaseKeepAliveError("channel closed".into()), AT);
        assert_eq!(failure.error.kind(), ErrorKind::Unavailable);
    }

    #[test]
    fn a_cancelled_watch_is_classified_by_its_reason() {
        let of = |reason: &str, compacted| {
            let failure = Failure::of_cancelled_watch(reason, compacted, AT);
            (failure.error.kind(), failure.reason.recovery(YOUNG), failure.error.is_retryable())
        };
        assert_eq!(of("", 16), (ErrorKind::Unavailable, Recovery::Keep, true));
        for (reason, kind, recovery, retryable) in [
            (
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
                ErrorKind::Unauthenticated,
                Recovery::Reconnect,
                true,
            ),
            (
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                ErrorKind::PermissionDenied,
                Recovery::Keep,
                false,
            ),
            (
                "rpc error: code = Unavailable desc = etcdserver: something new",
                ErrorKind::Unavailable,
                Recovery::Rotate,
                true,
            ),
            (
                "rpc error: code = Canceled desc = context canceled",
                ErrorKind::Unexpected,
                Recovery::Rotate,
                true,
            ),
            ("etcdserver: no leader", ErrorKind::Unavailable, Recovery::Rotate, true),
            ("", ErrorKind::Unexpected, Recovery::Rotate, true),
        ] {
            assert_eq!(of(reason, 0), (kind, recovery, retryable), "{reason}");
        }
    }

    #[test]
    fn every_code_is_found_by_the_name_that_go_prints() {
        for number in 1..=16 {
            let code = Code::from_i32(number);
            let name = if code == Code::Cancelled { "Canceled".to_owned() } else { format!("{code:?}") };
            assert_eq!(code_named(&name), code);
        }
        assert_eq!(code_named("Code(99)"), Code::Unknown);
    }

    #[test]
    fn a_source_is_not_repeated() {
        #[derive(Debug)]
        struct Layer(&'static str, Option<Box<Layer>>);
        impl fmt::Display for Layer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
        impl StdError for Layer {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(self.1.as_deref()?)
            }
        }
        let refused = Layer("Connection refused (os error 111)", None);
        let connect = Layer("tcp connect error", Some(Box::new(refused)));
        let transport = Layer("transport error", Some(Box::new(connect)));
        let failure = Failure::unavailable(AT, "tcp connect error").because_of(Some(&transport));
        let report =
            format!("unavailable: etcd at {AT}: tcp connect error: Connection refused (os error 111)");
        assert_eq!(failure.error.report(), report);
        let failure =
            Failure::unavailable(AT, "transport error").because_of(Some(&Layer("transport error", None)));
        assert_eq!(failure.error.report(), format!("unavailable: etcd at {AT}: transport error"));
    }
}
