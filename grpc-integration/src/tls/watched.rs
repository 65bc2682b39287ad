//! A configuration that follows the files it was made from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::Instrument;

use super::Files;
use crate::error::Result;
use crate::task::Task;

/// How soon files that have changed are read again. Writers replace a certificate and its key one after the other, and
/// some write into the file that is there.
const SETTLE: Duration = Duration::from_secs(1);

/// A configuration made from files, and remade when they change. Dropping it ends that.
pub(crate) struct Watched<C> {
    current: watch::Receiver<Arc<C>>,
    changes: watch::Receiver<()>,
    _task: Option<Task>,
}

impl<C: Send + Sync + 'static> Watched<C> {
    /// A configuration that never changes.
    pub(crate) fn fixed(config: Arc<C>) -> Self {
        Self { current: watch::channel(config).1, changes: watch::channel(()).1, _task: None }
    }

    /// Reads the files now, and again each `interval`. New content is used once it was the same in two readings in a
    /// row and `build` accepts it. Needs a Tokio runtime.
    ///
    /// # Errors
    /// Those of `build` for the files as they are now.
    pub(crate) fn start(
        paths: Vec<PathBuf>,
        interval: Duration,
        build: impl Fn(&Files) -> Result<C> + Send + 'static,
    ) -> Result<Self> {
        let files = Files::read(&paths);
        let config = Arc::new(build(&files)?);
        if paths.is_empty() {
            return Ok(Self::fixed(config));
        }
        let (publish, current) = watch::channel(config);
        let (notify, changes) = watch::channel(());
        let span = tracing::debug_span!("tls files");
        let follow = async move {
            let mut state = State { used: files, pending: None, rejected: None };
            let mut wait = interval;
            loop {
                sleep(wait).await;
                let read = paths.clone();
                // It fails only when the runtime shuts down.
                let Ok(files) = spawn_blocking(move || Files::read(&read)).await else { return };
                wait = match state.step(files) {
                    Step::Unchanged => interval,
                    Step::Unsettled => interval.min(SETTLE),
                    Step::Changed(files) => {
                        match build(&files) {
                            Ok(config) => {
                                publish.send_replace(Arc::new(config));
                                notify.send_replace(());
                                state.used = files;
                                tracing::info!(?paths, "TLS files reloaded");
                            }
                            Err(error) => {
                                let cause = error.report();
                                tracing::warn!(?paths, cause, "TLS files invalid; previous ones kept in use");
                                state.rejected = Some(files);
                            }
                        }
                        interval
                    }
                };
            }
        };
        Ok(Self { current, changes, _task: Some(Task::spawn(follow.instrument(span))) })
    }

    /// The configuration for a new connection.
    pub(crate) fn current(&self) -> Arc<C> {
        Arc::clone(&self.current.borrow())
    }

    /// Notifies of each new configuration.
    #[allow(dead_code, reason = "a server brings no attempt forward")]
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }
}

impl<C> fmt::Debug for Watched<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}

struct State {
    used: Files,
    /// Seen once.
    pending: Option<Files>,
    /// Not usable, which was logged.
    rejected: Option<Files>,
}

enum Step {
    Unchanged,
    Unsettled,
    Changed(Files),
}

impl State {
    fn step(&mut self, files: Files) -> Step {
        if files == self.used {
            self.pending = None;
            self.rejected = None;
            return Step::Unchanged;
        }
        if self.rejected.as_ref() == Some(&files) {
            self.pending = None;
            return Step::Unchanged;
        }
        if self.pending.as_ref() == Some(&files) {
            self.pending = None;
            self.rejected = None;
            return Step::Changed(files);
        }
        self.pending = Some(files);
        Step::Unsettled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(state: &mut State, files: Files, content: &str) -> &'static str {
        match state.step(files) {
            Step::Unchanged => "unchanged",
            Step::Unsettled => "unsettled",
            Step::Changed(files) if content.starts_with("bad") => {
                state.rejected = Some(files);
                "rejected"
            }
            Step::Changed(files) => {
                state.used = files;
                "used"
            }
        }
    }

    #[test]
    fn new_content_is_used_when_it_was_seen_twice_and_rejected_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let files = |content: &str| {
            std::fs::write(&path, content).unwrap();
            Files::read([&path])
        };
        let mut state = State { used: files("1"), pending: None, rejected: None };
        for (content, expected) in [
            ("1", "unchanged"),
            ("2", "unsettled"),
            ("2 and more", "unsettled"),
            ("2 and more", "used"),
            ("2 and more", "unchanged"),
            ("bad", "unsettled"),
            ("bad", "rejected"),
            ("bad", "unchanged"),
            ("bad 2", "unsettled"),
            ("bad 2", "rejected"),
            ("2 and more", "unchanged"),
            ("bad 2", "unsettled"),
            ("3", "unsettled"),
            ("3", "used"),
        ] {
            assert_eq!(step(&mut state, files(content), content), expected, "{content}");
        }
    }
}
