//! How an attempt has failed.

use http::{HeaderMap, Response};
use tonic::{Code, Status};

use super::attempt::Attempt;
use super::pick::Unpicked;
use crate::client::ready_instance::ReadyInstance;
use crate::client::retry::Pushback;
use crate::client::transport::ResponseBody;

/// A response of gRPC's, and the attempt that it answers.
pub(super) type Answer = (Response<ResponseBody>, Attempt);

/// An attempt that has failed, and what its caller gets if there is no other.
pub(super) struct Failure {
    pub(super) code: Code,
    /// Whether a policy may try again.
    pub(super) may_retry: bool,
    /// Whether no server has processed it: it may be sent again without a policy.
    pub(super) is_unprocessed: bool,
    pub(super) pushback: Option<Pushback>,
    /// The instance that it was sent to.
    pub(super) instance: Option<ReadyInstance>,
    /// The whole response, if it is gRPC's.
    pub(super) outcome: Result<Box<Answer>, Status>,
}

impl Failure {
    /// A policy may try again.
    pub(super) fn new(status: Status, attempt: &Attempt) -> Self {
        Self { may_retry: true, instance: Some(attempt.instance().clone()), ..Self::last(status) }
    }

    /// There is to be no other attempt.
    pub(super) fn last(status: Status) -> Self {
        Self {
            code: status.code(),
            may_retry: false,
            is_unprocessed: false,
            pushback: None,
            instance: None,
            outcome: Err(status),
        }
    }

    /// No server has processed it. Its caller does not get to see that.
    pub(super) fn unprocessed() -> Self {
        Self { is_unprocessed: true, ..Self::last(Status::unavailable("the request was not sent")) }
    }

    /// The server has answered with this code before its first message: it is done with the call.
    pub(super) fn answered(code: Code, response: Response<ResponseBody>, mut attempt: Attempt) -> Self {
        attempt.release();
        Self {
            code,
            may_retry: true,
            is_unprocessed: false,
            pushback: Pushback::of_retries(response.headers()),
            instance: Some(attempt.instance().clone()),
            outcome: Ok(Box::new((response, attempt))),
        }
    }

    /// Sets what these headers ask of those who would retry.
    pub(super) fn with_pushback(mut self, headers: &HeaderMap) -> Self {
        self.pushback = Pushback::of_retries(headers);
        self
    }

    /// Returns the status.
    pub(super) fn status(&self) -> Status {
        match &self.outcome {
            Ok(answer) => {
                let (response, attempt) = &**answer;
                let status = Status::from_header_map(response.headers());
                attempt.at_peer(&status.unwrap_or_else(|| Status::new(self.code, "")))
            }
            Err(status) => status.clone(),
        }
    }
}

impl From<Unpicked> for Failure {
    fn from(unpicked: Unpicked) -> Self {
        let may_retry = matches!(unpicked, Unpicked::Failed(_));
        Self { may_retry, ..Self::last(unpicked.into_status()) }
    }
}
