//! A real etcd of a test's own, which dies with the test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use etcd_client::Client;
use hither_etcd::{EtcdConfig, EtcdRegistry};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use tempfile::TempDir;

use super::port::Port;

/// A member of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: String,
    /// Where the others find it, `host:port`.
    pub(crate) advertised: String,
    /// `--initial-cluster`.
    pub(crate) cluster: String,
}

/// One etcd, on a port and a directory of its own.
#[derive(Debug)]
pub(crate) struct Etcd {
    directory: TempDir,
    arguments: Vec<String>,
    client_port: Arc<Port>,
    peer_port: Port,
    /// The cluster of which it is a member.
    member: Option<Member>,
    running: Option<Running>,
}

impl Etcd {
    /// A new one, which serves.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// A new one with more arguments, which serves.
    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        tokio::task::spawn_blocking(move || Self::start_blocking(arguments)).await.unwrap()
    }

    /// A new one, for callers outside a runtime.
    pub(crate) fn start_blocking(arguments: Vec<String>) -> Self {
        let mut etcd = Self::new(arguments);
        etcd.launch().unwrap_or_else(|log| {
            panic!(
                "etcd does not start; its log:
{log}"
            )
        });
        etcd
    }

    /// One that is not started yet, and has its ports.
    pub(crate) fn new(arguments: Vec<String>) -> Self {
        let directory = tempfile::Builder::new().prefix("hither-etcd-").tempdir().unwrap();
        let (client_port, peer_port) = (Arc::new(Port::new()), Port::new());
        Self { directory, arguments, client_port, peer_port, member: None, running: None }
    }

    /// Makes it a member of a cluster, whose first start waits for the others.
    pub(crate) fn join(&mut self, member: Member) {
        self.member = Some(member);
    }

    /// Where it talks to other members, `127.0.0.1:port`.
    pub(crate) fn peer_endpoint(&self) -> String {
        self.peer_port.endpoint()
    }

    /// `127.0.0.1:port`.
    pub(crate) fn endpoint(&self) -> String {
        self.client_port.endpoint()
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig::new([self.endpoint()])
    }

    /// A new registry on it: another owner than all before.
    pub(crate) fn registry(&self) -> EtcdRegistry {
        EtcdRegistry::connect(self.config()).unwrap()
    }

    /// A way around the registry.
    pub(crate) async fn client(&self) -> Client {
        Client::connect([self.endpoint()], None).await.unwrap()
    }

    /// Kills it.
    pub(crate) fn kill(&mut self) {
        self.running = None;
    }

    /// Ends it as its operator does, and waits until it has.
    pub(crate) async fn stop(&mut self) {
        let mut running = self.running.take().unwrap();
        kill_process(running.pid(), Signal::TERM).unwrap();
        running.end_watchdog();
        tokio::task::spawn_blocking(move || running.child.wait()).await.unwrap().unwrap();
    }

    /// Lets it have its port and its data back.
    pub(crate) async fn start_again(mut self) -> Self {
        tokio::task::spawn_blocking(move || {
            self.launch().unwrap();
            self
        })
        .await
        .unwrap()
    }

    /// Removes its data. It must not run.
    pub(crate) fn wipe(&mut self) {
        assert!(self.running.is_none());
        self.clear();
    }

    /// Keeps a copy of its data for [`restore`](Self::restore). It must not run.
    pub(crate) fn back_up(&self) {
        assert!(self.running.is_none());
        copy(&self.data(), &self.directory.path().join("backup"));
    }

    /// Puts the copy of its data in the place of what it has. It must not run.
    pub(crate) fn restore(&mut self) {
        self.wipe();
        copy(&self.directory.path().join("backup"), &self.data());
    }

    /// Ends it, and has its next start where the other one was.
    pub(crate) fn take_the_place_of(&mut self, other: &Self) {
        self.kill();
        self.client_port = Arc::clone(&other.client_port);
    }

    /// Other arguments for the next start.
    pub(crate) fn set_arguments(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(ToString::to_string).collect();
    }

    /// Freezes it (SIGSTOP): the kernel goes on accepting connections, and no request is answered.
    pub(crate) fn freeze(&self) -> Frozen {
        let pid = self.running.as_ref().unwrap().pid();
        kill_process(pid, Signal::STOP).unwrap();
        // The last of its threads may go on for a moment, and answer.
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).unwrap();
        Frozen(pid)
    }

    /// etcd's own proxy in front of it.
    pub(crate) fn grpc_proxy(&self) -> GrpcProxy {
        let port = Port::new();
        let mut command = Command::new(program());
        command.args(["grpc-proxy", "start", "--endpoints", &self.endpoint()]);
        command.args(["--listen-addr", &port.endpoint(), "--advertise-client-url", &port.endpoint()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let watchdog = watchdog(child.id(), self.directory.path());
        GrpcProxy { _running: Running { watchdog, child }, port }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn clear(&self) {
        match std::fs::remove_dir_all(self.data()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    /// Starts the process, and waits until it is ready to serve.
    pub(crate) fn launch(&mut self) -> Result<(), String> {
        let scheme =
            if self.arguments.iter().any(|argument| argument == "--cert-file") { "https" } else { "http" };
        let clients = format!("{scheme}://{}", self.endpoint());
        let peers = format!("http://{}", self.peer_endpoint());
        let member = self.member.clone().unwrap_or_else(|| Member {
            name: "test".to_owned(),
            advertised: self.peer_endpoint(),
            cluster: format!("test={peers}"),
        });
        let mut command = Command::new(program());
        command.args(["--name", &member.name, "--data-dir"]).arg(self.data());
        command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
        let advertised = format!("http://{}", member.advertised);
        command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &advertised]);
        command.args(["--initial-cluster", &member.cluster, "--unsafe-no-fsync"]);
        command.args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            panic!("{} does not run ({error}): run `cargo xtask tools`", program().display())
        });
        let log = child.stderr.take().unwrap();
        self.running = Some(Running { watchdog: watchdog(child.id(), self.directory.path()), child });
        let result = ready(log);
        if result.is_err() {
            self.running = None;
        }
        result
    }
}

