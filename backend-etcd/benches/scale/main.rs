//! How it does at scale, beside etcd-client used raw: on the same etcd, in the same run, turn by turn.
//!
//! `cargo bench -p hither-etcd` prints the table; it ends with an error when a bound does not hold. `ETCD_BIN` names
//! another etcd.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a bench that cannot go on ends")]
#![allow(clippy::large_futures, reason = "each is there once")]

mod door;
mod propagation;
mod registrations;
mod restart;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;

use std::process::ExitCode;

use table::Table;

#[tokio::main]
async fn main() -> ExitCode {
    door::check();
    let mut table = Table::default();
    registrations::measure(&mut table).await;
    propagation::measure(&mut table).await;
    restart::measure(&mut table).await;
    table.end()
}
