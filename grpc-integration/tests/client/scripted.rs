//! Servers whose answers are a script, and a policy that records what became of each attempt.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hither_core::{Instance, SortedById};
use hither_memory::MemoryRegistry;
use hither_tonic::{
    CallInfo, ChannelBuilder, LoadBalancingPolicy, MemoryNetwork, MemoryServer, Outcome, Pick, Picked,
    Picker, ReadyInstance, RoundRobin,
};
use http_body::Frame;
use tokio::time::{Instant, sleep};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::support::SERVICE;

/// What a server does with a call.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// Its name, once the request is complete.
    Name,
    /// A status before anything else, which is a trailers-only response.
    Fail(Code),
    /// The same, with `grpc-retry-pushback-ms`.
    Pushback(Code, &'static str),
    /// A status after the response's headers.
    HeadersThenFail(Code),
    /// A status after one message.
    MessageThenFail(Code),
    /// A status in the headers, and the end of the stream after them: what nginx makes of a trailers-only response.
    InHeaders(Code),
    /// A response of HTTP's with this status.
    Http(u16),
    /// The same, with `grpc-retry-pushback-ms`.
    HttpPushback(u16, &'static str),
    /// Nothing until the call is cancelled.
    Silence,
    /// Another reply so much later.
    After(Duration, Box<Reply>),
    /// Another reply once so many messages have been read.
    Reads(usize, Box<Reply>),
}

impl Reply {
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self::After(delay, Box::new(self))
    }

    pub(crate) fn reading(self, messages: usize) -> Self {
        Self::Reads(messages, Box::new(self))
    }
}

/// A call as a server has seen it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) server: String,
    pub(crate) metadata: MetadataMap,
    pub(crate) messages: Vec<String>,
    /// Whether the call was dropped before it was answered.
    pub(crate) is_cancelled: bool,
}

impl Seen {
    /// `grpc-previous-rpc-attempts`.
    pub(crate) fn previous(&self) -> Option<&str> {
        self.metadata.get("grpc-previous-rpc-attempts").map(|value| value.to_str().unwrap())
    }
}

/// What all servers do and have seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    /// For the next calls, wherever they arrive.
    replies: VecDeque<Reply>,
    /// For those after them.
    then: Option<Reply>,
    seen: Vec<Seen>,
}

impl Script {
    pub(crate) fn of(replies: impl IntoIterator<Item = Reply>) -> Self {
        let this = Self::default();
        this.push(replies);
        this
    }

    pub(crate) fn push(&self, replies: impl IntoIterator<Item = Reply>) {
        self.0.lock().unwrap().replies.extend(replies);
    }

    /// Sets what calls get beyond the script. Default: the name of the server.
    pub(crate) fn then(&self, reply: Reply) {
        self.0.lock().unwrap().then = Some(reply);
    }

    /// Returns the calls that have arrived since the last time.
    pub(crate) fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.0.lock().unwrap().seen)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.0.lock().unwrap().seen.clone()
    }

    fn begin(&self, server: &str, metadata: MetadataMap) -> (Reply, Call) {
        let mut inner = self.0.lock().unwrap();
        let reply = inner.replies.pop_front().or(inner.then.clone()).unwrap_or(Reply::Name);
        let index = inner.seen.len();
        let (at, server) = (Instant::now(), server.to_owned());
        inner.seen.push(Seen { at, server, metadata, messages: Vec::new(), is_cancelled: false });
        (reply, Call { script: self.clone(), at, index, is_over: false })
    }
}

/// A call that a server is at.
struct Call {
    script: Script,
    at: Instant,
    index: usize,
    is_over: bool,
}

impl Call {
    fn change(&self, change: impl FnOnce(&mut Seen)) {
        // Those that were taken are not changed.
        if let Some(seen) =
            self.script.0.lock().unwrap().seen.get_mut(self.index).filter(|seen| seen.at == self.at)
        {
            change(seen);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.is_over {
            self.change(|seen| seen.is_cancelled = true);
        }
    }
}

#[derive(Debug, Clone)]
struct Scripted {
    name: String,
    script: Script,
}

type Messages = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

impl Scripted {
    async fn answer(
        name: String,
        mut reply: Reply,
        mut call: Call,
        mut messages: Streaming<String>,
    ) -> Result<Messages, Status> {
        loop {
            let fail = |code| Status::new(code, format!("from {name}"));
            let answer: Result<Messages, Status> = match reply {
                Reply::Name => {
                    while let Some(message) = messages.message().await? {
                        call.change(|seen| seen.messages.push(message));
                    }
                    Ok(Box::pin(stream::iter([Ok(name)])))
                }
                Reply::Fail(code) => Err(fail(code)),
                Reply::Pushback(code, value) => {
                    let mut metadata = MetadataMap::new();
                    metadata.insert("grpc-retry-pushback-ms", value.parse().unwrap());
                    Err(Status::with_metadata(code, format!("from {name}"), metadata))
                }
                Reply::HeadersThenFail(code) => Ok(Box::pin(stream::iter([Err(fail(code))]))),
                Reply::MessageThenFail(code) => {
                    Ok(Box::pin(stream::iter([Ok(name.clone()), Err(fail(code))])))
                }
                Reply::Silence => std::future::pending().await,
                Reply::After(delay, then) => {
                    sleep(delay).await;
                    reply = *then;
                    continue;
                }
                Reply::Reads(count, then) => {
                    for _ in 0..count {
                        if let Some(message) = messages.message().await? {
                            call.change(|seen| seen.messages.push(message));
                        }
                    }
                    reply = *then;
                    continue;
                }
                Reply::Http(_) | Reply::HttpPushback(..) | Reply::InHeaders(_) => unreachable!(),
            };
            call.is_over = true;
            return answer;
        }
    }
}

impl NamedService for Scripted {
    const NAME: &'static str = "test.Echo";
}

impl tower_service::Service<http::Request<Body>> for Scripted {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let (reply, call) = self.script.begin(&self.name, metadata);
        let name = self.name.clone();
        Box::pin(async move {
            if let Reply::Http(status) | Reply::HttpPushback(status, _) = reply {
                let mut response =
                    http::Response::builder().status(status).header("content-type", "text/html");
                if let Reply::HttpPushback(_, value) = reply {
                    response = response.header("grpc-retry-pushback-ms", value);
                }
                return Ok(response.body(Body::empty()).unwrap());
            }
            if let Reply::InHeaders(code) = reply {
                let response = http::Response::builder().header("content-type", "application/grpc");
                let response = response.header("grpc-status", i32::from(code));
                return Ok(response.body(Body::new(EndsLater)).unwrap());
            }
            let mut grpc = Grpc::new(ProstCodec::<String, String>::new());
            Ok(grpc.streaming(Handler(Some((name, reply, call))), request).await)
        })
    }
}

