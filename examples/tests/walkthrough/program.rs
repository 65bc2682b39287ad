//! Example programs as processes, whose output is read as it comes.

use std::fmt;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use crate::port::Port;

/// The limit of every wait, enough for a slow machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A running program, which is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) child: Child,
    life: Arc<Life>,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

/// The output of a program so far, each line with the time at which it came.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    lines: TimedLines,
    of: Arc<Life>,
}

type TimedLines = watch::Receiver<Vec<(Instant, String)>>;

/// What is to be known of a program when it does not do what it should.
#[derive(Debug)]
struct Life {
    name: String,
    id: Pid,
    began: Instant,
    stdout: TimedLines,
    stderr: TimedLines,
}

impl Program {
    pub(crate) fn start(executable: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(executable);
        command.args(arguments);
        Self::spawn(command)
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let name = format!("{:?}", command.as_std());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let stdout = read(child.stdout.take().unwrap());
        let stderr = read(child.stderr.take().unwrap());
        let id = Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
        let life = Life { name, id, began: Instant::now(), stdout: stdout.clone(), stderr: stderr.clone() };
        let life = Arc::new(life);
        let lines = |lines| Lines { lines, of: Arc::clone(&life) };
        Self { child, stdout: lines(stdout), stderr: lines(stderr), life }
    }

    /// Starts discover-server on a free port. Its stderr has the library's log too.
    pub(crate) fn server(registry: &str, arguments: &[&str]) -> Self {
        Self::server_at("0", registry, arguments)
    }

    /// The same on a port that is reserved for it.
    pub(crate) fn server_on(port: &Port, registry: &str, arguments: &[&str]) -> Self {
        Self::server_at(port.endpoint().trim_start_matches("127.0.0.1:"), registry, arguments)
    }

    fn server_at(port: &str, registry: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_discover-server"));
        command.args(["--registry", registry, "-p", port]).args(arguments).env("RUST_LOG", "hither=debug");
        Self::spawn(command)
    }

    /// Starts discover-client.
    pub(crate) fn client(registry: &str, arguments: &[&str]) -> Self {
        let common = ["--registry", registry];
        Self::start(env!("CARGO_BIN_EXE_discover-client"), &[&common, arguments].concat())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Waits for its end, and for the rest of its output.
    pub(crate) async fn end(&mut self) -> ExitStatus {
        let status = timeout(LONG, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end: {}", self.life)).unwrap();
        self.stdout.end().await;
        self.stderr.end().await;
        status
    }

    /// Returns the address on which a server listens.
    pub(crate) async fn address(&self) -> SocketAddr {
        let line = self.stdout.line(|line| line.starts_with("listening on ")).await;
        line.trim_start_matches("listening on ").parse().unwrap()
    }

    /// Waits until a server is registered, and returns its port.
    pub(crate) async fn registered(&self) -> u16 {
        let address = self.address().await;
        self.stdout
            .line(|line| line.starts_with("registered ") && line.ends_with(&format!(" as {address}")))
            .await;
        address.port()
    }
}

impl Lines {
    pub(crate) fn all(&self) -> Vec<String> {
        texts(&self.lines)
    }

    pub(crate) fn count(&self, matches: impl Fn(&str) -> bool) -> usize {
        self.lines.borrow().iter().filter(|(_, line)| matches(line)).count()
    }

    /// Waits for the first line for which `matches` is true.
    pub(crate) async fn line(&self, matches: impl Fn(&str) -> bool) -> String {
        self.timed(matches).await.1
    }

    /// As [`line`](Self::line), with the time at which it came.
    pub(crate) async fn timed(&self, matches: impl Fn(&str) -> bool) -> (Instant, String) {
        let find = |lines: &Vec<(Instant, String)>| lines.iter().find(|(_, line)| matches(line)).cloned();
        let mut lines = self.lines.clone();
        let found = timeout(LONG, lines.wait_for(|lines| find(lines).is_some())).await;
        match found {
            Ok(Ok(lines)) => find(&lines).expect("it was there"),
            Ok(Err(_)) => panic!("the output ends without the expected line: {}", self.of),
            Err(_) => panic!("the expected line does not come within {LONG:?}: {}", self.of),
        }
    }

    /// Waits for `count` more lines.
    pub(crate) async fn more(&self, count: usize) {
        let mut lines = self.lines.clone();
        let goal = lines.borrow().len() + count;
        match timeout(LONG, lines.wait_for(|lines| lines.len() >= goal)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => panic!("the output ends before {count} more lines: {}", self.of),
            Err(_) => panic!("{count} more lines do not come within {LONG:?}: {}", self.of),
        }
    }

    /// Returns the longest time without a line since `from`.
    pub(crate) fn longest_silence(&self, from: Instant) -> Duration {
        let lines = self.lines.borrow();
        let times: Vec<_> = lines.iter().map(|(at, _)| *at).filter(|at| *at >= from).collect();
        let begins = std::iter::once(from).chain(times.iter().copied());
        begins.zip(&times).map(|(before, after)| after.duration_since(before)).max().unwrap_or_default()
    }

    /// Waits until the output is closed.
    async fn end(&self) {
        let mut lines = self.lines.clone();
        while lines.changed().await.is_ok() {}
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without reaping it, which is the child's.
        let peek = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let state = match waitid(WaitId::Pid(self.id), peek) {
            Ok(None) => "runs".into(),
            Ok(Some(status)) => format!(
                "has ended with code {:?}, by signal {:?}",
                status.exit_status(),
                status.terminating_signal()
            ),
            Err(_) => "was waited for".into(),
        };
        let Self { name, began, .. } = self;
        let timed = |lines: &TimedLines| -> Vec<String> {
            let lines = lines.borrow();
            let at = |(at, line): &(Instant, String)| format!("{:.3?}: {line}", at.duration_since(*began));
            lines.iter().map(at).collect()
        };
        let (after, stdout, stderr) = (began.elapsed(), timed(&self.stdout), timed(&self.stderr));
        let last = &stdout[stdout.len().saturating_sub(20)..];
        write!(
            f,
            "{name} {state}, {after:?} after its start\n{} lines of stdout, the last {last:#?}\nstderr {stderr:#?}",
            stdout.len()
        )
    }
}

fn read(stream: impl AsyncRead + Send + Unpin + 'static) -> TimedLines {
    let (sender, lines) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut stream = BufReader::new(stream).lines();
        while let Ok(Some(line)) = stream.next_line().await {
            sender.send_modify(|lines| lines.push((Instant::now(), line)));
        }
    });
    lines
}

fn texts(lines: &TimedLines) -> Vec<String> {
    lines.borrow().iter().map(|(_, line)| line.clone()).collect()
}
