//! What the peer of a connection has announced, and how far the connection has come.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::watch;

use super::frames::PeerEvent;

/// How far a connection has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The peer has not sent its SETTINGS yet.
    Handshake,
    /// It accepts new streams.
    Open,
    /// The peer has sent GOAWAY: it finishes the open streams and accepts no new ones.
    GoingAway,
    /// The connection is gone, for this reason.
    Closed(String),
}

/// What the peer has announced.
#[derive(Debug)]
pub(crate) struct Peer {
    stage: watch::Sender<Stage>,
    /// Whether `stage` is `Open`: calls read it without a lock.
    open: AtomicBool,
    max_streams: AtomicU32,
}

impl Peer {
    pub(crate) fn new() -> Self {
        let max_streams = AtomicU32::new(u32::MAX);
        Self { stage: watch::Sender::new(Stage::Handshake), open: AtomicBool::new(false), max_streams }
    }

    pub(crate) fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    /// Returns MAX_CONCURRENT_STREAMS; unlimited if the peer did not send it.
    pub(crate) fn max_streams(&self) -> u32 {
        self.max_streams.load(Ordering::SeqCst)
    }

    /// No new stream is to be opened.
    pub(crate) fn retire(&self) {
        self.advance(|stage| (*stage == Stage::Open).then_some(Stage::GoingAway));
    }

    pub(crate) fn close(&self, reason: impl Into<String>) {
        self.advance(|stage| (!matches!(stage, Stage::Closed(_))).then(|| Stage::Closed(reason.into())));
    }

    pub(super) fn on_event(&self, event: PeerEvent) {
        match event {
            PeerEvent::Settings { max_streams } => {
                if let Some(max) = max_streams {
                    self.max_streams.store(max, Ordering::SeqCst);
                }
                self.advance(|stage| (*stage == Stage::Handshake).then_some(Stage::Open));
            }
            PeerEvent::GoAway => self.retire(),
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
