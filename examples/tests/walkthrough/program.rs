//! A program of ours as a process of its own, whose lines are read as they come.

use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// As long as anything may take on a slow machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A running program, which is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

/// What a program has said so far, each line with the time at which it came.
#[derive(Debug, Clone)]
pub(crate) struct Lines(watch::Receiver<Vec<(Instant, String)>>);

impl Program {
    pub(crate) fn start(executable: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(executable);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        let stderr = Lines::of(child.stderr.take().unwrap());
        Self { name: format!("{executable} {arguments:?}"), child, stdout, stderr }
    }

    /// discover-server on a free port.
    pub(crate) fn server(registry: &str, arguments: &[&str]) -> Self {
        let common = ["--registry", registry, "-p", "0"];
        Self::start(env!("CARGO_BIN_EXE_discover-server"), &[&common, arguments].concat())
    }

    /// discover-client.
    pub(crate) fn client(registry: &str, arguments: &[&str]) -> Self {
        let common = ["--registry", registry];
        Self::start(env!("CARGO_BIN_EXE_discover-client"), &[&common, arguments].concat())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Waits for its end, and for its last words.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let status = timeout(LONG, self.child.wait()).await;
        let status =
            status.unwrap_or_else(|_| panic!("{} does not end: {:?}", self.name, self.stderr.all())).unwrap();
        self.stdout.end().await;
        self.stderr.end().await;
        status
    }

    /// The address that a server says it listens on.
    pub(crate) async fn address(&self) -> SocketAddr {
        let line = self.stdout.line(|line| line.starts_with("listening on ")).await;
        line.trim_start_matches("listening on ").parse().unwrap()
    }

    /// Waits until a server says that it is registered; its port.
    pub(crate) async fn registered(&self) -> u16 {
        let address = self.address().await;
        self.stdout
            .line(|line| line.starts_with("registered ") && line.ends_with(&format!(" as {address}")))
            .await;
        address.port()
    }
}

impl Lines {
    fn of(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let (told, lines) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut stream = BufReader::new(stream).lines();
            while let Ok(Some(line)) = stream.next_line().await {
                told.send_modify(|lines| lines.push((Instant::now(), line)));
            }
        });
        Self(lines)
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.borrow().iter().map(|(_, line)| line.clone()).collect()
    }

    pub(crate) fn count(&self, is_so: impl Fn(&str) -> bool) -> usize {
        self.0.borrow().iter().filter(|(_, line)| is_so(line)).count()
    }

    /// The first line that is so, when it has come.
    pub(crate) async fn line(&self, is_so: impl Fn(&str) -> bool) -> String {
        self.timed(is_so).await.1
    }

    /// The first line that is so, with the time at which it came.
    pub(crate) async fn timed(&self, is_so: impl Fn(&str) -> bool) -> (Instant, String) {
        let find = |lines: &Vec<(Instant, String)>| lines.iter().find(|(_, line)| is_so(line)).cloned();
        let mut lines = self.0.clone();
        let found = timeout(LONG, lines.wait_for(|lines| find(lines).is_some())).await;
        match found {
            Ok(Ok(lines)) => find(&lines).expect("it was there"),
            _ => panic!("the line that was waited for is not among {:#?}", self.all()),
        }
    }

    /// Waits for so many more lines.
    pub(crate) async fn more(&self, count: usize) {
        let mut lines = self.0.clone();
        let goal = lines.borrow().len() + count;
        let more = timeout(LONG, lines.wait_for(|lines| lines.len() >= goal)).await;
        assert!(matches!(more, Ok(Ok(_))), "no {count} more lines after {:#?}", self.all());
    }

    /// The longest time without a line, from then on.
    pub(crate) fn longest_silence(&self, from: Instant) -> Duration {
        let lines = self.0.borrow();
        let times: Vec<_> = lines.iter().map(|(at, _)| *at).filter(|at| *at >= from).collect();
        let begins = std::iter::once(from).chain(times.iter().copied());
        begins.zip(&times).map(|(before, after)| after.duration_since(before)).max().unwrap_or_default()
    }

    /// Waits until nobody can say anything any more.
    async fn end(&self) {
        let mut lines = self.0.clone();
        while lines.changed().await.is_ok() {}
    }
}
