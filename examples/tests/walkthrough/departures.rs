//! Servers that shut down gracefully, and servers that die.

use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::etcd::Etcd;
use crate::port::Port;
use crate::program::{LONG, Program};
use crate::{answer_of, answers_soon, busy_client, failures, record, registry, until_record};

#[tokio::test]
async fn a_graceful_shutdown_fails_no_call() {
    for signal in [Signal::TERM, Signal::INT] {
        let etcd = Etcd::start().await;
        let (registry, raw) = (registry(&etcd), etcd.client().await);
        // Nothing else listens there once it has left.
        let reserved = Port::new();
        let mut leaving = Program::server_on(&reserved, &registry, &[]);
        let staying = Program::server(&registry, &[]);
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
async fn a_second_signal_ends_a_server_and_copies_of_the_first_do_not() {
    let etcd = Etcd::start().await;
    let registry = registry(&etcd);
    let mut server = Program::server(&registry, &["--propagation-delay", "1h"]);
    server.registered().await;
    let began = Instant::now();
    server.signal(Signal::TERM);
    server.stderr.line(|line| line.starts_with("shutting down: ")).await;
    // Those that arrive within a second of the first are its copies.
    let ended = async {
        while timeout(Duration::from_millis(50), server.child.wait()).await.is_err() {
            server.signal(Signal::TERM);
        }
    };
    timeout(LONG, ended).await.expect("the first signal after a second ends it");
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    server.end().await;
}

#[tokio::test]
async fn a_killed_server_fails_at_most_the_call_in_flight_and_its_key_expires_after_the_ttl() {
    let etcd = Etcd::start().await;
    let (registry, raw) = (registry(&etcd), etcd.client().await);
    let ttl = ["--ttl", "5s"];
    let (mut dying, staying) = (Program::server(&registry, &ttl), Program::server(&registry, &ttl));
    let (port, other) = (dying.registered().await, staying.registered().await);
    let client = busy_client(&registry).await;
    assert!(answers_soon(&client, port, 50).await);

    let died = Instant::now();
    dying.signal(Signal::KILL);
    dying.end().await;
    assert!(record(&raw, port).await.is_some(), "its lease lives");
    // The client makes one call after the other, so at most one is in flight.
    assert!(answers_soon(&client, other, 20).await);
    let gone = until_record(&raw, port, false).await;
    assert!(gone < Duration::from_secs(8), "{gone:?} for a TTL of 5 s");
    client.stdout.more(50).await;
    assert!(failures(&client).len() <= 1, "{:?}", failures(&client));
    assert!(record(&raw, other).await.is_some());
    let silence = client.stdout.longest_silence(died);
    assert!(silence < Duration::from_secs(3), "the other one is called at once, not after {silence:?}");
}

#[tokio::test]
async fn a_failed_call_is_printed_with_its_reason_and_the_client_exits_with_1_at_its_end() {
    let etcd = Etcd::start().await;
    let registry = registry(&etcd);
    let mut server = Program::server(&registry, &[]);
    let port = server.registered().await;
    let mut client = Program::client(&registry, &["--count", "1000", "--interval", "5ms", "--timeout", "2s"]);
    client.stdout.more(20).await;

    server.signal(Signal::KILL);
    server.end().await;

    assert_eq!(client.end().await.code(), Some(1), "{:?}", client.stderr.all());
    let lines = client.stdout.all();
    assert_eq!(lines.len(), 1000);
    assert_eq!(lines[0], format!("0: {}", answer_of(port)));
    for (i, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("{i}: ")), "{line}");
    }
    let last = &lines[999];
    assert!(last.starts_with("999: error: UNAVAILABLE: ") && last.contains(&port.to_string()), "{last}");
}
