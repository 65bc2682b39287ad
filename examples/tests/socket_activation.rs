//! `socket-activation`, as a process that another one passes a socket to, signals, and kills.
#![cfg(unix)]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use hither::tonic::{DiscoveryChannel, ErrorKind};
use hither::{Discovery, Instance, StaticRegistry};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

const LONG: Duration = Duration::from_secs(30);
const PROGRAM: &str = env!("CARGO_BIN_EXE_socket-activation");

/// What systemd does before it runs a program: the socket is descriptor 3, and the variables say so. `PASSED_PID` is the
/// process that it is for.
const PASS: &str = r#"export LISTEN_FDS=1 LISTEN_PID="${PASSED_PID:-$$}"; exec "$0" "$@" 3<&0 0</dev/null"#;

/// The program, which is killed when this is dropped.
struct Process {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn spawn(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdout }
    }

    fn at(place: &str) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg(place).stdin(Stdio::null());
        Self::spawn(command)
    }

    /// The program with a descriptor that this process passes, through a shell that has its id.
    fn passed(descriptor: impl Into<OwnedFd>, variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", PASS, PROGRAM]).stdin(Stdio::from(descriptor.into()));
        command.envs(variables.iter().copied());
        Self::spawn(command)
    }

    /// The rest of the next line, which begins so.
    async fn line(&mut self, begins: &str) -> String {
        let line = timeout(LONG, self.stdout.next_line()).await.expect("a line in time").unwrap();
        let Some(rest) = line.as_ref().and_then(|line| line.strip_prefix(begins)) else {
            panic!("{line:?} for {begins:?}: {}", self.stderr().await)
        };
        rest.to_owned()
    }

    async fn listening(&mut self) -> String {
        self.line("listening on ").await
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    async fn end(&mut self) -> ExitStatus {
        timeout(LONG, self.child.wait()).await.expect("it ends in time").unwrap()
    }

    async fn stderr(&mut self) -> String {
        let mut text = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        timeout(LONG, stderr.read_to_string(&mut text)).await.expect("it ends in time").unwrap();
        text
    }

    /// The error with which it ends.
    async fn fails(mut self) -> String {
        let text = self.stderr().await;
        assert!(!self.end().await.success(), "{text}");
        text
    }
}

async fn call(address: &str) {
    let discovery = Discovery::new(StaticRegistry::new([Instance::new(address.parse().unwrap())]));
    let builder = DiscoveryChannel::builder(&discovery, "greeter").wait_for_ready(true);
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    request.set_timeout(LONG);
    HealthClient::new(builder.connect_lazy().unwrap()).check(request).await.unwrap();
}

#[tokio::test]
async fn the_passed_socket_is_served_and_outlives_the_server() {
    for address in ["127.0.0.1:0", "[::]:0"] {
        // systemd listens on [::] where only a port is set (theforeman/puppet-foreman#814).
        let socket = TcpListener::bind(address).unwrap();
        let bound = socket.local_addr().unwrap();
        let call = || async move { call(&format!("127.0.0.1:{}", bound.port())).await };
        // A client that comes before the server waits in the backlog.
        let early = tokio::spawn(call());
        let advertised = &[("POD_IP", "127.0.0.1")];
        let mut first = Process::passed(socket.try_clone().unwrap(), advertised);
        assert_eq!(first.listening().await, bound.to_string());
        early.await.unwrap();
        first.signal(Signal::TERM);
        assert!(first.end().await.success());
        // Between two servers too.
        let between = tokio::spawn(call());
        let mut second = Process::passed(socket, advertised);
        second.listening().await;
        between.await.unwrap();
    }
}

#[tokio::test]
async fn a_passed_unix_socket_keeps_its_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    let mut process = Process::passed(UnixListener::bind(&path).unwrap(), &[]);
    let address = process.listening().await;
    assert_eq!(address, format!("unix://{}", path.display()));
    call(&address).await;
    process.signal(Signal::TERM);
    assert!(process.end().await.success());
    assert!(path.exists());
}

/// As after a shell or wrapper that systemd has started in the program's place (lucab/libsystemd-rs#155).
#[tokio::test]
async fn a_socket_for_another_process_is_left_alone() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let bound = socket.local_addr().unwrap().to_string();
    let mut process = Process::passed(socket, &[("PASSED_PID", "1")]);
    let address = process.listening().await;
    assert_ne!(address, bound, "it has bound its own");
    call(&address).await;
}

#[tokio::test]
async fn a_descriptor_that_is_no_listening_socket_is_an_error() {
    let error = Process::passed(File::open("/dev/null").unwrap(), &[]).fails().await;
    assert!(error.contains("not a socket"), "{error}");
}

#[tokio::test]
async fn the_socket_file_of_a_process_that_was_killed_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("greeter.sock");
    let place = path.to_str().unwrap();
    let mut killed = Process::at(place);
    call(&killed.listening().await).await;
    let error = Process::at(place).fails().await;
    assert!(error.contains(&format!("{:?}", ErrorKind::Bind)), "{error}");
    assert!(error.contains("another process listens on it"), "{error}");

    killed.signal(Signal::KILL);
    assert!(!killed.end().await.success());
    assert!(Path::new(place).exists());
    let mut process = Process::at(place);
    call(&process.listening().await).await;
    process.signal(Signal::TERM);
    assert!(process.end().await.success());
    assert!(!path.exists());
}

/// As in dsx-ai-factory/infra-controller#6497 and openstack-k8s-operators/infra-operator#233, where the port was put behind
/// an IPv6 address, or a list.
#[tokio::test]
async fn the_address_of_the_pod_is_advertised_with_the_bound_port() {
    let start = |pod_ip: &str, place: &str| {
        let mut command = Command::new(PROGRAM);
        command.arg(place).env("POD_IP", pod_ip).stdin(Stdio::null());
        Process::spawn(command)
    };
    for (pod_ip, place, expected) in [
        ("10.1.2.3", "0.0.0.0:0", "[10.1.2.3:PORT]"),
        ("fd00::7", "[::]:0", "[[fd00::7]:PORT]"),
        ("10.1.2.3,fd00::7", "[::]:0", "[10.1.2.3:PORT, [fd00::7]:PORT]"),
    ] {
        let mut process = start(pod_ip, place);
        let port = process.listening().await.rsplit(':').next().unwrap().to_owned();
        assert_eq!(process.line("advertising ").await, expected.replace("PORT", &port));
    }
    for (pod_ip, place, expected) in [
        ("", "0.0.0.0:0", "the environment variable POD_IP is empty"),
        ("fd00::7", "0.0.0.0:0", "no client of fd00::7 can reach it: bind [::]:"),
        ("10.1.2.3", "127.0.0.1:0", "no client of 10.1.2.3 can reach it: bind 0.0.0.0:"),
    ] {
        let error = start(pod_ip, place).fails().await;
        assert!(error.contains(expected), "{error}");
    }
}
