//! Programs that run beside us, and whose lines are read as they come.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::Error;

/// As long as anything may take on a slow machine.
const LONG: Duration = Duration::from_secs(30);

/// A running program, which is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    lines: Arc<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Said {
    lines: Vec<String>,
    /// How many of its two streams have ended.
    ended: u8,
}

impl Program {
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Result<Self, Error> {
        let name = format!("{} {}", program.display(), arguments.join(" "));
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| Error::new(format!("{name} does not run: {error}")))?;
        let lines = Arc::<Lines>::default();
        lines.read(child.stdout.take());
        lines.read(child.stderr.take());
        Ok(Self { name, child, lines })
    }

    /// What it has said so far, on both its streams.
    pub(crate) fn said(&self) -> Vec<String> {
        self.lines.said.lock().unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// Waits until it has said this; the line.
    pub(crate) fn says(&self, what: &str) -> Result<String, Error> {
        let found = |said: &Said| said.lines.iter().find(|line| line.contains(what)).cloned();
        let said = self.wait(|said| found(said).is_some());
        found(&said).ok_or_else(|| self.silent(what, &said))
    }

    /// Waits until it has said so many lines more than now.
    pub(crate) fn goes_on(&self, lines: usize) -> Result<(), Error> {
        let goal = self.said().len() + lines;
        let said = self.wait(|said| said.lines.len() >= goal);
        if said.lines.len() >= goal { Ok(()) } else { Err(self.silent("more", &said)) }
    }

    /// Sends it a signal, such as `TERM`.
    pub(crate) fn signal(&self, signal: &str) -> Result<(), Error> {
        let sent = Command::new("kill").args([format!("-{signal}"), self.child.id().to_string()]).status();
        match sent {
            Ok(status) if status.success() => Ok(()),
            _ => Err(Error::new(format!("{} cannot be sent {signal}", self.name))),
        }
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> Result<ExitStatus, Error> {
        let said = self.wait(|said| said.ended == 2);
        if said.ended < 2 {
            return Err(self.silent("its end", &said));
        }
        drop(said);
        self.child.wait().map_err(|error| Error::new(format!("{}: {error}", self.name)))
    }

    fn wait(&self, is_so: impl Fn(&Said) -> bool) -> std::sync::MutexGuard<'_, Said> {
        let said = self.lines.said.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.lines.more.wait_timeout_while(said, LONG, |said| !is_so(said) && said.ended < 2);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn silent(&self, what: &str, said: &Said) -> Error {
        Error::new(format!("{} does not say {what:?}, but {:?}", self.name, said.lines))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Lines {
    /// Ends with the stream.
    fn read(self: &Arc<Self>, stream: Option<impl Read + Send + 'static>) {
        let lines = Arc::clone(self);
        thread::spawn(move || {
            for line in
                stream.into_iter().flat_map(|stream| BufReader::new(stream).lines()).map_while(Result::ok)
            {
                lines.change(|said| said.lines.push(line));
            }
            lines.change(|said| said.ended += 1);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.said.lock().unwrap_or_else(PoisonError::into_inner));
        self.more.notify_all();
    }
}
