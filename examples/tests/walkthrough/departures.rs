//! Servers leave, with and without a word.

use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::etcd::Etcd;
use crate::program::Program;
use crate::{answers_soon, busy_client, failures, record, registry, until_record};

#[tokio::test]
async fn a_server_that_is_asked_to_leave_costs_no_call() {
    for signal in [Signal::TERM, Signal::INT] {
        let etcd = Etcd::start().await;
        let (registry, raw) = (registry(&etcd), etcd.client().await);
        let (mut leaving, staying) = (Program::server(&registry, &[]), Program::server(&registry, &[]));
        let (port, other) = (leaving.registered().await, staying.registered().await);
        let client = busy_client(&registry).await;
        assert!(answers_soon(&client, port, 50).await);

        leaving.signal(signal);
        until_record(&raw, port, false).await;
        TcpStream::connect(("127.0.0.1", port)).await.expect("its key is gone before it stops accepting");
        assert_eq!(leaving.end().await.code(), Some(0), "{:?}", leaving.stderr.all());
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err());

        assert!(answers_soon(&client, other, 50).await);
        assert!(!answers_soon(&client, port, 50).await);
        assert_eq!(failures(&client), [""; 0]);
    }
}

#[tokio::test]
async fn a_second_signal_ends_a_server_at_once() {
    let etcd = Etcd::start().await;
    let registry = registry(&etcd);
    let mut server = Program::server(&registry, &["--drain", "1h"]);
    server.registered().await;
    server.signal(Signal::TERM);
    server.stderr.line(|line| line.starts_with("leaving: ")).await;
    server.signal(Signal::TERM);
    server.end().await;
}

#[tokio::test]
async fn a_server_that_is_killed_costs_at_most_the_call_under_way_and_its_key_goes_after_the_ttl() {
    let etcd = Etcd::start().await;
    let (registry, raw) = (registry(&etcd), etcd.client().await);
    let ttl = ["--ttl", "2s"];
    let (mut dying, staying) = (Program::server(&registry, &ttl), Program::server(&registry, &ttl));
    let (port, other) = (dying.registered().await, staying.registered().await);
    let client = busy_client(&registry).await;
    assert!(answers_soon(&client, port, 50).await);

    dying.signal(Signal::KILL);
    dying.end().await;
    assert!(record(&raw, port).await.is_some(), "nobody has taken its record away");
    // The client calls one after the other, so there is at most one under way.
    assert!(answers_soon(&client, other, 20).await);
    let gone = until_record(&raw, port, false).await;
    assert!(gone < Duration::from_secs(5), "{gone:?} for a TTL of 2 s");
    client.stdout.more(50).await;
    assert!(failures(&client).len() <= 1, "{:?}", failures(&client));
    assert!(record(&raw, other).await.is_some());
}
