//! Panics in what a program gives a channel: its policy, its connector and the connector's byte streams.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use hither_core::{Instance, SortedById};
use hither_tonic::{
    CallInfo, Connected, Connector, Destination, LoadBalancingPolicy, Outcome, Pick, Picked, Picker,
    ReadyInstance, WaitForReady,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};
use tonic::{Code, Request};

use crate::support::{Client, Log, Net, Registry, Server, until};
use crate::{SECOND, channel};

/// Where the program's code panics at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum At {
    Nowhere,
    // The policy.
    Picker,
    Pick,
    Responding,
    Done,
    PickerDrop,
    // The connector, before it returns a future, in the future, and when that is dropped.
    WantsResolved,
    Call,
    Future,
    FutureDrop,
    // Its byte streams.
    Read,
    Write,
    Flush,
}

#[derive(Debug, Clone)]
struct Broken(Arc<AtomicU8>);

impl Broken {
    fn at(at: At) -> Self {
        Self(Arc::new(AtomicU8::new(at as u8)))
    }

    fn now(&self, at: At) {
        self.0.store(at as u8, Ordering::SeqCst);
    }

    fn check(&self, at: At) {
        assert!(self.0.load(Ordering::SeqCst) != at as u8, "a bug at {at:?}");
    }
}

/// Picks the first instance.
#[derive(Debug, Clone)]
struct First(Broken);

#[derive(Debug)]
struct FirstPicker(Broken, ReadyInstance);

impl LoadBalancingPolicy for First {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        self.0.check(At::Picker);
        Arc::new(FirstPicker(self.0.clone(), ready[0].clone()))
    }
}

impl Picker for FirstPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        self.0.check(At::Pick);
        Pick::Instance(self.1.clone().into())
    }

    fn responding(&self, _picked: &Picked, _after: Duration) {
        self.0.check(At::Responding);
    }

    fn done(&self, _picked: &Picked, _outcome: &Outcome<'_>) {
        self.0.check(At::Done);
    }
}

impl Drop for FirstPicker {
    fn drop(&mut self) {
        self.0.check(At::PickerDrop);
    }
}

const NAME: &str = "client::panics::First";

