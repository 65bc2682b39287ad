//! The faults: a registration and a watch live through every fault that a real etcd, or the network to it, can have.
//!
//! `cargo xtask faults` runs them on two versions of etcd, and in part on a third. It takes minutes, so they are no part of
//! `cargo test`. They have a harness of their own, which ends with a table of what each fault came to.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]
#![allow(clippy::large_futures, reason = "a test polls one, and is done")]

mod auth;
mod clocks;
mod cluster;
mod data;
mod history;
mod many;
mod recorded;
mod report;
mod scene;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod way;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use report::{Row, Table};

/// One fault.
#[derive(Clone)]
struct Fault {
    /// `module::function`.
    name: &'static str,
    run: fn() -> Pin<Box<dyn Future<Output = Row>>>,
}

/// Lists the faults of a module. One that is missing in its list is dead code, which clippy finds.
macro_rules! faults {
    ($($(#[$attribute:meta])* $name:ident)*) => {
        pub(crate) fn all() -> Vec<crate::Fault> {
            vec![$(
                $(#[$attribute])*
                crate::Fault {
                    // Without the crate's name.
                    name: concat!(module_path!(), "::", stringify!($name)).trim_start_matches("faults::"),
                    run: || Box::pin($name()),
                },
            )*]
        }
    };
}
use faults;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut faults =
        [auth::all(), cluster::all(), data::all(), many::all(), server::all(), way::all()].concat();
    #[cfg(target_os = "linux")]
    faults.extend(clocks::all());
    #[cfg(feature = "tls")]
    faults.extend(tls::all());

    let table = Arc::<Table>::default();
    let trials = faults.into_iter().enumerate().map(|(number, fault)| {
        let table = Arc::clone(&table);
        Trial::test(fault.name, move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            table.add(number, runtime.unwrap().block_on((fault.run)()));
            Ok(())
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if arguments.list {
        return ExitCode::SUCCESS;
    }
    table.print();
    if conclusion.num_passed + conclusion.num_failed == 0 {
        eprintln!("no fault has such a name");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
