//! How long the library's tasks keep a thread: each of their polls enters the span of the task.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::Result;

/// The polls of each kind of task. Their time is the processor's, so that other processes do not count.
#[derive(Debug, Clone, Default)]
pub(super) struct Polls(Arc<Mutex<Vec<Times>>>);

#[derive(Debug)]
struct Times {
    task: &'static str,
    longest: Duration,
    total: Duration,
}

impl Polls {
    /// Measures all tasks of this process from now on.
    pub(super) fn install(&self) -> Result<()> {
        Ok(tracing::subscriber::set_global_default(self.clone())?)
    }

    /// Returns what was measured since the last time.
    pub(super) fn take(&self) -> String {
        let mut text = String::new();
        for Times { task, longest, total } in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter_mut()
        {
            let _ = write!(text, "\n    {task}: longest poll {longest:?}, all {total:?}");
            (*longest, *total) = Default::default();
        }
        text
    }
}

thread_local! {
    static ENTERED: RefCell<Vec<Duration>> = const { RefCell::new(Vec::new()) };
}

/// All spans of one name are one, so that spans cost the tasks nothing that they do not cost elsewhere.
impl Subscriber for Polls {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Those of tasks: of a channel, its discovery, and its subchannels.
        metadata.is_span() && metadata.target().starts_with("hither") && metadata.name() != "connection"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let task = span.metadata().name();
        let index = polls.iter().position(|times| times.task == task).unwrap_or_else(|| {
            polls.push(Times { task, longest: Duration::ZERO, total: Duration::ZERO });
            polls.len() - 1
        });
        Id::from_u64(index as u64 + 1)
    }

    fn enter(&self, _: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(processor_time()));
    }

    fn exit(&self, id: &Id) {
        let now = processor_time();
        let Some(began) = ENTERED.with_borrow_mut(Vec::pop) else { return };
        let took = now.saturating_sub(began);
        let mut polls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(id.into_u64() - 1).unwrap_or(usize::MAX);
        if let Some(times) = polls.get_mut(index) {
            times.longest = times.longest.max(took);
            times.total += took;
        }
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}
}

/// The time of the processor that this thread has had.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
