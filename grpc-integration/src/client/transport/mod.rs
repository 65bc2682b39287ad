//! One HTTP/2 connection, and the request and response bodies that go over it.
//!
//! A call puts its request into the [queue](queue) of a connection and waits for the response. The connection's task
//! ([`driver`]) takes what is in the queue and drives h2; after each step it knows how many streams the peer allows,
//! whether it is going away, and whether it answers. So calls send nothing by themselves: many requests leave in one
//! write, and a call that has ended before that leaves no trace on the wire.

mod config;
mod connection;
mod driver;
mod driver_waker;
mod empty_frames;
mod ending;
mod header_list;
pub(crate) mod http_status;
mod keepalive;
mod lessons;
mod linger;
mod peer;
mod peer_settings;
mod protocol;
mod queue;
mod request_body;
mod resets;
mod response_body;
mod send_error;
mod sending;
mod shared;
mod stream_waker;
mod ticket;
mod trial;
mod upload;
mod wire;

pub(crate) use config::{KeepaliveConfig, TransportConfig};
pub(crate) use connection::{Connection, Slot};
#[cfg(feature = "metrics")]
pub(crate) use ending::Ending;
pub(crate) use header_list::HEADER_OVERHEAD;
pub(crate) use request_body::{ReplayBody, RequestBody, panicked};
pub(crate) use response_body::ResponseBody;
pub(crate) use send_error::{Refusal, SendError};
pub(crate) use sending::Sending;
pub(crate) use trial::{Trial, Verdict};
