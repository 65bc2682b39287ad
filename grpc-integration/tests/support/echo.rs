//! The service that the tests call.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use http::Uri;
use tokio::sync::watch;
use tokio::time::sleep;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// One server's service: its name, and what it has seen.
#[derive(Debug, Clone)]
pub(crate) struct Echo {
    pub(crate) name: Arc<str>,
    /// Calls that have arrived.
    pub(crate) calls: Arc<AtomicUsize>,
    /// `Hold` and `Stream` go on when it opens.
    pub(crate) gate: watch::Sender<bool>,
    /// What `Slow` takes, in milliseconds.
    pub(crate) delay: Arc<AtomicU64>,
}

type Messages = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

impl Echo {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            calls: Arc::default(),
            gate: watch::Sender::new(false),
            delay: Arc::default(),
        }
    }

    /// Waits for the gate.
    async fn held(&self) {
        self.gate.subscribe().wait_for(|open| *open).await.unwrap();
    }

    async fn answer(self, uri: Uri, request: Request<Streaming<String>>) -> Result<Messages, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let (remote, certificates) = (request.remote_addr(), request.peer_certs());
        let (metadata, _, mut messages) = request.into_parts();
        let name = self.name.to_string();
        let one = |text: String| -> Messages { Box::pin(stream::once(async { Ok(text) })) };
        Ok(match uri.path().rsplit('/').next().unwrap() {
            // The name of the server.
            "Name" => {
                while messages.message().await?.is_some() {}
                one(name)
            }
            // The name of the server, once the gate is open.
            "Hold" => {
                self.held().await;
                one(name)
            }
            // The name of the server, and the end once the gate is open.
            "Stream" => Box::pin(one(name).chain(stream::once(async move {
                self.held().await;
                Ok("end".to_owned())
            }))),
            // Without an end.
            "Ticks" => Box::pin(stream::unfold((), |()| async {
                sleep(Duration::from_millis(100)).await;
                Some((Ok("tick".to_owned()), ()))
            })),
            // As many messages as the request says, one every ten milliseconds; the headers come with the first.
            "Count" => {
                let count = messages.message().await?.unwrap_or_default().parse().unwrap_or(0_u32);
                let pause = || sleep(Duration::from_millis(10));
                pause().await;
                Box::pin(stream::iter(0..count).then(move |at| async move {
                    if at > 0 {
                        pause().await;
                    }
                    Ok(at.to_string())
                }))
            }
            // The value of this key of the request's metadata.
            "Metadata" => {
                let key = messages.message().await?.unwrap_or_default();
                one(metadata.get(&key).map(|value| value.to_str().unwrap()).unwrap_or_default().to_owned())
            }
            // How much was sent.
            "Length" => {
                let mut length = 0;
                while let Some(message) = messages.message().await? {
                    length += message.len();
                }
                one(length.to_string())
            }
            // The request's authority.
            "Authority" => one(uri.authority().unwrap().to_string()),
            // The request's scheme.
            "Scheme" => one(uri.scheme_str().unwrap_or_default().to_owned()),
            // The address of the client, and how many certificates it has sent.
            "Peer" => one(format!("{} {}", remote.unwrap(), certificates.map_or(0, |chain| chain.len()))),
            // The name of the server after two milliseconds, and an error at once while the gate is open.
            "Faulty" if *self.gate.borrow() => return Err(Status::unavailable("not today")),
            "Faulty" => {
                sleep(Duration::from_millis(2)).await;
                one(name)
            }
            // The name of the server after the delay that was set.
            "Slow" => {
                sleep(Duration::from_millis(self.delay.load(Ordering::SeqCst))).await;
                one(name)
            }
            // The name of the server, and an error that asks for a pause while the gate is open.
            "Busy" if *self.gate.borrow() => {
                let mut busy = Status::resource_exhausted("too many");
                busy.metadata_mut().insert("grpc-retry-pushback-ms", "5000".parse().unwrap());
                return Err(busy);
            }
            "Busy" => one(name),
            // An error of the server's own.
            "Fail" => return Err(Status::unavailable("not today")),
            method => return Err(Status::unimplemented(method)),
        })
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl tower_service::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (echo, uri) = (self.clone(), request.uri().clone());
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<String, String>::new());
            Ok(grpc.streaming(Handler(echo, uri), request).await)
        })
    }
}

struct Handler(Echo, Uri);

impl StreamingService<String> for Handler {
    type Response = String;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        let (echo, uri) = (self.0.clone(), self.1.clone());
        Box::pin(async move { echo.answer(uri, request).await.map(Response::new) })
    }
}
