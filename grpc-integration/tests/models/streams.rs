//! The part of h2 that requests need: those that were sent are recorded, and answered by the test.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use loom::sync::Mutex;

/// The connection of a task; its requests are known by their paths.
#[derive(Debug)]
pub(crate) struct SendRequest<B> {
    pub(crate) accepts: bool,
    pub(crate) sent: Vec<String>,
    open: Vec<Arc<Mutex<Stream>>>,
    body: PhantomData<B>,
}

impl<B> SendRequest<B> {
    pub(crate) fn new() -> Self {
        Self { accepts: true, sent: Vec::new(), open: Vec::new(), body: PhantomData }
    }

    #[allow(clippy::needless_pass_by_value, reason = "as h2")]
    pub(crate) fn send_request(
        &mut self,
        request: Request<()>,
        _end: bool,
    ) -> Result<(ResponseFuture, SendStream<B>), Error> {
        if !self.accepts {
            return Err(Error);
        }
        self.sent.push(request.uri().path().to_owned());
        let stream = Arc::<Mutex<Stream>>::default();
        self.open.push(Arc::clone(&stream));
        Ok((ResponseFuture(stream), SendStream(PhantomData)))
    }

    /// Answers all requests.
    pub(crate) fn answer(&mut self) {
        for stream in self.open.drain(..) {
            let waker = {
                let mut stream = stream.lock().unwrap();
                stream.answered = true;
                stream.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

#[derive(Debug, Default)]
struct Stream {
    answered: bool,
    waker: Option<Waker>,
}

#[derive(Debug)]
pub(crate) struct ResponseFuture(Arc<Mutex<Stream>>);

impl Future for ResponseFuture {
    type Output = Result<Response<RecvStream>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut stream = self.0.lock().unwrap();
        if stream.answered {
            return Poll::Ready(Ok(Response::new(RecvStream(Box::default()))));
        }
        stream.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[derive(Debug)]
pub(crate) struct SendStream<B>(PhantomData<B>);

#[derive(Debug)]
pub(crate) struct RecvStream(Box<()>);

#[derive(Debug)]
pub(crate) struct Error;
