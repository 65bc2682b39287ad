//! Programs that others wrote, as processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process_group};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::{LONG, certificate};
use crate::port::Port;
use crate::program::Program;

/// A program with all its workers, which are killed when this is dropped.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) program: Program,
    pub(super) address: String,
    group: Pid,
    /// Reserves the port while the program is down.
    _port: Option<Port>,
    directory: TempDir,
}

/// Where an executable is, that a variable of `cargo xtask interop` names.
pub(super) fn executable(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .unwrap_or_else(|| {
            panic!("{variable} names no program: run `cargo xtask interop`, which finds or fetches it")
        })
        .into()
}

fn spawn(mut command: Command) -> (Program, Pid) {
    // So that workers can be killed with their master.
    command.process_group(0);
    let program = Program::spawn(command);
    let group = i32::try_from(program.child.id().unwrap()).unwrap();
    (program, Pid::from_raw(group).unwrap())
}

async fn accepts(address: &str, program: &Program) {
    let connected = async {
        while TcpStream::connect(address).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let in_time = timeout(LONG, connected).await.is_ok();
    assert!(in_time, "{address} accepts no connection: {:#?}", program.stderr.all());
}

impl Peer {
    /// nginx in front of `upstream`, with all else at its defaults; `server` has further directives.
    pub(super) async fn nginx(upstream: &str, server: &str) -> Self {
        Self::nginx_at(Port::new(), upstream, server).await
    }

    async fn nginx_at(port: Port, upstream: &str, server: &str) -> Self {
        let (address, directory) = (port.endpoint(), tempfile::tempdir().unwrap());
        std::fs::write(directory.path().join("nginx.conf"), nginx_conf(&address, upstream, server)).unwrap();
        let mut command = Command::new(executable("NGINX_BIN"));
        command.args(nginx_arguments(directory.path())).args(["-g", "daemon off;"]);
        let (program, group) = spawn(command);
        accepts(&address, &program).await;
        Self { program, address, group, _port: Some(port), directory }
    }

    /// Sends nginx's master a signal by its own command.
    pub(super) async fn nginx_signal(&self, signal: &str) {
        let mut command = Command::new(executable("NGINX_BIN"));
        command.args(nginx_arguments(self.directory.path())).args(["-s", signal]).stderr(Stdio::piped());
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// HAProxy in front of `upstream`, HTTP/2 on both sides, with all else at its defaults.
    pub(super) async fn haproxy(upstream: &str, backend: &str) -> Self {
        let (port, directory) = (Port::new(), tempfile::tempdir().unwrap());
        let address = port.endpoint();
        let file = directory.path().join("haproxy.cfg");
        std::fs::write(&file, haproxy_cfg(&address, upstream, backend)).unwrap();
        let mut command = Command::new(executable("HAPROXY_BIN"));
        command.arg("-W").arg("-f").arg(file);
        let (program, group) = spawn(command);
        accepts(&address, &program).await;
        Self { program, address, group, _port: Some(port), directory }
    }

    /// gRPC's test service on grpc-go.
    pub(super) async fn go_server(arguments: &[&str]) -> Self {
        Self::go_server_with(arguments, &[]).await
    }

    pub(super) async fn go_server_over_tls() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [certificate, key] = certificate::write(directory.path());
        // It has read the files when it listens.
        Self::go_server(&["-cert", &certificate, "-key", &key]).await
    }

    pub(super) async fn go_server_with(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(executable("INTEROP_PEERS").join("server"));
        command.args(arguments).envs(variables.iter().copied());
        let (program, group) = spawn(command);
        let address = program.address().await.to_string();
        Self { program, address, group, _port: None, directory: tempfile::tempdir().unwrap() }
    }

    /// A server of files, which is no gRPC server.
    pub(super) async fn nghttpd() -> Self {
        let (port, directory) = (Port::new(), tempfile::tempdir().unwrap());
        let address = port.endpoint();
        let mut command = Command::new(executable("NGHTTPD_BIN"));
        command.arg("--no-tls").arg("--address=127.0.0.1").arg("-d").arg(directory.path());
        command.arg(address.rsplit(':').next().unwrap());
        let (program, group) = spawn(command);
        accepts(&address, &program).await;
        Self { program, address, group, _port: Some(port), directory }
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.program.signal(signal);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Once the master was waited for, its id may be another process's. Its workers have ended before it.
        if self.program.child.id().is_some() {
            let _ = kill_process_group(self.group, Signal::KILL);
        }
    }
}

fn nginx_arguments(directory: &Path) -> [String; 6] {
    let directory = directory.display();
    ["-e", "stderr", "-p", &directory.to_string(), "-c", "nginx.conf"].map(str::to_owned)
}

fn nginx_conf(address: &str, upstream: &str, server: &str) -> String {
    // Otherwise the workers, as another user, have no right to the directory.
    let user = if geteuid().is_root() { "user root root;" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    format!(
        "{user}
        pid nginx.pid;
        events {{}}
        http {{
            {temporary}
            access_log off;
            server {{
                listen {address} http2;
                {server}
                location / {{
                    grpc_pass grpc://{upstream};
                }}
            }}
        }}"
    )
}

fn haproxy_cfg(address: &str, upstream: &str, backend: &str) -> String {
    format!(
        "defaults
            mode http
            timeout connect 5s
            timeout client 50s
            timeout server 50s
        frontend front
            bind {address} proto h2
            default_backend back
        backend back
            server upstream {upstream} proto h2
            {backend}
"
    )
}
