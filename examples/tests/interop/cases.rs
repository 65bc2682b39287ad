//! What has to hold between Rust and Go.

use rustix::process::Signal;

use crate::fleet::{Fleet, Record, SERVICE, all_answer, answered, calls_while, failed, port, prints};

pub(crate) async fn a_go_client_calls_rust_servers(fleet: &Fleet) {
    let ((_a, a), (_b, b)) = (fleet.rust_server(&[]).await, fleet.rust_server(&[]).await);
    all_answer(fleet.go_client("60"), &[&a, &b]).await;
}

pub(crate) async fn a_rust_client_calls_go_servers(fleet: &Fleet) {
    let ((_a, a), (_b, b)) = (fleet.go_server(&["-lease", "5s"]).await, fleet.go_server(&[]).await);
    all_answer(fleet.rust_client("60"), &[&a, &b]).await;
}

pub(crate) async fn both_serve_one_service(fleet: &Fleet) {
    let (_a, a) = fleet.rust_server(&["--zone", "z"]).await;
    let (_b, b) = fleet.go_server(&["-lease", "5s"]).await;
    all_answer(fleet.go_client("60"), &[&a, &b]).await;
    all_answer(fleet.rust_client("60"), &[&a, &b]).await;
}

/// Its record changes as it drains, in ways that Go's clients of 2025 do not survive in the metadata.
pub(crate) async fn a_rust_server_leaves_and_a_go_client_loses_no_call(fleet: &Fleet) {
    let (mut leaving, address) = fleet.rust_server(&["--zone", "z", "--meta", "shard=3"]).await;
    let (_stays, _) = fleet.go_server(&["-lease", "5s"]).await;
    let client = fleet.go_client("100000");
    fleet.go_lists(&address, true).await;
    assert_eq!(calls_while(&client, &mut leaving, &address, Signal::TERM).await, 0);
    fleet.until_record(&address, "gone", |record| record.is_none()).await;
    fleet.go_lists(&address, false).await;
}

/// GOAWAY of a server whose connections end after 0.1 s, while the client calls for some 2 s.
pub(crate) async fn a_rust_server_ends_old_connections_and_a_go_client_loses_no_call(fleet: &Fleet) {
    let (server, address) =
        fleet.rust_server_logging("hither=debug", &["--max-connection-age", "100ms"]).await;
    all_answer(fleet.go_client("400"), &[&address]).await;
    let ended = server.stderr.count(|line| line.contains("connection has reached its maximum age"));
    assert!(ended >= 5, "{ended} connections have reached their age");
}

pub(crate) async fn a_go_server_leaves_and_a_rust_client_loses_no_call(fleet: &Fleet) {
    let (mut leaving, address) = fleet.go_server(&["-lease", "5s"]).await;
    let (_stays, _) = fleet.rust_server(&[]).await;
    let (client, watch) = (fleet.rust_client("100000"), fleet.watch());
    prints(&watch, &format!("+ {address}")).await;
    assert_eq!(calls_while(&client, &mut leaving, &address, Signal::TERM).await, 0);
    fleet.until_record(&address, "gone", |record| record.is_none()).await;
    prints(&watch, &format!("- {address}")).await;
}

/// The client has one call in flight, which may fail.
pub(crate) async fn a_rust_server_crashes(fleet: &Fleet) {
    let (mut dying, address) = fleet.rust_server(&["--ttl", "2s"]).await;
    let (_stays, _) = fleet.go_server(&["-lease", "5s"]).await;
    let client = fleet.go_client("100000");
    fleet.go_lists(&address, true).await;
    assert!(calls_while(&client, &mut dying, &address, Signal::KILL).await <= 1);
    fleet.until_record(&address, "gone after its TTL", |record| record.is_none()).await;
    fleet.go_lists(&address, false).await;
}

/// The client has one call in flight, which may fail.
pub(crate) async fn a_go_server_crashes(fleet: &Fleet) {
    let (mut dying, address) = fleet.go_server(&["-lease", "2s"]).await;
    let (_stays, _) = fleet.rust_server(&[]).await;
    let (client, watch) = (fleet.rust_client("100000"), fleet.watch());
    prints(&watch, &format!("+ {address}")).await;
    assert!(calls_while(&client, &mut dying, &address, Signal::KILL).await <= 1);
    fleet.until_record(&address, "gone after its TTL", |record| record.is_none()).await;
    prints(&watch, &format!("- {address}")).await;
}

