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
/// The least time between two batches on a connection whose server has complained, before it is lengthened.
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
///
/// There is one when the server has sent something since: a server that stops for a second reads all that was sent meanwhile
/// at once when it goes on, so time alone is no reason to send more. It is made to send something: it has to acknowledge
/// SETTINGS at once, and most servers do not count these as they count PING.
pub(super) struct Resets {
    due: VecDeque<Cancelled>,
    wait: Option<Wait>,
    /// How much longer than usual the pauses are: 1, and there are none, until the server has complained.
    calm: u32,
}

/// The budget is spent.
struct Wait {
    /// Whether the server has sent something since.
    answered: bool,
    /// `None` when it is over.
    pause: Option<Pin<Box<Sleep>>>,
}

impl Resets {
    pub(super) fn new(calm: u32) -> Self {
        Self { due: VecDeque::new(), wait: None, calm }
    }

    /// Takes up how much longer than usual the pauses are by now, if they are.
    pub(super) fn recover(&mut self, calm: impl FnOnce() -> u32) {
        if self.calm > 1 {
            self.calm = calm();
        }
    }

    /// The server has sent something, so it has read what was sent before. Returns whether streams are due.
    pub(super) fn on_read(&mut self, budget: &ResetBudget) -> bool {
        match &mut self.wait {
            // Those that are due come first: `poll` refills.
            Some(wait) => wait.answered = true,
            None if self.calm == 1 => budget.refill(),
            None => {}
        }
        !self.due.is_empty()
    }

    /// Resets what may be reset now, and arranges to be polled for the rest. Returns whether the server is to be asked for a
    /// sign of life.
    #[must_use]
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        budget: &ResetBudget,
        cancelled: &mut Vec<Cancelled>,
    ) -> bool {
        if cancelled.is_empty() && self.due.is_empty() {
            return false;
        }
        self.due.extend(cancelled.drain(..));
        let mut ask = false;
        while !self.due.is_empty() {
            if let Some(wait) = &mut self.wait {
                if !wait.is_over(cx) {
                    return ask;
                }
                self.wait = None;
                budget.refill();
            }
            if budget.take() {
                self.due.pop_front();
            } else {
                let pause = (self.calm > 1).then(|| Box::pin(sleep(PAUSE.saturating_mul(self.calm))));
                self.wait = Some(Wait { answered: false, pause });
                ask = true;
            }
        }
        ask
    }
}

impl Wait {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_ready()) {
            self.pause = None;
        }
        self.answered && self.pause.is_none()
    }
}
