//! The desired state of a subchannel.

use std::sync::Arc;

use hither_core::Instance;

/// The desired state of one subchannel.
#[derive(Debug)]
pub(super) struct Desired {
    /// Whose addresses are connected to. A change of anything else reaches the next attempt.
    pub(super) instance: Arc<Instance>,
    /// Whether to connect while not connected.
    pub(super) connect: bool,
}
