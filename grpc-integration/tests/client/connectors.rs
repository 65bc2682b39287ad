//! Connectors: what they are given, and services as connectors.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use async_trait::async_trait;
use hither_core::Instance;
use hither_tonic::{Connected, Connector, Destination, RoundRobin, ServiceConnector};
use http::Uri;
use http::uri::Scheme;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;

use crate::support::{Client, Net, Registry, SERVICE, Server, ready, until};
use crate::{SECOND, channel};

/// Records the instance of each attempt.
#[derive(Debug, Clone)]
struct Recording {
    net: Net,
    seen: Arc<Mutex<Vec<Option<String>>>>,
}

#[async_trait]
impl Connector for Recording {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let instance = destination.instance();
        assert!(instance.addresses().contains(destination.address()));
        self.seen.lock().unwrap().push(instance.metadata().get("shard").cloned());
        self.net.connect(destination).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_gets_the_instance_as_the_registry_describes_it_now() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let connector = Recording { net: net.clone(), seen: Arc::default() };
    let server = Server::on(&net, "a:1");
    let instance = || Instance::new("a:1".parse().unwrap());
    registry.put(instance().with_metadata("shard", "1")).await;
    let channel = channel(&registry, &net).connector(connector.clone()).connect().await.unwrap();
    registry.put(instance().with_metadata("shard", "2")).await;
    sleep(10 * SECOND).await;
    server.break_connections();
    sleep(SECOND).await;
    Client::new(&channel).name().await.unwrap();
    let seen = connector.seen.lock().unwrap().clone();
    assert_eq!(seen, [Some("1".to_owned()), Some("2".to_owned())]);
}

/// Which tonic's own balanced channel cannot do: grpc/grpc-rust#1476.
#[tokio::test]
async fn a_connector_that_tonic_takes_connects_to_every_instance() {
    let servers = [Server::start().await, Server::start().await];
    let seen = Arc::<Mutex<Vec<Uri>>>::default();
    let record = Arc::clone(&seen);
    let connector = tower::service_fn(move |uri: Uri| {
        record.lock().unwrap().push(uri.clone());
        async move { TcpStream::connect(uri.authority().unwrap().as_str()).await.map(TokioIo::new) }
    });
    let tonic = Endpoint::from_shared(format!("http://{}", servers[0].address)).unwrap();
    tonic.connect_with_connector(connector.clone()).await.unwrap();

    let mut registry = Registry::new();
    for server in &servers {
        registry.up(&server.address).await;
    }
    let builder = hither_tonic::DiscoveryChannel::builder(registry.discovery(), SERVICE);
    let builder = builder.connector(ServiceConnector::new(connector)).policy(RoundRobin::default());
    let channel = builder.connect().await.unwrap();
    ready(&channel, 2).await;
    let client = Client::new(&channel);
    for _ in 0..4 {
        client.name().await.unwrap();
    }
    let uris: BTreeSet<_> = seen.lock().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(uris, servers.iter().map(|server| format!("http://{}/", server.address)).collect());
}

#[tokio::test(start_paused = true)]
async fn a_service_connector_uses_its_scheme_and_its_errors_reach_the_callers() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("a:1").await;
    registry.up("unix:///run/greeter.sock").await;
    let connector = tower::service_fn(|uri: Uri| async move {
        Err::<TokioIo<DuplexStream>, _>(io::Error::other(format!("no route to {uri}")))
    });
    let connector = ServiceConnector::new(connector).with_scheme(Scheme::HTTPS);
    let channel = channel(&registry, &net).connector(connector).connect_lazy().unwrap();
    let status = Client::new(&channel).name().await.unwrap_err();
    let texts = [
        "no route to https://a:1/ at a:1",
        "unix:///run/greeter.sock has no URI at unix:///run/greeter.sock",
    ];
    assert!(texts.iter().any(|text| status.message().ends_with(text)), "{status}");
}

/// The streams of another connector, as if they were encrypted.
#[derive(Debug)]
struct Secure(Net);

