//! Faults of peers and of networks, and what the channel's transport makes of them: over real sockets, against frames
//! written by hand, raw `h2` servers and tonic's.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, unused_imports, reason = "shared with the other tests of the channel")]
#[path = "../support/mod.rs"]
mod support;

mod raw;

mod attempts;
mod broken_writes;
mod closing;
mod deadlines;
mod download;
mod dropped;
mod goaway;
mod headers;
mod hostile;
mod http;
mod keepalive;
mod near_the_limit;
mod panics;
mod pings;
mod refused;
mod request_bodies;
mod request_headers;
mod streams;
mod tonic_pings;
mod upload;
mod words;
mod writes;

use std::future::Future;
use std::time::Duration;

use futures_util::future::join_all;
use hither_tonic::{ChannelBuilder, DiscoveryChannel, RoundRobin};
use tonic::{IntoStreamingRequest, Request, Response, Status};
use tonic_prost::ProstCodec;

use support::{Client, Registry, SERVICE, SOON, path, ready, until};

const SECOND: Duration = Duration::from_secs(1);

impl Client {
    /// Makes a call whose request is a stream.
    pub(crate) async fn upload(
        &self,
        method: &str,
        request: impl IntoStreamingRequest<Message = String>,
    ) -> Result<Response<String>, Status> {
        let mut grpc = self.grpc.clone();
        grpc.ready().await?;
        grpc.client_streaming(
            request.into_streaming_request(),
            path(method),
            ProstCodec::<String, String>::new(),
        )
        .await
    }
}

/// A channel to these addresses over real sockets.
async fn channel(addresses: &[&str]) -> (Registry, ChannelBuilder) {
    let mut registry = Registry::new();
    for address in addresses {
        registry.up(address).await;
    }
    let builder = DiscoveryChannel::builder(registry.discovery(), SERVICE).policy(RoundRobin::default());
    (registry, builder)
}

/// A client on a channel that is connected to all of these addresses.
async fn client(addresses: &[&str]) -> (Registry, Client) {
    let (registry, builder) = channel(addresses).await;
    let channel = builder.connect().await.unwrap();
    // The first one was ready, and its peer may have closed the connection since.
    if addresses.len() > 1 {
        ready(&channel, addresses.len()).await;
    }
    (registry, Client::new(&channel))
}

/// Makes a call that has to end soon.
async fn soon<T>(what: &str, call: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, call).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"))
}

/// A request with this timeout.
fn within(timeout: Duration) -> Request<String> {
    let mut request = Request::new(String::new());
    request.set_timeout(timeout);
    request
}

/// Makes `calls` calls by `callers` at once; returns those that failed.
async fn storm(client: &Client, callers: usize, calls: usize) -> Vec<Status> {
    let each = calls / callers;
    let tasks = (0..callers).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut failed = Vec::new();
            for _ in 0..each {
                if let Err(status) = client.call("Name", within(SOON)).await {
                    failed.push(status);
                }
            }
            failed
        })
    });
    join_all(tasks).await.into_iter().flat_map(Result::unwrap).collect()
}
