//! The task of one connection: it sends what calls have queued, and drives h2.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::{self, SendRequest};
use tokio::time::{Instant, Sleep, sleep};

use super::config::TransportConfig;
use super::driver_waker::DriverWaker;
use super::ending::Ending;
use super::keepalive::Keepalive;
use super::lessons::Lessons;
use super::linger::Linger;
use super::queue::Work;
use super::resets::Resets;
use super::shared::Shared;
use super::ticket::Unsent;
use super::upload::Upload;
use super::wire::Wire;

/// The window of a connection: the largest there is, so that it never holds back one stream because another is not
/// read. What may be in memory unread is bounded by the windows of the streams.
pub(super) const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// The number of streams that h2 reports until the peer's SETTINGS have arrived: none that it can report after.
pub(super) const UNSETTLED: usize = usize::MAX - 1;
/// How many requests are sent, and how many streams that have ended are dropped, before the task yields: a large queue
/// must not stop the thread, which takes less than a millisecond for so many.
const AT_ONCE: usize = 128;
/// How long a peer may take to read our last frames before the connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Drives one connection to its end, which comes at the latest when there is no handle of it any more and the last
/// stream has ended.
pub(super) struct Driver {
    shared: Arc<Shared>,
    h2: client::Connection<Wire, Bytes>,
    waker: Arc<DriverWaker>,
    /// The same, for h2.
    h2_waker: Waker,
    /// `None` once no requests come any more.
    requests: Option<SendRequest<Bytes>>,
    work: Work,
    /// Whether a request was sent since h2 was last asked, and said, that it takes another one. Until then it refers to the
    /// last one, so that this could not be reset.
    asks: bool,
    /// The rest of the body of the request that was sent last. h2 may not have opened its stream yet, and each stream has
    /// one waker only: while that is asked for, no other task may wait for the stream.
    upload: Option<Upload>,
    resets: Resets,
    keepalive: Keepalive,
    lessons: Arc<Lessons>,
    stream_window: u32,
    /// The most streams, whatever the peer allows.
    most_streams: usize,
    linger: Linger,
    /// How many bytes had been read when the peer was looked at last.
    read: u64,
    closing: Option<Pin<Box<Sleep>>>,
}

impl Driver {
    pub(super) fn new(
        shared: Arc<Shared>,
        h2: client::Connection<Wire, Bytes>,
        requests: SendRequest<Bytes>,
        config: &TransportConfig,
    ) -> Self {
        let waker = Arc::<DriverWaker>::default();
        Self {
            shared,
            h2,
            h2_waker: Waker::from(Arc::clone(&waker)),
            waker,
            requests: Some(requests),
            work: Work::default(),
            asks: false,
            upload: None,
            resets: Resets::new(config.lessons.calm_factor()),
            keepalive: Keepalive::new(config.keepalive, config.lessons.ping_factor()),
            lessons: Arc::clone(&config.lessons),
            stream_window: config.stream_window,
            most_streams: streams_that_fit(config.stream_window),
            linger: Linger::new(),
            read: 0,
            closing: None,
        }
    }