pub(crate) async fn a_go_manager_overwrites_and_deletes_our_record(fleet: &Fleet) {
    // Long enough for no other lease to be needed.
    let (_server, address) = fleet.rust_server(&["--ttl", "10s", "--zone", "ours"]).await;
    let is_leased = |record: Option<&Record>| record.is_some_and(|record| record.lease != 0);
    let lease = fleet.until_record(&address, "on a lease", is_leased).await.unwrap().lease;
    // A lease that etcd still has is kept, and not left behind for another one.
    let is_ours = |record: Option<&Record>| {
        record.is_some_and(|record| record.value.contains("ours") && record.lease == lease)
    };
    fleet.go_done("put", &["-addr", &address]).await;
    fleet.until_record(&address, &format!("ours again, and on lease {lease}"), is_ours).await;
    fleet.go_done("delete", &["-addr", &address]).await;
    fleet.until_record(&address, &format!("put back, on lease {lease}"), is_ours).await;
}

pub(crate) async fn the_records_have_the_same_bytes_and_metadata_goes_both_ways(fleet: &Fleet) {
    for advertised in ["127.0.0.1:8001", "[::1]:8001", "unix:///run/discover.sock"] {
        let (mut server, _) = fleet.rust_server(&["--advertise", advertised]).await;
        let ours = fleet.record(advertised).await.expect("Rust's record");
        server.signal(Signal::TERM);
        server.end().await;
        fleet.go_done("put", &["-addr", advertised]).await;
        let theirs = fleet.record(advertised).await.expect("Go's record");
        assert_eq!(ours.value, theirs.value);
        fleet.go_done("put", &["-addr", advertised, "-metadata", r#"{"shard":"3"}"#]).await;
        let watched = prints(&fleet.watch(), r#"shard="3""#).await;
        assert!(watched.contains(&format!("+ {advertised} ")), "Rust sees {watched:?}");
        fleet.go_done("delete", &["-addr", advertised]).await;
    }

    let (_server, address) = fleet.rust_server(&["--zone", "z", "--version", "1", "--meta", "shard=3"]).await;
    let listed = fleet.go_done("list", &[]).await;
    assert!(listed.iter().any(|line| line.ends_with(&format!("{address} null"))), "Go lists {listed:?}");
    all_answer(fleet.go_client("5"), &[&address]).await;
}

/// The reason why our `Metadata` is null. With an object there, grpc 1.71 takes the address for another one, and waits
/// for ever for the connection that it has; a second object it compares with the first, and Go ends a program that
/// compares those. Other versions survive both.
pub(crate) async fn a_go_client_does_not_survive_an_object_in_metadata(fleet: &Fleet) {
    let (_server, address) = fleet.go_server(&[]).await;
    // Where it waits for ever, that is waited for.
    let timeout = if fleet.version == "v3.5.26" { "1s" } else { "5s" };
    let mut client = fleet.go("client", &["-count", "100000", "-interval", "5ms", "-timeout", timeout]);
    let put = async |object| fleet.go_done("put", &["-addr", &address, "-metadata", object]).await;
    client.stdout.more(20).await;
    put(r#"{"a":"b"}"#).await;
    if fleet.version == "v3.5.26" {
        prints(&client, "DeadlineExceeded").await;
        put(r#"{"a":"c"}"#).await;
        let panics = "panic: runtime error: comparing uncomparable type map[string]interface {}";
        client.stderr.line(|line| line.contains(panics)).await;
        assert!(!client.end().await.success(), "its panic is a success");
        return;
    }
    client.stdout.more(100).await;
    put(r#"{"a":"c"}"#).await;
    client.stdout.more(100).await;
    assert_eq!(failed(&client), 0);
}

/// Go's packages up to 3.5.9 ask for `svc` and not for `svc/`, and get `svc2` on top.
pub(crate) async fn a_service_name_may_begin_as_another_one(fleet: &Fleet) {
    let other = format!("{SERVICE}2");
    let (_a, a) = fleet.rust_server(&[]).await;
    let (mut foreign, b) = fleet.rust_server_of(&other, &[]).await;
    let listed = fleet.go_done("list", &[]).await;
    let called = answered(fleet.go_client("60")).await;
    let expected = if fleet.version == "v3.5.9" { vec![&a, &b] } else { vec![&a] };
    let is_listed = |address: &&String| listed.iter().any(|line| line.contains(address.as_str()));
    assert!(
        expected.iter().all(is_listed) && listed.len() == expected.len(),
        "of {expected:?} Go lists {listed:?}"
    );
    assert_eq!(called, expected.iter().map(|address| port(address).to_owned()).collect());

    // A client of hither sees its own service only, whatever changes in the other one.
    let watch = fleet.watch();
    prints(&watch, &format!("+ {a}")).await;
    all_answer(fleet.rust_client("60"), &[&a]).await;
    foreign.signal(Signal::TERM);
    foreign.end().await;
    let (_foreign, d) = fleet.rust_server_of(&other, &[]).await;
    let (third, c) = fleet.rust_server(&[]).await;
    prints(&watch, &format!("+ {c}")).await;
    let seen = [watch.stdout.all(), vec![prints(&third, "present: ").await]].concat();
    for foreign in [b, d] {
        assert!(
            !seen.iter().any(|line| line.contains(&foreign)),
            "Rust sees a service beside its own: {seen:?}"
        );
    }
}
