//! The load: callers that make one call after the other.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http_body::Body as HttpBody;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::client::{Grpc, GrpcService};
use tonic::{GrpcMethod, Request};

use crate::codec::BytesCodec;
use crate::{Error, Result};

/// What each call is.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    request: Bytes,
    messages: u32,
    deadline: Option<Duration>,
    is_named: bool,
}

impl Call {
    /// A call whose request and response messages have `size` bytes; with more than one message it is a
    /// server-streaming call.
    ///
    /// The request tells the server what to answer: the size of a message, and how many.
    pub(crate) fn new(size: u32, messages: u32, deadline: Option<Duration>) -> Self {
        let mut request = BytesMut::new();
        request.put_u32(size);
        request.put_u32(messages);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        request.resize(size.max(request.len()), 0);
        Self { request: request.freeze(), messages, deadline, is_named: false }
    }

    /// The same with the name of the method, which generated code gives to each call.
    pub(crate) fn named(self) -> Self {
        Self { is_named: true, ..self }
    }

    fn request(&self) -> Request<Bytes> {
        let mut request = Request::new(self.request.clone());
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        if self.is_named {
            request.extensions_mut().insert(GrpcMethod::new("bench.Bench", "Call"));
        }
        request
    }
}

/// A channel of any crate that tonic's generated clients could call.
pub(crate) trait Channel:
    GrpcService<
        Body,
        ResponseBody: HttpBody<Data = Bytes, Error: Into<Error> + Send> + Send + 'static,
        Future: Send,
        Error: Into<Error>,
    > + Clone
    + Send
    + 'static
{
}

impl<T> Channel for T where
    T: GrpcService<
            Body,
            ResponseBody: HttpBody<Data = Bytes, Error: Into<Error> + Send> + Send + 'static,
            Future: Send,
            Error: Into<Error>,
        > + Clone
        + Send
        + 'static
{
}

/// How many calls are made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amount {
    /// That many, divided among the callers.
    Calls(u64),
    /// Until this long after the start.
    For(Duration),
}

/// Makes calls, and returns how many when all have ended.
pub(crate) async fn make<T: Channel>(channel: &T, call: &Call, callers: u64, amount: Amount) -> Result<u64> {
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let mut is_over = limit(amount, callers, caller);
        let (channel, call) = (channel.clone(), call.clone());
        tasks.spawn(async move {
            let mut client = Grpc::new(channel);
            let mut made = 0;
            while !is_over(made) {
                one(&mut client, &call).await?;
                made += 1;
            }
            Ok::<_, Error>(made)
        });
    }
    let mut made = 0;
    while let Some(ended) = tasks.join_next().await {
        made += ended??;
    }
    Ok(made)
}

/// Returns what tells one of the callers to stop, from the number of calls that it has made.
fn limit(amount: Amount, callers: u64, caller: u64) -> impl FnMut(u64) -> bool + Send {
    let started = Instant::now();
    move |made| match amount {
        Amount::Calls(calls) => made >= calls / callers + u64::from(caller < calls % callers),
        Amount::For(length) => started.elapsed() >= length,
    }
}

async fn one<T: Channel>(client: &mut Grpc<T>, call: &Call) -> Result<()> {
    let path = PathAndQuery::from_static("/hither.Bench/Call");
    client.ready().await.map_err(Into::into)?;
    if call.messages == 1 {
        client.unary(call.request(), path, BytesCodec).await?;
        return Ok(());
    }
    let mut messages = client.server_streaming(call.request(), path, BytesCodec).await?.into_inner();
    let mut received = 0;
    while messages.message().await?.is_some() {
        received += 1;
    }
    if received != call.messages {
        return Err(format!("{received} messages were received instead of {}", call.messages).into());
    }
    Ok(())
}
