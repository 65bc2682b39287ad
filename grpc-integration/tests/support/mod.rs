//! What the tests of the channel call, and how.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "this is a part of tests")]

mod client;
mod echo;
mod net;
mod registry;
mod server;

use std::time::Duration;

use tokio::time::{sleep, timeout};

pub use client::Client;
pub use net::Net;
pub use registry::Registry;
pub use server::Server;

/// How long anything may take that should happen at once.
pub const SOON: Duration = Duration::from_secs(10);

/// Waits until `condition` holds; it is looked at again and again.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let look = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, look).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}
