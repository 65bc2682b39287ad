//! One attempt of a call, from the pick to its end.

use std::mem;
use std::sync::Arc;

use hither_core::Address;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::deadline::Deadline;
use crate::client::balance::{Outcome, PolicyPicker};
use crate::client::evidence::Evidence;
use crate::client::ready_instance::{InFlight, ReadyInstance};
use crate::client::retry::Limits;
use crate::client::telemetry::AttemptTelemetry;
use crate::client::transport::{Connection, Sending};
use crate::grpc_response::code_in;

/// One attempt of a call. It counts as load of its instance until it is dropped; the picker gets its outcome when that is
/// known, or then.
#[derive(Debug)]
pub(super) struct Attempt {
    in_flight: InFlight,
    connection: Arc<Connection>,
    picker: Arc<PolicyPicker>,
    began: Instant,
    /// Whether the picker knows that its response has begun.
    is_responding: bool,
    /// Whether its response has begun, whether or not the picker knows.
    is_answered: bool,
    /// Whether the picker has the outcome.
    is_told: bool,
    /// Where it counts if it succeeds.
    limits: Option<Arc<Limits>>,
    pub(super) telemetry: AttemptTelemetry,
}

impl Attempt {
    pub(super) fn new(in_flight: InFlight, connection: Arc<Connection>, picker: Arc<PolicyPicker>) -> Self {
        Self {
            in_flight,
            connection,
            picker,
            began: Instant::now(),
            is_responding: false,
            is_answered: false,
            is_told: false,
            limits: None,
            telemetry: AttemptTelemetry::default(),
        }
    }

    /// If it succeeds, so has a call that is throttled.
    pub(super) fn counts_in(&mut self, limits: &Arc<Limits>) {
        self.limits = Some(Arc::clone(limits));
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn peer(&self) -> &Address {
        self.connection.address()
    }

    pub(super) fn instance(&self) -> &ReadyInstance {
        self.in_flight.picked().instance()
    }

    /// Returns the status with the peer named in its message.
    pub(super) fn at_peer(&self, status: &Status) -> Status {
        Status::new(status.code(), format!("{} at {}", status.message(), self.peer()))
    }

    /// Returns the status of an attempt that has failed. A server that knows the deadline may cancel the call before the
    /// timer here fires, as grpc-go does: that is DEADLINE_EXCEEDED all the same.
    pub(super) fn failed(&self, status: &Status, deadline: Option<&Deadline>) -> Status {
        match deadline {
            Some(deadline) if status.code() == Code::Cancelled && deadline.has_passed() => {
                deadline.exceeded(format_args!("{} has cancelled it", self.peer()))
            }
            _ => self.at_peer(status),
        }
    }

    /// The headers of its response have come.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }

    /// Its response has begun, and there is more to come.
    pub(super) fn responding(&mut self) {
        if !self.is_told && !mem::replace(&mut self.is_responding, true) {
            self.picker.responding(self.in_flight.picked(), self.began.elapsed());
        }
    }

    /// The deadline has passed before its response has begun, which is what `sending` waits for: returns the status.
    pub(super) fn exceeded(&mut self, deadline: &Deadline, sending: Option<&Sending>) -> Status {
        if sending.is_none_or(Sending::was_sent) {
            self.ended(Code::DeadlineExceeded);
            deadline.exceeded(format_args!("no answer from {}", self.peer()))
        } else {
            self.unsent(Code::DeadlineExceeded);
            deadline.exceeded(format_args!("the request was not sent to {}", self.peer()))
        }
    }

    /// It is in flight no longer, though its response may be held.
    pub(super) fn release(&mut self) {
        self.in_flight.end();
    }

    /// It has ended with this status, without trailers.
    pub(super) fn ended(&mut self, code: Code) {
        self.tell(|began| Outcome::since(code, began));
    }

    /// It has ended with these trailers, or headers that are all of the response. Returns its status.
    pub(super) fn ended_with(&mut self, trailers: &HeaderMap) -> Code {
        let code = code_of(trailers);
        self.ended_as(code, trailers);
        code
    }

    /// It has ended with this status and these trailers.
    pub(super) fn ended_as(&mut self, code: Code, trailers: &HeaderMap) {
        self.tell(|began| Outcome::since(code, began).with_trailers(trailers));
    }

    /// Its request was not sent, and is not going to be.
    pub(super) fn unsent(&mut self, code: Code) {
        self.tell(|began| Outcome::since(code, began).unsent());
    }

    /// It has ended with its connection, as have all that were in flight on it: that is one event, and the first of them
    /// tells of it.
    pub(super) fn lost(&mut self, code: Code) {
        if !self.is_told && self.connection.is_first_loss() {
            self.ended(code);
        } else {
            self.turned_away(code);
        }
    }

    /// It has ended with this status, which tells nothing of the server.
    pub(super) fn turned_away(&mut self, code: Code) {
        self.tell(|began| Outcome::since(code, began).without_evidence());
    }

    /// Tells how it has ended, and what that is evidence of; what is told first counts.
    fn tell<'a>(&mut self, outcome: impl FnOnce(Instant) -> Outcome<'a>) {
        if mem::replace(&mut self.is_told, true) {
            return;
        }
        let outcome = outcome(self.began).with_responding(self.is_responding);
        self.telemetry.ended(outcome.code(), self.began);
        if outcome.code() != Code::Ok && outcome.was_sent() {
            self.instance().count_failed();
        }
        if outcome.code() == Code::Ok
            && let Some(limits) = &self.limits
        {
            limits.on_success();
        }
        self.picker.done(self.in_flight.picked(), &outcome);
        if outcome.evidence() != Evidence::None {
            if let Some(outcomes) = self.instance().outcomes() {
                outcomes.record(outcome.evidence() == Evidence::Failure, self.in_flight.admission());
            }
        } else if outcome.was_sent()
            && let Some(outcomes) = self.instance().outcomes()
        {
            outcomes.given_up(self.in_flight.admission(), self.is_answered);
        }
    }
}