/// An empty body that does not say so before it is read: its headers do not end the stream.
struct EndsLater;

impl http_body::Body for EndsLater {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(None)
    }
}

struct Handler(Option<(String, Reply, Call)>);

impl StreamingService<String> for Handler {
    type Response = String;
    type ResponseStream = Messages;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Messages>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        let (name, reply, call) = self.0.take().unwrap();
        Box::pin(async move {
            Scripted::answer(name, reply, call, request.into_inner())
                .await
                .map(|messages| Response::new(messages.boxed() as Messages))
        })
    }
}

/// Servers in memory, `a:1`, `b:1` and so on, that follow one script.
pub(crate) struct Fleet {
    pub(crate) network: MemoryNetwork,
    pub(crate) servers: Vec<MemoryServer>,
    pub(crate) script: Script,
    pub(crate) recorder: Recorder,
}

impl Fleet {
    pub(crate) async fn of(count: usize, script: Script) -> Self {
        Self::weighted(&vec![1; count], script).await
    }

    /// One server of each weight.
    pub(crate) async fn weighted(weights: &[u32], script: Script) -> Self {
        let network = MemoryNetwork::new(MemoryRegistry::new());
        let mut servers = Vec::new();
        for (letter, weight) in ('a'..='z').zip(weights) {
            servers.push(serve(&network, &script, &format!("{letter}:1"), *weight).await);
        }
        Self { network, servers, script, recorder: Recorder::default() }
    }

    /// Starts a server that has ended.
    pub(crate) async fn restart(&mut self, address: &str) {
        self.servers.push(serve(&self.network, &self.script, address, 1).await);
    }

    /// A channel that goes round, and records.
    pub(crate) fn channel(&self) -> ChannelBuilder {
        self.network.channel(SERVICE).policy(self.recorder.clone())
    }
}

async fn serve(network: &MemoryNetwork, script: &Script, address: &str, weight: u32) -> MemoryServer {
    let instance = Instance::new(address.parse().unwrap()).with_weight(weight);
    let router = Server::builder().add_service(Scripted { name: address.to_owned(), script: script.clone() });
    network.serve_instance(SERVICE, instance, router).await.unwrap()
}

/// Round robin, that records the end of each attempt.
#[derive(Debug, Clone, Default)]
pub(crate) struct Recorder(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
struct Record {
    ready: SortedById<ReadyInstance>,
    /// Of the attempts that were sent.
    ended: Vec<Code>,
    unsent: Vec<Code>,
}

#[derive(Debug)]
struct RecordingPicker(Arc<dyn Picker>, Recorder);

impl LoadBalancingPolicy for Recorder {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        self.0.lock().unwrap().ready = ready.clone();
        Arc::new(RecordingPicker(RoundRobin::default().with_seed(0).picker(ready), self.clone()))
    }
}

impl Picker for RecordingPicker {
    fn pick(&self, call: &CallInfo<'_>) -> Pick {
        self.0.pick(call)
    }

    fn done(&self, _picked: &Picked, outcome: &Outcome<'_>) {
        let record = &mut *self.1.0.lock().unwrap();
        let codes = if outcome.was_sent() { &mut record.ended } else { &mut record.unsent };
        codes.push(outcome.code());
    }
}

impl Recorder {
    /// Returns the codes that attempts have ended with since the last time.
    pub(crate) fn codes(&self) -> Vec<Code> {
        std::mem::take(&mut self.0.lock().unwrap().ended)
    }

    /// Returns the codes of the picks since the last time that no server was sent a request for.
    pub(crate) fn unsent(&self) -> Vec<Code> {
        std::mem::take(&mut self.0.lock().unwrap().unsent)
    }

    /// The attempts in flight on all instances.
    pub(crate) fn in_flight(&self) -> usize {
        self.0.lock().unwrap().ready.iter().map(ReadyInstance::in_flight).sum()
    }
}
