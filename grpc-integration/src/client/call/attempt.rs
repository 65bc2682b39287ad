//! One attempt of a call, from the pick to the end.

use std::sync::Arc;

use hither_core::Address;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::Code;

use crate::client::balance::{Outcome, Picker};
use crate::client::ready_instance::{ReadyInstance, Reservation};
use crate::client::transport::Connection;

/// One attempt of a call. It counts as load of its endpoint until it is dropped; then the picker is told how
/// it ended.
#[derive(Debug)]
pub(crate) struct Attempt {
    reserved: Reservation,
    picker: Arc<dyn Picker>,
    began: Instant,
    code: Option<Code>,
}

impl Attempt {
    pub(crate) fn new(reserved: Reservation, picker: Arc<dyn Picker>) -> Self {
        Self { reserved, picker, began: Instant::now(), code: None }
    }

    pub(crate) fn connection(&self) -> &Connection {
        self.reserved.connection()
    }

    /// Where it was sent to.
    pub(crate) fn peer(&self) -> &Address {
        self.connection().address()
    }

    pub(crate) fn endpoint(&self) -> &ReadyInstance {
        self.reserved.endpoint()
    }

    /// Notes how it ended; what was noted first counts.
    pub(crate) fn ended(&mut self, code: Code) {
        self.code.get_or_insert(code);
    }

    /// Notes the status, if it is among these headers or trailers.
    pub(crate) fn ended_with(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            self.ended(Code::from_bytes(status.as_bytes()));
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        // Nobody heard the end, so the caller has let go of it.
        let code = self.code.unwrap_or(Code::Cancelled);
        self.picker.done(self.reserved.endpoint(), &Outcome::new(code, self.began.elapsed()));
    }
}
