//! Beside what others wrote. Rust and Go in one fleet: the example programs beside peers on Go's own packages, in three
//! versions, on a real etcd (`cases`). A `DiscoveryChannel` beside proxies and servers (`channel`).
//!
//! `cargo xtask interop` builds the peers in Go (`go`), finds or fetches the others, and runs these tests. They are no part
//! of `cargo test`, because they need Go.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod cases;
mod channel;
#[allow(dead_code, reason = "it is shared with the tests of hither-etcd")]
#[path = "../../../backend-etcd/tests/support/etcd.rs"]
mod etcd;
mod fleet;
#[path = "../../../backend-etcd/tests/support/port.rs"]
mod port;
#[allow(dead_code, reason = "it is shared with the walkthrough")]
#[path = "../walkthrough/program.rs"]
mod program;

/// Runs each of these cases beside one version of Go's packages.
macro_rules! cases {
    ($module:ident: $version:literal, $($case:ident)*) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    crate::cases::$case(&crate::fleet::Fleet::start($version).await).await;
                }
            )*
        }
    };
}

/// Runs all cases. A case that is missing here is dead code, which clippy finds.
macro_rules! versions {
    ($($module:ident: $version:literal)*) => {$(
        cases! {
            $module: $version,
            a_go_client_calls_rust_servers
            a_rust_client_calls_go_servers
            both_serve_one_service
            a_rust_server_leaves_and_a_go_client_loses_no_call
            a_rust_server_ends_old_connections_and_a_go_client_loses_no_call
            a_go_server_leaves_and_a_rust_client_loses_no_call
            a_rust_server_crashes
            a_go_server_crashes
            a_go_manager_overwrites_and_deletes_our_record
            the_records_have_the_same_bytes_and_metadata_goes_both_ways
            a_go_client_does_not_survive_an_object_in_metadata
            a_service_name_may_begin_as_another_one
        }
    )*};
}

versions! {
    newest: "newest"
    v3_5_26: "v3.5.26"
    v3_5_9: "v3.5.9"
}
