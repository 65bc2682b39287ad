//! Rust and Go in one fleet, on a real etcd: one row a case and a version of Go's packages.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::command::Step;
use crate::error::Error;
use crate::process::Program;
use crate::tools::{Tools, go};

/// Each is a module with its own `go.mod`.
const VERSIONS: [&str; 3] = ["newest", "v3.5.26", "v3.5.9"];

type Case = (&'static str, fn(&Fleet) -> Result<(), Error>);

const CASES: [Case; 11] = [
    ("a Go client calls Rust servers", go_calls_rust),
    ("a Rust client calls Go servers", rust_calls_go),
    ("both in one service", both_in_one_service),
    ("a Rust server leaves, a Go client loses no call", rust_leaves),
    ("a Go server leaves, a Rust client loses no call", go_leaves),
    ("a Rust server crashes", rust_crashes),
    ("a Go server crashes", go_crashes),
    ("a Go manager overwrites and deletes our record", go_manager_interferes),
    ("the same bytes in etcd, and metadata either way", same_bytes),
    ("an object in Metadata, which we never write", object_in_metadata),
    ("a service whose name begins as another one's", common_beginning),
];

pub(crate) fn run(root: &Path) -> Result<(), Error> {
    let tools = Tools::ensure(root)?;
    let out = root.join("target/interop");
    for version in VERSIONS {
        go::build(&root.join("examples/tests/interop/go").join(version), &out.join(version))?;
    }
    let build = ["build", "-q", "-p", "hither-examples", "--features", "etcd", "--bins"];
    Step::cargo(root).args(build).run()?;

    let etcd = Etcd::start(&tools, &out)?;
    let mut failed = 0;
    println!("{:10} {:50} result", "Go's etcd", "case");
    for version in VERSIONS {
        for (name, case) in CASES {
            let fleet = Fleet::new(root, &etcd, version, name);
            let outcome = case(&fleet);
            let result = match &outcome {
                Ok(()) => "ok".to_owned(),
                Err(failure) => format!("FAILED: {failure}"),
            };
            println!("{version:10} {name:50} {result}");
            failed += usize::from(outcome.is_err());
        }
    }
    if failed == 0 { Ok(()) } else { Err(Error::new(format!("{failed} cases failed"))) }
}

struct Etcd {
    _program: Program,
    directory: PathBuf,
    address: String,
    etcdctl: PathBuf,
}

impl Etcd {
    fn start(tools: &Tools, out: &Path) -> Result<Self, Error> {
        let directory = out.join(format!("etcd-{}", std::process::id()));
        let (clients, peers) = (free_address()?, free_address()?);
        let (client_url, peer_url) = (format!("http://{clients}"), format!("http://{peers}"));
        let cluster = format!("default={peer_url}");
        let data = directory.display().to_string();
        let program = Program::start(
            tools.path("etcd"),
            &[
                "--data-dir",
                &data,
                "--listen-client-urls",
                &client_url,
                "--advertise-client-urls",
                &client_url,
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                &peer_url,
                "--initial-cluster",
                &cluster,
                "--unsafe-no-fsync",
            ],
        )?;
        program.says("ready to serve client requests")?;
        Ok(Self { _program: program, directory, address: clients, etcdctl: tools.path("etcdctl").to_owned() })
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn free_address() -> Result<String, Error> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map(|address| address.to_string()).map_err(|error| Error::new(format!("no port is free: {error}")))
}

/// The programs of one case, in a service of its own.
struct Fleet<'a> {
    etcd: &'a Etcd,
    go: PathBuf,
    rust: PathBuf,
    version: &'a str,
    service: String,
}

/// What stands in etcd for an address.
#[derive(Debug)]
struct Record {
    value: String,
    /// 0 is none.
    lease: i64,
}

impl<'a> Fleet<'a> {
    fn new(root: &Path, etcd: &'a Etcd, version: &'a str, case: &str) -> Self {
        let go = root.join("target/interop").join(version);
        // Go's packages of 2023 know no end of a prefix, so no case's name begins as another one's.
        let service = format!("interop/{}/{}", version, case.replace([' ', ','], "-"));
        Self { etcd, go, rust: root.join("target/debug"), version, service }
    }

    /// The same programs, in another service, whose name goes on after this one's.
    fn beside(&self, rest: &str) -> Self {
        let (go, rust) = (self.go.clone(), self.rust.clone());
        Self { etcd: self.etcd, go, rust, version: self.version, service: format!("{}{rest}", self.service) }
    }

    fn go(&self, command: &str, arguments: &[&str]) -> Result<Program, Error> {
        let common = [command, "-etcd", &self.etcd.address, "-service", &self.service];
        Program::start(&self.go, &[&common, arguments].concat())
    }

    fn go_server(&self, arguments: &[&str]) -> Result<(Program, String), Error> {
        started(self.go("server", arguments)?)
    }

    fn go_client(&self, calls: &str) -> Result<Program, Error> {
        self.go("client", &["-count", calls, "-interval", "5ms"])
    }

    fn rust(&self, program: &str, arguments: &[&str]) -> Result<Program, Error> {
        let registry = format!("etcd://{}", self.etcd.address);
        let common = ["--registry", &registry, "--service", &self.service];
        Program::start(&self.rust.join(program), &[&common, arguments].concat())
    }

    fn rust_server(&self, arguments: &[&str]) -> Result<(Program, String), Error> {
        started(self.rust("discover-server", &[&["-p", "0", "--ttl", "2s"], arguments].concat())?)
    }

    fn rust_client(&self, calls: &str) -> Result<Program, Error> {
        self.rust("discover-client", &["--count", calls, "--interval", "5ms"])
    }

    fn record(&self, address: &str) -> Result<Option<Record>, Error> {
        let key = format!("{}/{address}", self.service);
        let get = |how: &str| {
            let step = Step::new(&self.etcd.etcdctl, Path::new("/")).env("ETCDCTL_API", "3");
            step.args(["--endpoints", &self.etcd.address, "get", &key, how]).output()
        };
        let value = get("--print-value-only")?;
        let json: Value = serde_json::from_str(&get("-w=json")?).unwrap_or_default();
        let record =
            |kv: &Value| Record { value: value.trim().to_owned(), lease: kv["lease"].as_i64().unwrap_or(0) };
        Ok(json["kvs"].get(0).map(record))
    }

    /// Waits until the record is as it must be; the record.
    fn comes_to(
        &self,
        address: &str,
        what: &str,
        is_so: impl Fn(Option<&Record>) -> bool,
    ) -> Result<Option<Record>, Error> {
        for _ in 0..200 {
            let record = self.record(address)?;
            if is_so(record.as_ref()) {
                return Ok(record);
            }
            pause();
        }
        Err(Error::new(format!("the record of {address} is not {what}, but {:?}", self.record(address)?)))
    }
}

/// Between two looks at another process: there is nothing to wait on.
#[allow(clippy::disallowed_methods, reason = "this is no async code")]
fn pause() {
    thread::sleep(Duration::from_millis(50));
}

/// A server that is registered, and its address.
fn started(server: Program) -> Result<(Program, String), Error> {
    server.says("registered ")?;
    let line = server.says("listening on ")?;
    Ok((server, line.trim_start_matches("listening on ").to_owned()))
}

fn port(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}

/// Which ports answered, when a client has ended well.
fn answered(mut client: Program) -> Result<BTreeSet<String>, Error> {
    let status = client.end()?;
    let said = client.said();
    if !status.success() {
        let complaints: Vec<_> = said.into_iter().filter(|line| line.contains("error")).collect();
        return Err(Error::new(format!("calls failed: {complaints:?}")));
    }
    let from = |line: &String| Some(line.split(" from ").nth(1)?.split(' ').next()?.to_owned());
    Ok(said.iter().filter_map(from).collect())
}

fn all_answer(client: Program, addresses: &[&String]) -> Result<(), Error> {
    let (answered, expected) =
        (answered(client)?, addresses.iter().map(|address| port(address).to_owned()).collect());
    if answered == expected {
        Ok(())
    } else {
        Err(Error::new(format!("{answered:?} answered, not {expected:?}")))
    }
}

fn go_calls_rust(fleet: &Fleet<'_>) -> Result<(), Error> {
    let ((_a, a), (_b, b)) = (fleet.rust_server(&[])?, fleet.rust_server(&[])?);
    all_answer(fleet.go_client("60")?, &[&a, &b])
}

fn rust_calls_go(fleet: &Fleet<'_>) -> Result<(), Error> {
    let ((_a, a), (_b, b)) = (fleet.go_server(&["-lease", "5s"])?, fleet.go_server(&[])?);
    all_answer(fleet.rust_client("60")?, &[&a, &b])
}

fn both_in_one_service(fleet: &Fleet<'_>) -> Result<(), Error> {
    let ((_a, a), (_b, b)) = (fleet.rust_server(&["--zone", "z"])?, fleet.go_server(&["-lease", "5s"])?);
    all_answer(fleet.go_client("60")?, &[&a, &b])?;
    all_answer(fleet.rust_client("60")?, &[&a, &b])
}

/// A client calls while the server at `address` goes; how many calls fail.
fn calls_while(client: &Program, server: &mut Program, address: &str, signal: &str) -> Result<usize, Error> {
    let from_it = format!(" from {} ", port(address));
    client.says(&from_it)?;
    client.goes_on(50)?;
    server.signal(signal)?;
    server.end()?;
    client.goes_on(100)?;
    let said = client.said();
    if said.iter().rev().take(50).any(|line| line.contains(&from_it)) {
        return Err(Error::new(format!("{address} still answers")));
    }
    Ok(said.iter().filter(|line| line.contains(": error")).count())
}

fn none_failed(failed: usize) -> Result<(), Error> {
    if failed == 0 { Ok(()) } else { Err(Error::new(format!("{failed} calls failed"))) }
}

/// The client calls one after the other: only the call that is under way may fail.
fn at_most_one_failed(failed: usize) -> Result<(), Error> {
    if failed <= 1 { Ok(()) } else { none_failed(failed) }
}

/// Runs it to its end, which has to be a good one; what it said.
fn done(mut program: Program) -> Result<Vec<String>, Error> {
    let status = program.end()?;
    let said = program.said();
    if status.success() { Ok(said) } else { Err(Error::new(format!("{status}: {said:?}"))) }
}

/// Go's lister has it, or has it no more.
fn go_lists(fleet: &Fleet<'_>, address: &str, there: bool) -> Result<(), Error> {
    let listed = done(fleet.go("list", &[])?)?;
    if listed.iter().any(|line| line.contains(address)) == there {
        Ok(())
    } else {
        Err(Error::new(format!("Go lists {listed:?}")))
    }
}

/// What it says changes as it leaves, in ways that clients of Go's of 2025 could not bear in the metadata.
fn rust_leaves(fleet: &Fleet<'_>) -> Result<(), Error> {
    let (mut leaving, address) = fleet.rust_server(&["--zone", "z", "--meta", "shard=3"])?;
    let (_stays, _) = fleet.go_server(&["-lease", "5s"])?;
    let client = fleet.go_client("100000")?;
    go_lists(fleet, &address, true)?;
    none_failed(calls_while(&client, &mut leaving, &address, "TERM")?)?;
    fleet.comes_to(&address, "gone", |record| record.is_none())?;
    go_lists(fleet, &address, false)
}

fn go_leaves(fleet: &Fleet<'_>) -> Result<(), Error> {
    let ((mut leaving, address), (_b, _)) = (fleet.go_server(&["-lease", "5s"])?, fleet.rust_server(&[])?);
    let (client, watch) = (fleet.rust_client("100000")?, fleet.rust("watch", &[])?);
    watch.says(&format!("+ {address}"))?;
    none_failed(calls_while(&client, &mut leaving, &address, "TERM")?)?;
    fleet.comes_to(&address, "gone", |record| record.is_none())?;
    watch.says(&format!("- {address}")).map(drop)
}

fn rust_crashes(fleet: &Fleet<'_>) -> Result<(), Error> {
    let ((mut dying, address), (_b, _)) = (fleet.rust_server(&[])?, fleet.go_server(&["-lease", "5s"])?);
    let client = fleet.go_client("100000")?;
    go_lists(fleet, &address, true)?;
    at_most_one_failed(calls_while(&client, &mut dying, &address, "KILL")?)?;
    fleet.comes_to(&address, "gone after its TTL", |record| record.is_none())?;
    go_lists(fleet, &address, false)
}

fn go_crashes(fleet: &Fleet<'_>) -> Result<(), Error> {
    let ((mut dying, address), (_b, _)) = (fleet.go_server(&["-lease", "2s"])?, fleet.rust_server(&[])?);
    let (client, watch) = (fleet.rust_client("100000")?, fleet.rust("watch", &[])?);
    watch.says(&format!("+ {address}"))?;
    at_most_one_failed(calls_while(&client, &mut dying, &address, "KILL")?)?;
    fleet.comes_to(&address, "gone after its TTL", |record| record.is_none())?;
    watch.says(&format!("- {address}")).map(drop)
}

fn go_manager_interferes(fleet: &Fleet<'_>) -> Result<(), Error> {
    // Long enough for no other lease to be needed.
    let server = fleet.rust("discover-server", &["-p", "0", "--ttl", "10s", "--zone", "ours"])?;
    let (_server, address) = started(server)?;
    let is_leased = |record: Option<&Record>| record.is_some_and(|record| record.lease != 0);
    let lease = fleet.comes_to(&address, "on a lease", is_leased)?.map_or(0, |record| record.lease);
    // A lease that etcd still has is kept, and not left behind for another one.
    let is_ours = |record: Option<&Record>| {
        record.is_some_and(|record| record.value.contains("ours") && record.lease == lease)
    };
    done(fleet.go("put", &["-addr", &address])?)?;
    fleet.comes_to(&address, &format!("ours again, and on lease {lease}"), is_ours)?;
    done(fleet.go("delete", &["-addr", &address])?)?;
    fleet.comes_to(&address, &format!("put back, on lease {lease}"), is_ours)?;
    Ok(())
}

fn same_bytes(fleet: &Fleet<'_>) -> Result<(), Error> {
    for advertised in ["127.0.0.1:8001", "[::1]:8001", "unix:///run/discover.sock"] {
        let (mut server, _) = fleet.rust_server(&["--advertise", advertised])?;
        let ours = fleet.record(advertised)?;
        server.signal("TERM")?;
        server.end()?;
        done(fleet.go("put", &["-addr", advertised])?)?;
        let theirs = fleet.record(advertised)?;
        let is_same = matches!((&ours, &theirs), (Some(ours), Some(theirs)) if ours.value == theirs.value);
        if !is_same {
            return Err(Error::new(format!("Rust writes {ours:?}, Go writes {theirs:?}")));
        }
        done(fleet.go("put", &["-addr", advertised, "-metadata", r#"{"shard":"3"}"#])?)?;
        let watched = fleet.rust("watch", &[])?.says(r#"shard="3""#)?;
        if !watched.contains(&format!("+ {advertised} ")) {
            return Err(Error::new(format!("Go writes {advertised}, Rust sees {watched:?}")));
        }
        done(fleet.go("delete", &["-addr", advertised])?)?;
    }

    let (_server, address) = fleet.rust_server(&["--zone", "z", "--version", "1", "--meta", "shard=3"])?;
    let listed = done(fleet.go("list", &[])?)?;
    if !listed.iter().any(|line| line.ends_with(&format!("{address} null"))) {
        return Err(Error::new(format!("Go lists {listed:?}")));
    }
    all_answer(fleet.go_client("5")?, &[&address])
}

/// The reason why our `Metadata` is null. With an object there, grpc 1.71 takes the address for another one, and waits
/// for ever for the connection that it has; a second object it compares with the first, and Go ends a program that
/// compares those.
fn object_in_metadata(fleet: &Fleet<'_>) -> Result<(), Error> {
    let (_server, address) = fleet.go_server(&[])?;
    let mut client = fleet.go("client", &["-count", "100000", "-interval", "5ms", "-timeout", "1s"])?;
    let put = |object| done(fleet.go("put", &["-addr", &address, "-metadata", object])?);
    client.goes_on(20)?;
    put(r#"{"a":"b"}"#)?;
    if fleet.version == "v3.5.26" {
        client.says("DeadlineExceeded")?;
        put(r#"{"a":"c"}"#)?;
        client.says("panic: runtime error: comparing uncomparable type map[string]interface {}")?;
        let status = client.end()?;
        return if status.success() { Err(Error::new("its panic is a success")) } else { Ok(()) };
    }
    client.goes_on(100)?;
    put(r#"{"a":"c"}"#)?;
    client.goes_on(100)?;
    none_failed(client.said().iter().filter(|line| line.contains(": error")).count())
}

/// Go's packages up to 3.5.9 ask for `svc` and not for `svc/`, and get `svc2` on top.
fn common_beginning(fleet: &Fleet<'_>) -> Result<(), Error> {
    let other = fleet.beside("2");
    let ((_a, a), (mut foreign, b)) = (fleet.rust_server(&[])?, other.rust_server(&[])?);
    let (listed, called) = (done(fleet.go("list", &[])?)?, answered(fleet.go_client("60")?)?);
    let leaks = fleet.version == "v3.5.9";
    let expected = if leaks { vec![&a, &b] } else { vec![&a] };
    let is_listed = |address: &&String| listed.iter().any(|line| line.contains(address.as_str()));
    let ports = expected.iter().map(|address| port(address).to_owned()).collect();
    if !expected.iter().all(is_listed) || listed.len() != expected.len() || called != ports {
        return Err(Error::new(format!("of {expected:?} Go lists {listed:?}, and calls {called:?}")));
    }

    // Ours sees its own, whatever is there, comes or goes beside it.
    let watch = fleet.rust("watch", &[])?;
    watch.says(&format!("+ {a}"))?;
    all_answer(fleet.rust_client("60")?, &[&a])?;
    foreign.signal("TERM")?;
    foreign.end()?;
    let (_foreign, d) = other.rust_server(&[])?;
    let (third, c) = fleet.rust_server(&[])?;
    watch.says(&format!("+ {c}"))?;
    let present = third.says("present: ")?;
    let seen = [watch.said(), vec![present]].concat();
    match seen.iter().find(|line| [&b, &d].iter().any(|foreign| line.contains(foreign.as_str()))) {
        None => Ok(()),
        Some(line) => Err(Error::new(format!("Rust sees a service beside its own: {line:?}"))),
    }
}