#[async_trait]
impl Connector for Secure {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let plain = self.0.connect(destination).await?;
        Ok(Connected::new(plain.into_io()).with_scheme(Scheme::HTTPS))
    }
}

#[tokio::test(start_paused = true)]
async fn requests_have_the_scheme_of_their_connection() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut incoming = net.listen("a:1");
    let (seen, mut schemes) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(io) = incoming.recv().await {
            let seen = seen.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(io).await.unwrap();
                while let Some(Ok((request, _))) = connection.accept().await {
                    seen.send(request.uri().scheme().cloned()).unwrap();
                }
            });
        }
    });
    registry.up("a:1").await;
    let to_stream = tower::service_fn({
        let net = net.clone();
        move |_: Uri| {
            let net = net.clone();
            async move {
                let instance = Instance::new("a:1".parse().unwrap());
                net.connect(Destination::new(&instance, instance.address()))
                    .await
                    .map(|plain| TokioIo::new(plain.into_io()))
            }
        }
    });
    let service = ServiceConnector::new(to_stream).with_scheme(Scheme::HTTPS);
    let plain = channel(&registry, &net);
    let secure = channel(&registry, &net).connector(Secure(net.clone()));
    let by_service = channel(&registry, &net).connector(service);
    for (builder, scheme) in [(plain, Scheme::HTTP), (secure, Scheme::HTTPS), (by_service, Scheme::HTTPS)] {
        let channel = builder.connect().await.unwrap();
        let _ = Client::new(&channel).name().await;
        assert_eq!(schemes.recv().await.unwrap(), Some(scheme));
    }
}

/// Panics at each second attempt.
#[derive(Debug)]
struct Panicking(Net);

#[async_trait]
impl Connector for Panicking {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let connected = self.0.connect(destination).await;
        assert!(self.0.dials("a:1").len().is_multiple_of(2), "not now");
        connected
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_panics_is_one_that_failed() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connector(Panicking(net.clone())).connect_lazy().unwrap();
    let client = Client::new(&channel);
    for accepted in [2, 4] {
        let status = client.name().await.unwrap_err();
        assert!(status.message().ends_with("panic while connecting: not now at a:1"), "{status}");
        channel.wait_ready(10 * SECOND).await.unwrap();
        client.name().await.unwrap();
        assert_eq!(server.accepted(), accepted);
        server.break_connections();
        until("it is connecting again", || net.dials("a:1").len() > accepted).await;
    }
}

/// Connects to streams that keep one waker, of whatever polled them last.
#[derive(Debug)]
struct OneWaker(Net);

#[async_trait]
impl Connector for OneWaker {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let io = self.0.connect(destination).await?.into_io();
        Ok(Connected::new(OneWakerStream { io, last: Arc::default() }))
    }
}

struct OneWakerStream<T> {
    io: T,
    last: Arc<LastWaker>,
}

#[derive(Default)]
struct LastWaker(Mutex<Option<Waker>>);

impl Wake for LastWaker {
    fn wake(self: Arc<Self>) {
        let waker = self.0.lock().unwrap().take();
        waker.into_iter().for_each(Waker::wake);
    }
}

impl<T: Unpin> OneWakerStream<T> {
    fn poll<R>(
        &mut self,
        cx: &Context<'_>,
        poll: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<R>,
    ) -> Poll<R> {
        *self.last.0.lock().unwrap() = Some(cx.waker().clone());
        let waker = Waker::from(Arc::clone(&self.last));
        poll(Pin::new(&mut self.io), &mut Context::from_waker(&waker))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for OneWakerStream<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(cx, |io, cx| io.poll_read(cx, buf))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for OneWakerStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(cx, |io, cx| io.poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |io, cx| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(cx, |io, cx| io.poll_shutdown(cx))
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_keeps_one_waker_serves_calls() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connector(OneWaker(net.clone())).connect().await.unwrap();
    let client = Client::new(&channel);
    for _ in 0..8 {
        // A deadline, because a wake-up that is lost is never noticed otherwise.
        timeout(SECOND, client.name()).await.unwrap().unwrap();
    }
}
