//! etcd's own command line.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Makes the users `server` and `client` of the service `greeter`, by the very commands that the crate's documentation
/// gives, and `root` beside them, which is needed to enable authentication. All have this password. `variables`
/// are further settings of etcdctl.
pub(crate) async fn documented_roles(
    endpoint: String,
    password: &'static str,
    variables: &[(String, String)],
) {
    let variables = variables.to_vec();
    let documented: Vec<_> = include_str!("../../src/lib.rs")
        .lines()
        .filter_map(|line| line.strip_prefix("//! $ etcdctl "))
        .map(|arguments| format!("\"$ETCDCTL\" {arguments}"))
        .collect();
    assert_eq!(documented.len(), 8, "{documented:?}");
    let root = ["\"$ETCDCTL\" user add root:\"$ROOT_PASSWORD\"", "\"$ETCDCTL\" user grant-role root root"];
    let script = root.into_iter().map(str::to_owned).chain(documented).collect::<Vec<_>>().join(" &&\n");
    let done = tokio::task::spawn_blocking(move || {
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env("ETCDCTL", program()).env("ETCDCTL_API", "3");
        command.envs(variables).env("ETCDCTL_ENDPOINTS", endpoint).stdin(Stdio::null());
        for user in ["ROOT", "SERVER", "CLIENT"] {
            command.env(format!("{user}_PASSWORD"), password);
        }
        command.output().unwrap()
    });
    let done = done.await.unwrap();
    let printed = [done.stdout, done.stderr].concat();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&printed));
}

/// `ETCDCTL_BIN`, or what `cargo xtask tools` has fetched, or the system's.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("ETCDCTL_BIN").filter(|named| !named.is_empty()) {
        return named.into();
    }
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/etcdctl");
    if fetched.exists() { fetched } else { "etcdctl".into() }
}
