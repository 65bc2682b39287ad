//! A server that works on a bounded number of calls at a time.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// How a server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Condition {
    /// A call takes the time of its work.
    Well,
    /// It takes so many times as long.
    Slow(u32),
    /// Each call fails at once, with UNAVAILABLE.
    Failing,
}

/// A server. A clone is the same one.
#[derive(Debug, Clone)]
pub(crate) struct Server(Arc<State>);

#[derive(Debug)]
struct State {
    slots: Semaphore,
    condition: Mutex<Condition>,
    arrived: AtomicUsize,
}

impl Server {
    pub(crate) fn new(slots: usize) -> Self {
        let (slots, condition) = (Semaphore::new(slots), Mutex::new(Condition::Well));
        Self(Arc::new(State { slots, condition, arrived: AtomicUsize::new(0) }))
    }

    /// Calls that begin from now on find it so.
    pub(crate) fn set(&self, condition: Condition) {
        *self.0.condition.lock().unwrap() = condition;
    }

    /// Returns how many calls have arrived.
    pub(crate) fn arrived(&self) -> usize {
        self.0.arrived.load(Ordering::Relaxed)
    }

    fn condition(&self) -> Condition {
        *self.0.condition.lock().unwrap()
    }

    /// Answers a call whose work takes so many milliseconds, first come first served.
    async fn answer(&self, work: u64) -> Result<(), Status> {
        self.0.arrived.fetch_add(1, Ordering::Relaxed);
        if self.condition() == Condition::Failing {
            return Err(Status::unavailable("it fails each call"));
        }
        // A call that its caller has given up is dropped here, and leaves the queue.
        let _slot = self.0.slots.acquire().await.unwrap();
        let slowness = match self.condition() {
            Condition::Slow(times) => times,
            Condition::Well => 1,
            Condition::Failing => return Err(Status::unavailable("it fails each call")),
        };
        sleep(Duration::from_millis(work * u64::from(slowness))).await;
        Ok(())
    }
}

impl NamedService for Server {
    const NAME: &'static str = "hither.Fleet";
}

impl tower_service::Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { Ok(Grpc::new(ProstCodec::<(), u64>::new()).unary(server, request).await) })
    }
}

impl UnaryService<u64> for Server {
    type Response = ();
    type Future = Pin<Box<dyn Future<Output = Result<Response<()>, Status>> + Send>>;

    fn call(&mut self, request: Request<u64>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move { server.answer(request.into_inner()).await.map(Response::new) })
    }
}