/// A process that passes calls on to an etcd, until it is dropped.
#[derive(Debug)]
pub(crate) struct GrpcProxy {
    _running: Running,
    port: Port,
}

impl GrpcProxy {
    pub(crate) fn endpoint(&self) -> String {
        self.port.endpoint()
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A stopped etcd, until this is dropped.
#[derive(Debug)]
pub(crate) struct Frozen(Pid);

impl Drop for Frozen {
    fn drop(&mut self) {
        // If it has ended, its id may be another process's, to which this does nothing.
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[derive(Debug)]
struct Running {
    child: Child,
    watchdog: Child,
}

impl Running {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Before the process is waited for, so that another one that gets the same id is never killed.
    fn end_watchdog(&mut self) {
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end_watchdog();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ends the process when ours has ended, however that came about: its standard input is then closed.
fn watchdog(pid: u32, directory: &Path) -> Child {
    let script = r#"read -r _; kill -9 "$0"; rm -rf "$1""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, &pid.to_string()]).arg(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until etcd is ready. Reads on for ever, so that etcd never blocks on a full pipe.
fn ready(log: ChildStderr) -> Result<(), String> {
    let (sender, outcome) = mpsc::channel();
    thread::spawn(move || {
        let mut lines = Vec::new();
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if line.contains("ready to serve client requests") {
                let _ = sender.send(Ok(()));
            }
            if lines.len() < 1000 {
                lines.push(line);
            }
        }
        let _ = sender.send(Err(lines.join("\n")));
    });
    outcome.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| Err("nothing within a minute".into()))
}

/// `ETCD_BIN`, or what `cargo xtask tools` has fetched, or the system's.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("ETCD_BIN").filter(|named| !named.is_empty()) {
        return named.into();
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/etcd");
    if fetched.exists() { fetched } else { "etcd".into() }
}