fn errors(log: &Log) -> Vec<String> {
    log.take().into_iter().filter(|line| line.contains("panicked")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_at_first_fails_the_calls_and_is_asked_again_at_the_next_change() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let _servers = [Server::on(&net, "a:1"), Server::on(&net, "b:1"), Server::on(&net, "c:1")];
    let broken = Broken::at(At::Picker);
    registry.up("a:1").await;
    let channel = channel(&registry, &net).policy(First(broken.clone())).connect_lazy().unwrap();
    let client = Client::new(&channel);
    sleep(SECOND).await;
    let status = client.name().await.unwrap_err();
    let text = format!("the load balancing policy {NAME} panicked in picker: a bug at Picker");
    assert_eq!((status.code(), status.message()), (Code::Internal, text.as_str()));
    registry.up("b:1").await;
    sleep(SECOND).await;
    assert_eq!(client.name().await.unwrap_err().code(), Code::Internal);
    let line = "ERROR load balancing policy panicked policy=\"client::panics::First\" method=\"picker\" \
                cause=\"a bug at Picker\"";
    assert_eq!(errors(&log), [line], "once, however often it panics");

    let mut request = Request::new(String::new());
    request.extensions_mut().insert(WaitForReady(true));
    let waiting = client.call("Name", request);
    broken.now(At::Nowhere);
    registry.up("c:1").await;
    assert_eq!(waiting.await.unwrap().into_inner(), "a:1");
    assert_eq!(client.name().await.unwrap(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_later_leaves_the_last_picker_in_use() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = vec![Server::on(&net, "a:1"), Server::on(&net, "b:1"), Server::on(&net, "c:1")];
    let broken = Broken::at(At::Nowhere);
    registry.up("a:1").await;
    let client =
        Client::new(&channel(&registry, &net).policy(First(broken.clone())).connect().await.unwrap());
    broken.now(At::Picker);
    registry.up("b:1").await;
    sleep(SECOND).await;
    assert_eq!(client.name().await.unwrap(), "a:1");
    // The picker knows only one that is gone.
    registry.leave("a:1").await;
    drop(servers.remove(0));
    sleep(SECOND).await;
    assert_eq!(client.name().await.unwrap(), "b:1");
    broken.now(At::Nowhere);
    registry.up("c:1").await;
    sleep(SECOND).await;
    assert_eq!(client.name().await.unwrap(), "b:1");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_left_out_gets_no_calls_of_an_old_picker_while_others_do() {
    for weight in [None, Some(0)] {
        let (mut registry, net) = (Registry::new(), Net::new());
        let servers = [Server::on(&net, "a:1"), Server::on(&net, "b:1")];
        registry.up("a:1").await;
        registry.up("b:1").await;
        let broken = Broken::at(At::Nowhere);
        let channel = channel(&registry, &net).policy(First(broken.clone())).connect().await.unwrap();
        let client = Client::new(&channel);
        sleep(SECOND).await;
        assert_eq!(client.name().await.unwrap(), "a:1");
        broken.now(At::Picker);
        match weight {
            Some(weight) => registry.put(Instance::new("a:1".parse().unwrap()).with_weight(weight)).await,
            None => registry.draining("a:1").await,
        }
        sleep(SECOND).await;
        assert_eq!((servers[0].open(), client.name().await.unwrap().as_str()), (1, "b:1"));
        // No other is left.
        registry.leave("b:1").await;
        sleep(SECOND).await;
        assert_eq!(client.name().await.unwrap(), "a:1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_picker_ends_its_call_alone() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    let broken = Broken::at(At::Nowhere);
    registry.up("a:1").await;
    let client =
        Client::new(&channel(&registry, &net).policy(First(broken.clone())).connect().await.unwrap());
    let mut neighbour = client.stream("Stream", String::new()).await.unwrap();
    for wait_for_ready in [false, true] {
        broken.now(At::Pick);
        let mut request = Request::new(String::new());
        request.extensions_mut().insert(WaitForReady(wait_for_ready));
        let status = client.call("Name", request).await.unwrap_err();
        let text = format!("the load balancing policy {NAME} panicked in pick: a bug at Pick");
        assert_eq!((status.code(), status.message()), (Code::Internal, text.as_str()));
        broken.now(At::Nowhere);
        client.name().await.unwrap();
    }
    assert_eq!(errors(&log).len(), 1);

    broken.now(At::Done);
    client.name().await.unwrap();
    client.call("Fail", String::new()).await.unwrap_err();
    let ended = client.stream("Stream", String::new()).await.unwrap();
    drop(ended);
    assert_eq!(errors(&log).len(), 1);

    broken.now(At::Responding);
    neighbour.message().await.unwrap();
    assert!(timeout(SECOND, neighbour.message()).await.is_err());
    assert_eq!(errors(&log).len(), 1);
    server.open_gate();
    while neighbour.message().await.unwrap().is_some() {}
    assert_eq!((server.accepted(), server.open()), (1, 1));
}

/// A panic that leaves a destructor while the stack unwinds aborts the process.
#[tokio::test(start_paused = true)]
async fn a_panic_at_the_end_of_a_call_is_contained_while_its_caller_unwinds() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    let broken = Broken::at(At::Nowhere);
    registry.up("a:1").await;
    let client =
        Client::new(&channel(&registry, &net).policy(First(broken.clone())).connect().await.unwrap());
    broken.now(At::Done);
    let caller = async {
        let _stream = client.stream("Stream", String::new()).await.unwrap();
        panic!("a bug of the caller's");
    };
    let panic = AssertUnwindSafe(caller).catch_unwind().await.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a bug of the caller's"));
    broken.now(At::Nowhere);
    client.name().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_picker_that_panics_when_it_is_dropped_harms_nothing() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _servers = [Server::on(&net, "a:1"), Server::on(&net, "b:1"), Server::on(&net, "c:1")];
    let broken = Broken::at(At::PickerDrop);
    registry.up("b:1").await;
    let client =
        Client::new(&channel(&registry, &net).policy(First(broken.clone())).connect().await.unwrap());
    // The last one of the first picker is a call's.
    let stream = client.stream("Stream", String::new()).await.unwrap();
    for (address, first) in [("c:1", "b:1"), ("a:1", "a:1")] {
        registry.up(address).await;
        sleep(SECOND).await;
        assert_eq!(client.name().await.unwrap(), first);
    }
    drop(stream);
    broken.now(At::Nowhere);
}

/// Connects over `net`.
#[derive(Debug, Clone)]
struct Bridge {
    net: Net,
    broken: Broken,
}

impl Connector for Bridge {
    // As async_trait has it, but what is before the future is not in it.
    fn connect<'a, 'b, 'c>(
        &'a self,
        destination: Destination<'b>,
    ) -> Pin<Box<dyn Future<Output = io::Result<Connected>> + Send + 'c>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.broken.check(At::Call);
        let dropped = CheckedAtDrop(self.broken.clone());
        Box::pin(async move {
            let _dropped = dropped;
            self.broken.check(At::Future);
            let io = self.net.connect(destination).await?.into_io();
            Ok(Connected::new(Stream { io, broken: self.broken.clone() }))
        })
    }

    fn wants_resolved(&self) -> bool {
        self.broken.check(At::WantsResolved);
        false
    }
}

struct CheckedAtDrop(Broken);

impl Drop for CheckedAtDrop {
    fn drop(&mut self) {
        self.0.check(At::FutureDrop);
    }
}

struct Stream {
    io: hither_tonic::BoxedIo,
    broken: Broken,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.broken.check(At::Read);
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.broken.check(At::Write);
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.broken.check(At::Flush);
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_has_failed_and_is_used_again() {
    let connecting =
        [At::WantsResolved, At::Call, At::Future, At::FutureDrop, At::Read, At::Write, At::Flush];
    for at in connecting {
        let (mut registry, net) = (Registry::new(), Net::new());
        let _server = Server::on(&net, "a:1");
        registry.up("a:1").await;
        let connector = Bridge { net: net.clone(), broken: Broken::at(at) };
        let channel = channel(&registry, &net).connector(connector.clone()).connect_lazy().unwrap();
        let client = Client::new(&channel);
        match client.name().await {
            // It was of no use any more.
            Ok(_) => assert_eq!(at, At::FutureDrop),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{at:?}: {status}");
                assert!(status.message().contains(&format!("a bug at {at:?}")), "{at:?}: {status}");
            }
        }
        connector.broken.now(At::Nowhere);
        until("it is connected to", || net.dials("a:1").len() < 100 && channel_is_ready(&channel)).await;
        client.name().await.unwrap_or_else(|status| panic!("{at:?}: {status}"));
    }
}

fn channel_is_ready(channel: &hither_tonic::DiscoveryChannel) -> bool {
    !format!("{channel:?}").contains("not_ready")
}

#[tokio::test(start_paused = true)]
async fn a_byte_stream_that_panics_ends_its_connection_alone() {
    for at in [At::Read, At::Write, At::Flush] {
        let (mut registry, net) = (Registry::new(), Net::new());
        let server = Server::on(&net, "a:1");
        registry.up("a:1").await;
        let connector = Bridge { net: net.clone(), broken: Broken::at(At::Nowhere) };
        let client =
            Client::new(&channel(&registry, &net).connector(connector.clone()).connect().await.unwrap());
        let statuses = Mutex::new(Vec::new());
        let call = async {
            let mut stream = client.stream("Stream", String::new()).await.unwrap();
            stream.message().await.unwrap();
            connector.broken.now(at);
            let (other, own) = tokio::join!(client.name(), stream.message());
            statuses.lock().unwrap().extend(other.err().into_iter().chain(own.err()));
        };
        AssertUnwindSafe(call).catch_unwind().await.expect("no panic reaches a caller");
        let statuses = statuses.into_inner().unwrap();
        assert!(!statuses.is_empty(), "{at:?}");
        for status in statuses {
            let text = format!("panic in the byte stream: a bug at {at:?}");
            assert!(status.message().contains(&text), "{at:?}: {status}");
        }
        connector.broken.now(At::Nowhere);
        sleep(10 * SECOND).await;
        client.name().await.unwrap_or_else(|status| panic!("{at:?}: {status}"));
        assert!(server.accepted() > 1);
    }
}