    /// Advances the connection; ready with the reason when it has ended.
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        let mut room = AT_ONCE;
        loop {
            let blocked = self.shared.wire.is_blocked();
            // Requests that h2 did not take the last time come first.
            let fresh = self.work.tickets.is_empty();
            // One turn of the other tasks may bring more requests for the same write.
            let wait = fresh && !blocked && self.linger.should_wait(self.shared.reserved());
            let held = self.shared.queue.take(cx.waker(), blocked || wait, &mut self.work);
            if fresh && wait && held > 0 {
                self.linger.on_wait(held);
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if fresh && !self.work.tickets.is_empty() {
                self.linger.on_send(self.work.tickets.len());
                self.shared.peer.on_call();
            }
            self.waker.mute(cx.waker());
            let finished = &mut self.work.finished;
            finished.truncate(finished.len().saturating_sub(AT_ONCE));
            self.resets.recover(|| self.lessons.calm_factor());
            if self.resets.poll(cx, &self.shared.reset_budget, &mut self.work.cancelled) {
                // Nothing changes by these SETTINGS. An error: the last ones are not acknowledged yet, and will be.
                let _ = self.h2.set_initial_window_size(self.stream_window);
            }
            if !blocked || self.work.orphaned {
                self.send(cx, &mut room);
            }
            self.waker.unmute();
            if let Poll::Ready(ended) = Pin::new(&mut self.h2).poll(&mut Context::from_waker(&self.h2_waker))
            {
                // SETTINGS, if they came with the end.
                if self.shared.wire.take_control() {
                    self.look_at_peer(cx);
                }
                return Poll::Ready(self.end(cx, ended));
            }
            let read = self.shared.wire.read();
            if read != self.read {
                self.read = read;
                if self.resets.on_read(&self.shared.reset_budget) {
                    cx.waker().wake_by_ref();
                }
                if self.shared.wire.take_control() {
                    self.look_at_peer(cx);
                }
            }
            if let Poll::Ready(silent) = self.keepalive.poll(cx, &mut self.h2, &self.shared) {
                return Poll::Ready(Ending::timed_out(silent));
            }
            if self.poll_closing(cx).is_ready() {
                return Poll::Ready(Ending::unused("closed"));
            }
            let accepts = self.accepts(cx);
            let is_ready = accepts && !self.shared.wire.is_blocked();
            let left = !self.work.tickets.is_empty();
            if !self.work.finished.is_empty()
                || (is_ready && room == 0)
                || (!accepts && self.give_back_excess())
            {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // What was held back while the peer took no bytes, or h2 no requests.
            if !is_ready || (!left && held == 0) {
                return Poll::Pending;
            }
        }
    }

    /// Sends the requests of the calls that have not ended in the meantime, as long as h2 takes them and there is `room`.
    fn send(&mut self, cx: &mut Context<'_>, room: &mut usize) {
        let mut now = None;
        while *room > 0 && !self.work.tickets.is_empty() && self.accepts(cx) {
            *room -= 1;
            let Some(ticket) = self.work.tickets.pop_front() else { return };
            let Some(requests) = &mut self.requests else {
                ticket.give_back();
                continue;
            };
            let written = self.shared.wire.written();
            self.asks = true;
            match ticket.send(requests, written, || *now.get_or_insert_with(Instant::now)) {
                Ok(upload) => self.upload = upload,
                // Before its call looks for another connection.
                Err(Unsent) => self.look_at_peer(cx),
            }
        }
    }

    /// Returns whether h2 takes a request now: near the peer's limit of streams not before it has opened the last one. If
    /// not, the task is woken when it does.
    fn accepts(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.asks {
            return true;
        }
        if let Some(requests) = &mut self.requests
            && requests.poll_ready(cx).is_pending()
        {
            return false;
        }
        self.asks = false;
        if let Some(upload) = self.upload.take() {
            upload.start();
        }
        true
    }

    /// Gives back the requests for which there is no place any more, because the peer has lowered its limit. Returns whether
    /// there were any.
    fn give_back_excess(&mut self) -> bool {
        let excess = self.shared.reserved().saturating_sub(self.shared.peer.max_streams());
        let kept = self.work.tickets.len().saturating_sub(excess);
        let given_back = self.work.tickets.split_off(kept);
        for ticket in &given_back {
            ticket.give_back();
        }
        !given_back.is_empty()
    }

    /// Takes up what the peer has announced.
    fn look_at_peer(&mut self, cx: &mut Context<'_>) {
        let Some(requests) = &mut self.requests else { return };
        let max_streams = requests.current_max_send_streams();
        if max_streams != UNSETTLED {
            self.shared.on_settings(max_streams.min(self.most_streams));
        }
        if let Poll::Ready(Err(error)) = requests.poll_ready(cx)
            && self.shared.peer.reason().is_none()
        {
            self.shared.peer.retire(self.complaint(&error));
        }
    }

    /// Returns why the connection has ended.
    fn end(&mut self, cx: &mut Context<'_>, ended: Result<(), h2::Error>) -> Ending {
        // GOAWAY, if that came with the end.
        if let Some(Poll::Ready(Err(error))) = self.requests.as_mut().map(|requests| requests.poll_ready(cx))
            && error.is_go_away()
            && self.shared.peer.reason().is_none()
        {
            return self.complaint(&error);
        }
        match ended {
            Ok(()) if self.work.orphaned => Ending::unused("closed"),
            Ok(()) => Ending::unknown("the server closed the connection"),
            Err(error) => Ending::of(&error),
        }
    }

    /// Describes why the peer accepts no requests, and learns from it.
    fn complaint(&self, error: &h2::Error) -> Ending {
        let ending = Ending::of(error);
        if error.is_remote() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
            if ending.cause.contains("too_many_pings") {
                self.lessons.on_too_many_pings();
            } else {
                self.lessons.on_enhance_your_calm();
            }
        }
        ending
    }

    fn close(&mut self, ending: Ending) {
        self.shared.close(ending);
        for ticket in self.work.tickets.drain(..) {
            ticket.give_back();
        }
    }

    fn poll_closing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.work.orphaned {
            return Poll::Pending;
        }
        if self.requests.take().is_some() {
            // h2 closes the connection once nothing refers to it.
            cx.waker().wake_by_ref();
        }
        let closing = self.closing.get_or_insert_with(|| Box::pin(sleep(CLOSE_TIMEOUT)));
        closing.as_mut().poll(cx).map(|()| tracing::debug!("peer did not read GOAWAY; closing"))
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.advance(cx).map(|ending| self.close(ending))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // After a panic, or with its runtime.
        self.close(Ending::unknown("the connection's task has ended"));
    }
}

/// The most streams that fit into the window of the connection, each with a full window of its own.
fn streams_that_fit(stream_window: u32) -> usize {
    (CONNECTION_WINDOW / stream_window.max(1)).max(1) as usize
}
