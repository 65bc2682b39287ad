//! Retries by policy. What gRPC's own tests have (grpc-go's `test/retry_test.go`) is here over a network in memory, and what
//! others report of retries is named at the tests.

mod attempts;
mod deadlines;
mod limits;
mod settings;
mod streams;

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use hither_core::Backoff;
use hither_tonic::{ChannelBuilder, MethodConfig, RetryPolicy};
use tokio::time::sleep;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::SECOND;
use crate::scripted::Fleet;
use crate::support::{Client, path};

const MILLI: Duration = Duration::from_millis(1);

/// The delays are 10 ms.
fn policy() -> RetryPolicy {
    RetryPolicy::default().with_max_attempts(4).with_backoff(constant(10 * MILLI))
}

fn constant(delay: Duration) -> Backoff {
    Backoff::proportional(delay, 1.0, delay, 0.0)
}

fn retrying(policy: RetryPolicy) -> MethodConfig {
    MethodConfig::default().with_retry(policy)
}

/// A client of the fleet whose calls are all retried by the policy.
async fn client(fleet: &Fleet, policy: RetryPolicy) -> Client {
    connect(fleet, fleet.channel().method("", retrying(policy))).await
}

async fn connect(fleet: &Fleet, builder: ChannelBuilder) -> Client {
    let channel = builder.connect().await.unwrap();
    // All servers are connected then.
    sleep(SECOND).await;
    assert_eq!(fleet.recorder.in_flight(), 0);
    Client::new(&channel)
}

/// Calls with a stream of requests, which goes on with what `rest` yields.
async fn exchange(
    client: &Client,
    requests: impl Stream<Item = String> + Send + 'static,
) -> Result<Streaming<String>, Status> {
    let mut grpc = client.grpc.clone();
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<String, String>::new();
    grpc.streaming(Request::new(requests), path("Exchange"), codec).await.map(Response::into_inner)
}

/// Requests without an end.
fn open(requests: &[&str]) -> impl Stream<Item = String> + Send + 'static {
    stream::iter(requests.iter().map(ToString::to_string).collect::<Vec<_>>()).chain(stream::pending())
}

/// The first message of a response, or its status.
async fn first(response: Result<Streaming<String>, Status>) -> Result<String, Code> {
    let message = response.map_err(|status| status.code())?.message().await;
    message.map_err(|status| status.code()).map(Option::unwrap_or_default)
}
