//! One attempt of a call, from the pick to its end.

use std::sync::Arc;

use hither_core::Address;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::deadline::Deadline;
use crate::client::balance::{Outcome, PolicyPicker};
use crate::client::ready_instance::{InFlight, ReadyInstance};
use crate::client::transport::Connection;

pub(super) const GRPC_STATUS: &str = "grpc-status";

/// One attempt of a call. It counts as load of its instance until it is dropped; then the picker gets its outcome.
#[derive(Debug)]
pub(super) struct Attempt {
    in_flight: InFlight,
    connection: Arc<Connection>,
    picker: Arc<PolicyPicker>,
    began: Instant,
    code: Option<Code>,
}

impl Attempt {
    pub(super) fn new(in_flight: InFlight, connection: Arc<Connection>, picker: Arc<PolicyPicker>) -> Self {
        Self { in_flight, connection, picker, began: Instant::now(), code: None }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn peer(&self) -> &Address {
        self.connection.address()
    }

    pub(super) fn instance(&self) -> &ReadyInstance {
        self.in_flight.instance()
    }

    /// Returns the status with the peer named in its message.
    pub(super) fn at_peer(&self, status: &Status) -> Status {
        Status::new(status.code(), format!("{} at {}", status.message(), self.peer()))
    }

    /// Returns the status of an attempt that has failed. A server that knows the deadline may cancel the call before the
    /// timer here fires, as grpc-go does: that is DEADLINE_EXCEEDED all the same.
    pub(super) fn failed(&self, status: &Status, deadline: Option<&Deadline>) -> Status {
        match deadline {
            Some(deadline) if status.code() == Code::Cancelled && deadline.at <= Instant::now() => {
                deadline.exceeded(format_args!("{} has cancelled it", self.peer()))
            }
            _ => self.at_peer(status),
        }
    }

    /// The deadline has passed before its response has begun: returns the status.
    pub(super) fn exceeded(&mut self, deadline: &Deadline) -> Status {
        self.ended(Code::DeadlineExceeded);
        deadline.exceeded(format_args!("no answer from {}", self.peer()))
    }

    /// Records how it ended; the first record counts.
    pub(super) fn ended(&mut self, code: Code) {
        self.code.get_or_insert(code);
    }

    /// Records the status, if it is among these headers or trailers.
    pub(super) fn ended_with(&mut self, headers: &HeaderMap) {
        // There are few, and comparing costs less than hashing.
        if let Some((_, status)) = headers.iter().find(|(name, _)| name.as_str() == GRPC_STATUS) {
            self.ended(Code::from_bytes(status.as_bytes()));
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // An end that was not recorded: the caller has dropped the call.
        let code = self.code.unwrap_or(Code::Cancelled);
        self.picker.done(self.in_flight.instance(), &Outcome::since(code, self.began));
    }
}
