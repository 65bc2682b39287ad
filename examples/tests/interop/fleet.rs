//! The programs of one case, around one etcd.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use etcd_client::Client;
use rustix::process::Signal;
use tokio::process::Command;
use tokio::time::sleep;

use crate::etcd::Etcd;
use crate::program::{LONG, Program};

/// The interval of polling etcd: a record can change in ways that cause no event of hither.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Fleet {
    etcd: Etcd,
    client: Client,
    /// The peer's executable.
    go: String,
    /// Of Go's packages.
    pub(crate) version: &'static str,
}

/// The record of an address in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) value: String,
    /// 0 is none.
    pub(crate) lease: i64,
}

pub(crate) const SERVICE: &str = "interop/service";

impl Fleet {
    pub(crate) async fn start(version: &'static str) -> Self {
        let peers =
            std::env::var("INTEROP_PEERS").expect("run `cargo xtask interop`, which builds the peers");
        let go = Path::new(&peers).join(version).to_str().unwrap().to_owned();
        let etcd = Etcd::start().await;
        let client = etcd.client().await;
        Self { etcd, client, go, version }
    }

    pub(crate) fn go(&self, command: &str, arguments: &[&str]) -> Program {
        let endpoint = self.etcd.endpoint();
        let common = [command, "-etcd", &endpoint, "-service", SERVICE];
        Program::start(&self.go, &[&common, arguments].concat())
    }

    /// Runs a command of the peer to its end, and returns what it printed.
    pub(crate) async fn go_done(&self, command: &str, arguments: &[&str]) -> Vec<String> {
        let mut program = self.go(command, arguments);
        let status = program.end().await;
        assert!(status.success(), "{status}: {:?}", program.stderr.all());
        program.stdout.all()
    }

    pub(crate) async fn go_server(&self, arguments: &[&str]) -> (Program, String) {
        started(self.go("server", arguments)).await
    }

    pub(crate) fn go_client(&self, calls: &str) -> Program {
        self.go("client", &["-count", calls, "-interval", "5ms"])
    }

    fn rust(&self, executable: &str, service: &str, arguments: &[&str]) -> Program {
        Program::spawn(self.rust_command(executable, service, arguments))
    }

    fn rust_command(&self, executable: &str, service: &str, arguments: &[&str]) -> Command {
        let registry = format!("etcd://{}", self.etcd.endpoint());
        let mut command = Command::new(executable);
        command.args(["--registry", &registry, "--service", service]).args(arguments);
        command
    }

    /// A server that logs what `filter` selects.
    pub(crate) async fn rust_server_logging(&self, filter: &str, arguments: &[&str]) -> (Program, String) {
        let arguments = [&["-p", "0"], arguments].concat();
        let mut command = self.rust_command(env!("CARGO_BIN_EXE_discover-server"), SERVICE, &arguments);
        command.env("RUST_LOG", filter);
        started(Program::spawn(command)).await
    }

    pub(crate) async fn rust_server(&self, arguments: &[&str]) -> (Program, String) {
        self.rust_server_of(SERVICE, arguments).await
    }

    pub(crate) async fn rust_server_of(&self, service: &str, arguments: &[&str]) -> (Program, String) {
        let ttl: &[&str] = if arguments.contains(&"--ttl") { &[] } else { &["--ttl", "5s"] };
        let arguments = [&["-p", "0"], ttl, arguments].concat();
        started(self.rust(env!("CARGO_BIN_EXE_discover-server"), service, &arguments)).await
    }

    pub(crate) fn rust_client(&self, calls: &str) -> Program {
        let arguments = ["--count", calls, "--interval", "5ms"];
        self.rust(env!("CARGO_BIN_EXE_discover-client"), SERVICE, &arguments)
    }

    pub(crate) fn watch(&self) -> Program {
        self.rust(env!("CARGO_BIN_EXE_watch"), SERVICE, &[])
    }

    pub(crate) async fn record(&self, address: &str) -> Option<Record> {
        let got = self.client.clone().get(format!("{SERVICE}/{address}"), None).await.unwrap();
        let record = got.kvs().first()?;
        Some(Record { value: record.value_str().unwrap().to_owned(), lease: record.lease() })
    }

    /// Waits until the record is as it must be, and returns it.
    pub(crate) async fn until_record(
        &self,
        address: &str,
        expected: &str,
        is_so: impl Fn(Option<&Record>) -> bool,
    ) -> Option<Record> {
        let polls = LONG.as_millis() / PAUSE.as_millis();
        for _ in 0..polls {
            let record = self.record(address).await;
            if is_so(record.as_ref()) {
                return record;
            }
            sleep(PAUSE).await;
        }
        panic!("the record of {address} is not {expected}, but {:?}", self.record(address).await);
    }

    /// Checks whether Go's lister has an address.
    pub(crate) async fn go_lists(&self, address: &str, expected: bool) {
        let listed = self.go_done("list", &[]).await;
        assert_eq!(listed.iter().any(|line| line.contains(address)), expected, "Go lists {listed:?}");
    }
}

/// Waits until a server is registered, and returns it with its address.
async fn started(server: Program) -> (Program, String) {
    prints(&server, "registered ").await;
    let line = prints(&server, "listening on ").await;
    (server, line.trim_start_matches("listening on ").to_owned())
}

/// Waits for a line with `part` on the standard output, and returns it.
pub(crate) async fn prints(program: &Program, part: &str) -> String {
    program.stdout.line(|line| line.contains(part)).await
}

pub(crate) fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}

pub(crate) fn failed(client: &Program) -> usize {
    client.stdout.count(|line| line.contains(": error"))
}

/// Returns the ports that answered a client, which must have ended without a failed call.
pub(crate) async fn answered(mut client: Program) -> BTreeSet<String> {
    let status = client.end().await;
    let lines = client.stdout.all();
    let errors: Vec<_> = lines.iter().filter(|line| line.contains("error")).collect();
    assert!(status.success(), "calls failed: {errors:?} {:?}", client.stderr.all());
    let port = |line: &String| Some(line.split(" from ").nth(1)?.split(' ').next()?.to_owned());
    lines.iter().filter_map(port).collect()
}

/// Checks that these servers, and no others, answered.
pub(crate) async fn all_answer(client: Program, addresses: &[&String]) {
    let expected: BTreeSet<_> = addresses.iter().map(|address| port(address).to_owned()).collect();
    assert_eq!(answered(client).await, expected);
}

/// Ends the server at `address` while a client calls, and returns how many calls failed.
pub(crate) async fn calls_while(
    client: &Program,
    server: &mut Program,
    address: &str,
    signal: Signal,
) -> usize {
    let from_it = format!(" from {} ", port(address));
    prints(client, &from_it).await;
    client.stdout.more(50).await;
    server.signal(signal);
    server.end().await;
    client.stdout.more(100).await;
    let lines = client.stdout.all();
    let still = lines.iter().rev().take(50).any(|line| line.contains(&from_it));
    assert!(!still, "{address} still answers");
    failed(client)
}
