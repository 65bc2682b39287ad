//! The hand-written synchronisation, under every order in which threads may run (loom).
//!
//! The library's own files are compiled again, with loom's primitives in place of those that `client/sync.rs` and
//! `server/sync.rs` name, and with stand-ins for connections and requests.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]
#![allow(dead_code, unreachable_pub, reason = "these are parts of the library")]

/// That of the standard library, whose threads are loom's.
macro_rules! thread_local {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = const $init:block;) => {
        loom::thread_local! {
            $(#[$attribute])*
            static $name: $type = $init;
        }
    };
}

#[path = "../../src/client/capacity.rs"]
mod capacity;
#[path = "../../src/server/cutter.rs"]
mod cutter;
#[path = "../../src/client/transport/driver_waker.rs"]
mod driver_waker;
#[path = "../../src/client/failures.rs"]
mod failures;
#[cfg(feature = "metrics")]
#[path = "../../src/metrics/message_sizes.rs"]
mod message_sizes;
#[path = "../../src/client/outcomes/mod.rs"]
mod outcomes;
#[path = "../../src/client/transport/peer.rs"]
mod peer;
#[path = "../../src/client/transport/queue.rs"]
mod queue;
#[path = "../../src/client/ready_instance.rs"]
mod ready_instance;
#[path = "../../src/client/transport/request_body.rs"]
mod request_body;
#[path = "../../src/client/transport/resets.rs"]
mod resets;
#[path = "../../src/client/transport/shared.rs"]
mod shared;
#[path = "../../src/client/transport/stream_waker.rs"]
mod stream_waker;
#[path = "../../src/client/transport/ticket.rs"]
mod ticket;

mod cases;
mod streams;
mod sync;
mod transport;

/// Where those files look for each other.
mod client {
    pub(crate) use crate::streams::{ResponseFuture, SendRequest};
    pub(crate) use crate::{capacity, sync};
}

// And where they look for h2.
extern crate self as h2;
use streams::{Error, RecvStream};

mod upload {
    pub(crate) struct Upload;

    pub(crate) fn begin(
        _stream: crate::streams::SendStream<bytes::Bytes>,
        _body: crate::request_body::RequestBody,
    ) -> Option<Upload> {
        None
    }
}

mod ending {
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct Ending {
        pub(crate) cause: String,
    }
}

#[cfg(feature = "metrics")]
mod metrics {
    pub(crate) use crate::message_sizes::SentSizes;
}

mod wire {
    #[derive(Debug, Default)]
    pub(crate) struct WireFacts;
}

/// Runs it in every order with three changes of thread at most where a thread could go on: with more of them it takes
/// minutes, and faults are found with two.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(run);
}
