//! How the trace that a call belongs to gets onto the wire.

use std::fmt;
use std::sync::Arc;

use hither_core::contain::contain;
use http::HeaderMap;
use tonic::Status;

/// The program's function that writes the context of an attempt into its headers.
#[derive(Clone)]
pub(crate) struct Propagation(Arc<dyn Fn(&mut HeaderMap) + Send + Sync>);

impl Propagation {
    pub(crate) fn new(inject: impl Fn(&mut HeaderMap) + Send + Sync + 'static) -> Self {
        Self(Arc::new(inject))
    }

    /// Writes into the headers of an attempt.
    ///
    /// # Errors
    /// It has panicked: the status for the call.
    pub(crate) fn inject(&self, headers: &mut HeaderMap) -> Result<(), Status> {
        contain(|| (self.0)(headers)).map_err(|panic| {
            Status::internal(format!("the function that propagates the context panicked: {panic}"))
        })
    }
}

impl fmt::Debug for Propagation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Propagation")
    }
}
