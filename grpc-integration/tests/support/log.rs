//! What is logged while a test runs.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing::Dispatch;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::{DefaultGuard, NoSubscriber};

/// The lines logged on this thread since it was made, on which a test with one thread runs everything.
#[derive(Debug)]
pub(crate) struct Log {
    text: Buffer,
    _guard: DefaultGuard,
    _second: Dispatch,
}

#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Captures INFO and above.
    pub(crate) fn capture() -> Self {
        Self::capture_at(LevelFilter::INFO)
    }

    pub(crate) fn capture_at(level: LevelFilter) -> Self {
        let text = Buffer::default();
        let writer = text.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        let _guard = tracing::subscriber::set_default(subscriber);
        // While there is one subscriber only, tracing-core asks the thread that reaches a log line first whether it is
        // of interest; on that of another test it is not, and would be off in the whole process.
        let _second = Dispatch::new(NoSubscriber::default());
        Self { text, _guard, _second }
    }

    /// Returns what this crate has logged since the last call, without its target.
    pub(crate) fn take(&self) -> Vec<String> {
        let lines = self.take_all();
        let ours = lines.iter().filter(|line| line.contains(" hither_tonic::"));
        ours.map(|line| {
            let (head, rest) = line.split_once(' ').unwrap();
            let (_target, message) = rest.trim().split_once(": ").unwrap();
            format!("{head} {message}")
        })
        .collect()
    }

    /// Returns the lines of all crates since the last call, with their spans and targets.
    pub(crate) fn take_all(&self) -> Vec<String> {
        let text = std::mem::take(&mut *self.text.0.lock().unwrap());
        String::from_utf8(text).unwrap().lines().map(|line| line.trim().to_owned()).collect()
    }
}
