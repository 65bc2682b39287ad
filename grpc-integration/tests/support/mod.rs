//! What the tests of the channel call, and how.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "this is a part of tests")]

mod client;
mod echo;
#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../../src/http2/frame.rs"]
mod frame;
mod gate;
mod log;
mod net;
pub(crate) mod peers;
mod registry;
mod server;

use std::time::Duration;

use hither_tonic::DiscoveryChannel;
use tokio::time::{sleep, timeout};

pub(crate) use client::{Client, path};
pub(crate) use echo::Echo;
pub(crate) use gate::Gate;
pub(crate) use log::Log;
pub(crate) use net::Net;
pub(crate) use registry::{Registry, SERVICE};
pub(crate) use server::Server;

/// How long anything may take that should happen at once.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Waits until calls are sent to `count` instances: a server has accepted a connection before the channel uses it.
pub(crate) async fn ready(channel: &DiscoveryChannel, count: usize) {
    // Of each instance that calls are sent to, Debug shows the calls in flight.
    until("the instances are ready", || format!("{channel:?}").matches("in_flight").count() == count).await;
}

/// Waits until `condition` holds; polls it each millisecond.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let look = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, look).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"));
}
