//! Callers that call at the same time, and how their calls ended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep};
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::testing::{
    Empty, Payload, ResponseParameters, StreamingInputCallRequest, StreamingOutputCallRequest,
};
use super::upstream::REFUSE;
use super::{Client, LONG};

/// How calls ended.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) ok: usize,
    /// By the status.
    pub(super) failed: BTreeMap<String, usize>,
}

impl Tally {
    fn add(&mut self, result: Result<(), Status>) {
        match result {
            Ok(()) => self.ok += 1,
            Err(status) => {
                *self.failed.entry(format!("{:?}: {}", status.code(), status.message())).or_default() += 1;
            }
        }
    }

    fn merge(&mut self, other: Self) {
        self.ok += other.ok;
        for (status, count) in other.failed {
            *self.failed.entry(status).or_default() += count;
        }
    }

    pub(super) fn failures(&self) -> usize {
        self.failed.values().sum()
    }

    #[track_caller]
    pub(super) fn assert_all_ok(&self) {
        assert!(
            self.failed.is_empty(),
            "{} of {} calls failed: {:#?}",
            self.failures(),
            self.ok + self.failures(),
            self.failed
        );
    }
}

/// Callers that call until they are stopped.
#[derive(Debug)]
pub(super) struct Load {
    callers: JoinSet<Tally>,
    done: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

impl Load {
    /// Starts callers of `call`, each of which makes one call after the other.
    pub(super) fn start<F>(
        client: &Client,
        callers: usize,
        call: impl Fn(Client) -> F + Clone + Send + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), Status>> + Send,
    {
        let (done, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (client, call) = (client.clone(), call.clone());
            let (done, stopped) = (Arc::clone(&done), Arc::clone(&stopped));
            tasks.spawn(async move {
                let mut tally = Tally::default();
                while !stopped.load(Ordering::SeqCst) {
                    tally.add(call(client.clone()).await);
                    done.fetch_add(1, Ordering::SeqCst);
                    // A call that fails at once does not.
                    yield_now().await;
                }
                tally
            });
        }
        Self { callers: tasks, done, stopped }
    }

    /// Waits until `count` more calls have ended.
    pub(super) async fn more(&self, count: usize) {
        let done = || self.done.load(Ordering::SeqCst);
        let goal = done() + count;
        let (mut seen, mut at) = (done(), Instant::now());
        while seen < goal {
            sleep(Duration::from_millis(5)).await;
            if done() != seen {
                (seen, at) = (done(), Instant::now());
            }
            assert!(
                at.elapsed() < LONG,
                "no call has ended for {LONG:?}, and {} more of {count} are to",
                goal - seen
            );
        }
    }

    /// Stops the callers, waits for their last calls, and returns how all calls ended.
    pub(super) async fn stop(self) -> Tally {
        self.stopped.store(true, Ordering::SeqCst);
        let mut tally = Tally::default();
        for one in self.callers.join_all().await {
            tally.merge(one);
        }
        tally
    }
}

pub(super) async fn empty_call(mut client: Client) -> Result<(), Status> {
    client.empty_call(Empty {}).await.map(drop)
}

/// A server stream of three messages.
pub(super) async fn short_stream(mut client: Client) -> Result<(), Status> {
    let response_parameters = vec![ResponseParameters { size: 1000, interval_us: 0 }; 3];
    let request = StreamingOutputCallRequest { response_parameters, ..Default::default() };
    let mut messages = client.streaming_output_call(request).await?.into_inner();
    let mut count = 0;
    while messages.message().await?.is_some() {
        count += 1;
    }
    if count == 3 { Ok(()) } else { Err(Status::data_loss(format!("{count} messages of 3"))) }
}

/// An upload that the server refuses, and that does not end by itself.
pub(super) fn refused() -> Request<impl Stream<Item = StreamingInputCallRequest>> {
    let one = StreamingInputCallRequest { payload: Some(zeros(100)) };
    let mut request = Request::new(stream::iter([one]).chain(stream::pending()));
    request.metadata_mut().insert(REFUSE, MetadataValue::from_static("yes"));
    request
}

pub(super) fn zeros(size: usize) -> Payload {
    Payload { body: vec![0; size] }
}

pub(super) fn exchange(asked: i32, sent: usize) -> StreamingOutputCallRequest {
    let response_parameters = vec![ResponseParameters { size: asked, interval_us: 0 }];
    StreamingOutputCallRequest { response_parameters, payload: Some(zeros(sent)), ..Default::default() }
}

/// Returns a request stream and its sender.
pub(super) fn requests()
-> (mpsc::Sender<StreamingOutputCallRequest>, impl Stream<Item = StreamingOutputCallRequest> + Send) {
    let (sender, mut receiver) = mpsc::channel(1);
    (sender, stream::poll_fn(move |cx| receiver.poll_recv(cx)))
}
