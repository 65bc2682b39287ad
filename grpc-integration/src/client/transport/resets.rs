//! Resetting the streams of cancelled calls, not too many at once.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Sleep, sleep};

use crate::client::sync::{AtomicU32, Ordering};

/// How many streams are reset at once. Servers on h2 close a connection on which twenty streams were reset that they
/// had not accepted yet (CVE-2023-44487, rapid reset), and a burst of short deadlines would do that; half of it leaves
/// room for what is under way.
const AT_ONCE: u32 = 10;
/// After how long more are reset where the server has sent nothing since.
const PAUSE: Duration = Duration::from_millis(100);

/// The stream of a cancelled call, and its slot. The peer gets RST_STREAM when it is dropped, if the response has not
/// ended by then.
pub(super) type Cancelled = Box<dyn Send>;

/// How many streams may be reset before the server has sent something.
#[derive(Debug)]
pub(super) struct ResetBudget(AtomicU32);

impl ResetBudget {
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(AT_ONCE))
    }

    /// Takes one, if there is one left.
    pub(super) fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn refill(&self) {
        self.0.store(AT_ONCE, Ordering::Relaxed);
    }
}

/// The streams that are to be reset when there is a budget again, first come first served.
pub(super) struct Resets {
    due: VecDeque<Cancelled>,
    /// How much longer than usual the pauses are.
    calm: u32,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Resets {
    pub(super) fn new(calm: u32) -> Self {
        Self { due: VecDeque::new(), calm, pause: None }
    }

    /// Takes up how much longer than usual the pauses are by now, if they are.
    pub(super) fn recover(&mut self, calm: impl FnOnce() -> u32) {
        if self.calm > 1 {
            self.calm = calm();
        }
    }

    /// The server has sent something, so it has read what was sent before.
    pub(super) fn on_read(&self, budget: &ResetBudget) {
        if self.calm == 1 {
            budget.refill();
        }
    }

    /// Resets what may be reset now, and arranges to be polled for the rest.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        budget: &ResetBudget,
        cancelled: &mut Vec<Cancelled>,
    ) {
        if cancelled.is_empty() && self.due.is_empty() {
            return;
        }
        self.due.extend(cancelled.drain(..));
        while !self.due.is_empty() {
            if budget.take() {
                self.due.pop_front();
                continue;
            }
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE.saturating_mul(self.calm))));
            if pause.as_mut().poll(cx).is_pending() {
                return;
            }
            self.pause = None;
            budget.refill();
        }
    }
}