/// Returns the status in trailers, or in headers that are all of the response.
pub(super) fn code_of(trailers: &HeaderMap) -> Code {
    code_in(trailers).unwrap_or(Code::Unknown)
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // If nothing else was told, the caller has dropped the call.
        self.ended(Code::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Barrier;
    use std::thread;

    use async_trait::async_trait;
    use hither_core::{Instance, SortedById};

    use super::*;
    use crate::client::balance::{Policy, RoundRobin};
    use crate::client::connector::{Connected, Connector, Destination};
    use crate::client::metrics::ChannelMetrics;
    use crate::client::outcomes::{AllOutcomes, Counts, Outcomes};
    use crate::client::ready_instance::Picked;
    use crate::client::transport::TransportConfig;

    /// Connects to servers that answer nothing.
    #[derive(Debug)]
    struct Silence;

    #[async_trait]
    impl Connector for Silence {
        async fn connect(&self, _destination: Destination<'_>) -> io::Result<Connected> {
            let (ours, theirs) = tokio::io::duplex(1000);
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(theirs).await?;
                while connection.accept().await.transpose()?.is_some() {}
                Ok::<_, h2::Error>(())
            });
            Ok(ours.into())
        }
    }

    /// They learn of it on several threads, in the same moment.
    #[tokio::test]
    async fn of_the_attempts_on_one_lost_connection_the_first_counts() {
        const ATTEMPTS: usize = 4;
        let outcomes = Arc::new(Outcomes::new(0, &Arc::new(AllOutcomes::new(None))));
        let instance = Arc::new(Instance::new("h:1".parse().unwrap()));
        let ready = ReadyInstance::in_pool(Arc::clone(&instance), &Arc::default(), Some(outcomes.clone()));
        let ready_ones: SortedById<_> = [ready.clone()].into_iter().collect();
        let metrics = ChannelMetrics::new("greeter");
        let picker = Arc::new(Policy::new(RoundRobin::default()).picker(&ready_ones, &metrics).unwrap());
        for _ in 0..500 {
            let config = TransportConfig::default().fork(ready.capacity());
            let destination = Destination::new(&instance, instance.address());
            let connection = Arc::new(Connection::open(&Silence, destination, &config).await.unwrap());
            let barrier = Barrier::new(ATTEMPTS);
            thread::scope(|scope| {
                for _ in 0..ATTEMPTS {
                    let in_flight = Picked::from(ready.clone()).started();
                    let mut attempt = Attempt::new(in_flight, Arc::clone(&connection), Arc::clone(&picker));
                    let barrier = &barrier;
                    scope.spawn(move || {
                        barrier.wait();
                        attempt.lost(Code::Unavailable);
                    });
                }
            });
            assert_eq!(outcomes.sweep(), Counts { succeeded: 0, failed: 1 });
        }
    }
}
