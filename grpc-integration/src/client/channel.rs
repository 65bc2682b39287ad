//! The channel that generated clients take.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hither_core::{Error, ErrorKind, Result, ServiceName};
use http::{Request, Response};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tower_service::Service;

use super::call::{Settings, call};
use super::pool::{State, StateReader};
use crate::task::Task;

/// Calls a service by its name: a channel for every generated client, over all instances that are ready.
///
/// A clone is the same channel. It is always ready to take a call: whatever there is to wait for is waited
/// for in the call, inside its deadline.
///
/// ```
/// use hither_core::StaticResolver;
/// use hither_tonic::{DiscoveryChannel, RoundRobin};
/// # use tonic_health::pb::health_client::HealthClient;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> hither_core::Result<()> {
/// # let registry = StaticResolver::new([]);
/// let channel =
///     DiscoveryChannel::builder(registry, "greeter").policy(RoundRobin::default()).connect_lazy()?;
/// let mut client = HealthClient::new(channel);
/// let status = client.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap_err();
/// assert_eq!(status.message(), "nobody is registered as greeter");
/// # Ok(())
/// # }
/// ```
///
/// # Connections
///
/// A task follows the registry all the time, connects to whatever it finds in the background, and tries again
/// with gRPC's backoff (1 s, growing to 120 s). Only an instance that has spoken HTTP/2 is called. An
/// instance that is removed, or announces that it is leaving, gets no new calls and finishes the old ones.
/// When the registry is lost, calls go on over what was known. Everything stops when the last clone is
/// dropped, but for responses under way, which finish.
///
/// # Calls
///
/// - The deadline is the request's `grpc-timeout`, capped by the channel's
///   [`default_timeout`](ChannelBuilder::default_timeout). It holds for everything: resolving, waiting,
///   connecting, the headers, and the body to its end.
/// - While somebody is connecting for the first time, calls wait. When it is known that nobody is ready they
///   fail with UNAVAILABLE and say why, unless they [wait for ready](crate::WaitForReady).
/// - A request that never left is sent to another instance, however often; one that the server refused unseen
///   (REFUSED_STREAM, GOAWAY) once, if its body is still at hand: up to 64 KiB. Nothing else is ever
///   repeated.
/// - The response's extensions hold the [`ReadyInstance`](crate::ReadyInstance) that answered.
#[derive(Clone)]
pub struct DiscoveryChannel {
    inner: Arc<Inner>,
}

struct Inner {
    service: ServiceName,
    shared: Arc<StateReader>,
    settings: Settings,
    _pool: Task,
}

impl DiscoveryChannel {
    pub(crate) fn new(
        service: ServiceName,
        shared: Arc<StateReader>,
        settings: Settings,
        pool: Task,
    ) -> Self {
        Self { inner: Arc::new(Inner { service, shared, settings, _pool: pool }) }
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.inner.service
    }

    /// Waits until an instance is ready, for `within` at most.
    ///
    /// # Errors
    /// `Timeout`, saying why nobody was; `Closed` when the runtime that the channel was made on is gone.
    ///
    /// # Cancellation
    /// Safe.
    pub async fn wait_ready(&self, within: Duration) -> Result<()> {
        let shared = &self.inner.shared;
        let mut changes = shared.changes();
        let ready = async {
            loop {
                match &**shared.state() {
                    State::Ready(_) => return Ok(()),
                    State::Closed => {
                        let why = "the Tokio runtime that the channel was made on is gone";
                        return Err(Error::new(ErrorKind::Closed, why));
                    }
                    State::Connecting(_) | State::Failing(_) => {}
                }
                // When there are no more changes, the pool has said that it is closed.
                let _ = changes.changed().await;
            }
        };
        match timeout(within, ready).await {
            Ok(ready) => ready,
            Err(_) => Err(self.not_ready(within)),
        }
    }

    fn not_ready(&self, within: Duration) -> Error {
        let why = match &**self.inner.shared.state() {
            State::Connecting(why) | State::Failing(why) => why.to_string(),
            State::Ready(_) | State::Closed => "it was too late".to_owned(),
        };
        let error = format!("no instance of {} was ready within {within:?}: {why}", self.inner.service);
        Error::new(ErrorKind::Timeout, error).with_operation("connect")
    }
}

impl Service<Request<Body>> for DiscoveryChannel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        let inner = Arc::clone(&self.inner);
        ResponseFuture(Box::pin(async move { call(&inner.shared, &inner.settings, request).await }))
    }
}

impl fmt::Debug for DiscoveryChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("DiscoveryChannel");
        debug.field("service", &self.inner.service);
        match &**self.inner.shared.state() {
            State::Ready(ready) => debug.field("ready", &ready.endpoints),
            State::Connecting(why) | State::Failing(why) => debug.field("not_ready", &format_args!("{why}")),
            State::Closed => debug.field("not_ready", &"closed"),
        };
        debug.finish_non_exhaustive()
    }
}

/// A call under way. Dropping it cancels the call.
#[must_use = "a call does nothing until it is awaited"]
pub struct ResponseFuture(Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>);

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Status>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResponseFuture")
    }
}
