//! What is known about the peer of a connection, and how far the connection has come.

use std::sync::OnceLock;

use tokio::sync::watch;
use tokio::time::Instant;

use super::ending::Ending;
use crate::client::sync::{AtomicBool, AtomicUsize, Ordering};

/// How far a connection has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// The peer has not sent its SETTINGS yet.
    Handshake,
    /// It accepts new streams.
    Open,
    /// It finishes the open streams and accepts no new ones, for this reason.
    GoingAway(Ending),
    /// The connection is gone, for this reason.
    Closed(Ending),
}

/// What is known about the peer. The connection's task writes it; calls and the subchannel read it.
#[derive(Debug)]
pub(super) struct Peer {
    stage: watch::Sender<Stage>,
    /// Whether `stage` is `Open`: calls read it without a lock.
    open: AtomicBool,
    /// Whether its SETTINGS have arrived.
    settled: AtomicBool,
    max_streams: AtomicUsize,
    first_call: OnceLock<Instant>,
    answered: AtomicBool,
    /// Whether a caller has given up a call before it was answered.
    given_up: AtomicBool,
    /// Whether it has sent headers or data since this was reset.
    active: AtomicBool,
}

impl Peer {
    pub(super) fn new() -> Self {
        Self {
            stage: watch::Sender::new(Stage::Handshake),
            open: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            max_streams: AtomicUsize::new(0),
            first_call: OnceLock::new(),
            answered: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            active: AtomicBool::new(false),
        }
    }

    pub(super) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Returns whether it accepts new streams.
    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Returns how many streams may be open at a time.
    pub(super) fn max_streams(&self) -> usize {
        self.max_streams.load(Ordering::SeqCst)
    }

    /// Returns whether its SETTINGS have arrived.
    pub(super) fn is_settled(&self) -> bool {
        self.settled.load(Ordering::SeqCst)
    }

    /// Returns when calls were sent to it for the first time.
    pub(super) fn first_call(&self) -> Option<Instant> {
        self.first_call.get().copied()
    }

    /// Records that calls are sent to it.
    pub(super) fn on_call(&self) {
        self.first_call.get_or_init(Instant::now);
    }

    /// Returns whether it has ever answered a call.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Returns whether a caller has given up a call before it was answered.
    pub(super) fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Records that a caller has given up a call that was not answered.
    pub(super) fn on_given_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Records that headers or data have arrived which answer no call.
    pub(super) fn on_active(&self) {
        self.active.store(true, Ordering::Relaxed);
    }

    /// Records that headers or data have arrived.
    pub(super) fn on_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
        self.on_active();
    }

    /// Returns whether headers or data have arrived since the last time.
    pub(super) fn take_active(&self) -> bool {
        self.active.load(Ordering::Relaxed) && self.active.swap(false, Ordering::Relaxed)
    }

    /// The peer's SETTINGS have arrived: it allows this many streams. Returns whether it allows more than before.
    pub(super) fn on_settings(&self, max_streams: usize) -> bool {
        self.settled.store(true, Ordering::SeqCst);
        let before = self.max_streams.swap(max_streams, Ordering::SeqCst);
        self.advance(|stage| (*stage == Stage::Handshake).then_some(Stage::Open));
        before < max_streams
    }

    /// No new stream is to be opened.
    pub(super) fn retire(&self, ending: Ending) {
        self.advance(|stage| {
            matches!(stage, Stage::Handshake | Stage::Open).then_some(Stage::GoingAway(ending))
        });
    }

    /// The connection is gone. Of several reasons the first counts: what follows is a consequence.
    pub(super) fn close(&self, ending: Ending) {
        self.advance(|stage| match stage {
            Stage::Closed(_) => None,
            Stage::GoingAway(first) => Some(Stage::Closed(first.clone())),
            Stage::Handshake | Stage::Open => Some(Stage::Closed(ending)),
        });
    }

    /// Returns why it accepts no new streams; `None` while it does.
    pub(super) fn reason(&self) -> Option<String> {
        match &*self.stage.borrow() {
            Stage::GoingAway(ending) | Stage::Closed(ending) => Some(ending.cause.clone()),
            Stage::Handshake | Stage::Open => None,
        }
    }

    fn advance(&self, next: impl FnOnce(&Stage) -> Option<Stage>) {
        self.stage.send_if_modified(|stage| {
            let Some(next) = next(stage) else { return false };
            self.open.store(next == Stage::Open, Ordering::SeqCst);
            *stage = next;
            true
        });
    }
}
