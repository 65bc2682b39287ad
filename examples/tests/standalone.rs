//! The application in `examples/standalone`, which is no member of the workspace: one environment variable chooses its
//! registry.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "it is shared with the tests of hither-etcd")]
#[path = "../../backend-etcd/tests/support/etcd.rs"]
mod etcd;
#[path = "../../backend-etcd/tests/support/port.rs"]
mod port;
#[allow(dead_code, reason = "it is shared with the walkthrough")]
#[path = "walkthrough/program.rs"]
mod program;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use hither::Resolver;
use rustix::process::Signal;

use etcd::Etcd;
use port::Port;
use program::Program;

const SERVICE: &str = "demo/greeter";
const ANY_PORT: &str = "127.0.0.1:0";

/// The application, built once for all tests of this file.
static GREETER: LazyLock<PathBuf> = LazyLock::new(|| {
    // With the settings of the workspace, and in its target directory: then it shares most of what is compiled.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let built = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["build", "--locked", "--target-dir"])
        .arg(target)
        .current_dir(folder())
        .env("CARGO_PROFILE_DEV_DEBUG", "line-tables-only")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("debug/greeter")
});

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("standalone")
}

/// Starts the application on a registry, with the address to listen on where there is a server in it.
async fn greeter(registry: &str, role: &str, listen: &str) -> Program {
    let executable = tokio::task::spawn_blocking(|| GREETER.clone()).await.unwrap();
    let mut command = tokio::process::Command::new(executable);
    command.args([role, listen]).env("REGISTRY", registry);
    Program::spawn(command)
}

async fn expect_success(program: &mut Program) {
    assert_eq!(program.end().await.code(), Some(0), "{:?}", program.stderr.all());
    assert_eq!(program.stderr.all(), [""; 0]);
}

/// Runs a server and a client in one process.
async fn calls_itself(registry: &str, listen: &str) {
    let mut both = greeter(registry, "both", listen).await;
    let address = both.address().await;
    expect_success(&mut both).await;
    assert_eq!(
        both.stdout.all(),
        [
            format!("listening on {address}"),
            format!("hello Ada, this is {address}"),
            format!("hello Ben, this is {address}"),
        ]
    );
}

/// Runs a server and a client in a process each.
async fn calls_another_process(registry: &str, listen: &str) {
    let mut server = greeter(registry, "server", listen).await;
    let address = server.address().await;
    let mut client = greeter(registry, "client", "").await;
    expect_success(&mut client).await;
    assert_eq!(
        client.stdout.all(),
        [format!("hello Ada, this is {address}"), format!("hello Ben, this is {address}")]
    );
    server.signal(Signal::TERM);
    expect_success(&mut server).await;
    assert_eq!(server.stdout.all(), [format!("listening on {address}")]);
}

#[tokio::test]
async fn it_runs_on_a_registry_in_memory() {
    calls_itself("memory://demo", ANY_PORT).await;
}

#[tokio::test]
async fn it_runs_on_etcd() {
    let etcd = Etcd::start().await;
    let url = format!("etcd://{}/production", etcd.endpoint());
    calls_itself(&url, ANY_PORT).await;
    calls_another_process(&url, ANY_PORT).await;

    let registry = hither::connect(&url).unwrap();
    let left = registry.resolve(&SERVICE.parse().unwrap()).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn it_runs_on_a_list_of_addresses() {
    let port = Port::new();
    let url = format!("static://{}", port.endpoint());
    calls_itself(&url, &port.endpoint()).await;
    calls_another_process(&url, &port.endpoint()).await;
}

#[tokio::test]
async fn a_registry_that_cannot_be_opened_is_one_clear_error() {
    for (registry, error) in [
        (
            "consul://127.0.0.1:8500",
            "error: invalid argument: \"consul\" is no scheme of a registry URL (expected \
             etcd://host:port,host:port/prefix, memory://name or static://host:port,host:port)",
        ),
        (
            "etcd:///demo/greeter",
            "error: invalid argument: registry URL \"etcd:///demo/greeter\" has no endpoint: it is a target; write the \
             registry as etcd://host:port,host:port/prefix, and name the service \"demo/greeter\" apart",
        ),
    ] {
        let mut both = greeter(registry, "both", ANY_PORT).await;
        assert_eq!(both.end().await.code(), Some(1));
        assert_eq!(both.stderr.all(), [error]);
    }
}

/// Otherwise the checks of the workspace's dependencies would not cover it, and it would be compiled from nothing.
#[test]
fn its_dependencies_are_those_of_the_workspace() {
    let workspace = packages(&folder().join("../../Cargo.lock"));
    let surplus: Vec<_> = packages(&folder().join("Cargo.lock")).difference(&workspace).cloned().collect();
    assert_eq!(surplus, ["greeter 0.0.0"]);
}

/// Returns the names and versions in a lock file.
fn packages(lock: &Path) -> BTreeSet<String> {
    let lock = std::fs::read_to_string(lock).unwrap();
    let value = |line: Option<&str>| line.unwrap().split('"').nth(1).unwrap().to_owned();
    let package = |text: &str| {
        let mut lines = text.lines().skip(1);
        format!("{} {}", value(lines.next()), value(lines.next()))
    };
    lock.split("\n\n").filter(|text| text.starts_with("[[package]]")).map(package).collect()
}
