//! Clients that do not finish their handshake, or never began one.

use std::io;
use std::time::Duration;

use hither_tonic::{ClientTls, ServerTls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::level_filters::LevelFilter;

use crate::call;
use crate::pki::{Ca, NAME};
use crate::servers::Running;
use crate::support::{Log, SOON, until};

fn tls(ca: &Ca) -> ServerTls {
    let server = ca.issue(NAME);
    ServerTls::new(server.certificate, server.key)
}

fn client(ca: &Ca) -> ClientTls {
    ClientTls::new(ca.pem()).with_server_name(NAME)
}

/// Waits until the peer has closed, however it does that.
async fn closed(mut stream: TcpStream) {
    let mut buf = [0; 1024];
    let read = async { while stream.read(&mut buf).await.is_ok_and(|read| read > 0) {} };
    timeout(SOON, read).await.expect("the server closes the connection");
}

/// The beginning of a ClientHello, of which the rest never comes.
const BEGINNING: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

/// Handshakes in the loop that accepts let one client keep out all others (Govcraft/acton-service#94).
#[tokio::test]
async fn a_hundred_clients_that_never_finish_their_handshake_delay_no_other() {
    let ca = Ca::new();
    let server = Running::start(tls(&ca).with_handshake_timeout(Duration::from_secs(3600))).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(BEGINNING).await.unwrap();
        held.push(stream);
    }
    let builder = crate::channel(&[&server.address()], client(&ca)).connect_timeout(SOON * 100);
    let channel = timeout(SOON, builder.connect()).await.expect("it is connected at once").unwrap();
    assert_eq!(crate::support::Client::new(&channel).name().await.unwrap(), "ours");
}

#[tokio::test]
async fn a_handshake_that_is_not_done_in_time_is_ended() {
    let log = Log::capture();
    let ca = Ca::new();
    let server = Running::start(tls(&ca).with_handshake_timeout(Duration::from_millis(50))).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(BEGINNING).await.unwrap();
    closed(stream).await;
    let mut lines = Vec::new();
    until("the timeout is logged", || {
        lines.extend(log.take());
        lines.iter().any(|line| {
            line.starts_with("WARN TLS handshakes failed") && line.contains("not done within 50ms")
        })
    })
    .await;
}

#[tokio::test]
async fn connections_beyond_the_pending_handshakes_are_served_when_one_ends() {
    let ca = Ca::new();
    let server = Running::start(tls(&ca).with_max_handshakes(3).with_handshake_timeout(SOON * 100)).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(server.address).await.unwrap());
    }
    let builder = crate::channel(&[&server.address()], client(&ca)).connect_timeout(SOON * 100);
    let connecting = tokio::spawn(builder.connect());
    // That they wait is tested beside the code, which alone can tell.
    held.clear();
    timeout(SOON, connecting).await.unwrap().unwrap().unwrap();
}

/// A health check that only connects, and clients without TLS, once ended tonic's server (grpc/grpc-rust#1938).
#[tokio::test]
async fn health_checks_are_no_warning_and_clients_without_tls_are_one_in_half_a_minute() {
    let log = Log::capture_at(LevelFilter::DEBUG);
    let ca = Ca::new();
    let server = Running::start(tls(&ca)).await;
    for _ in 0..10 {
        let stream = TcpStream::connect(server.address).await.unwrap();
        drop(stream);
    }
    let failures = |lines: &[String]| {
        let debug = lines.iter().filter(|line| line.starts_with("DEBUG TLS handshake failed")).count();
        (debug, lines.iter().filter(|line| line.starts_with("WARN")).count())
    };
    let mut lines = Vec::new();
    until("all are logged at DEBUG", || {
        lines.extend(log.take());
        failures(&lines).0 == 10
    })
    .await;
    assert_eq!(failures(&lines).1, 0, "{lines:#?}");
    for _ in 0..10 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        closed(stream).await;
    }
    until("all are logged at DEBUG", || {
        lines.extend(log.take());
        failures(&lines).0 == 20
    })
    .await;
    let warnings: Vec<_> = lines.iter().filter(|line| line.starts_with("WARN")).collect();
    let [warning] = &warnings[..] else { panic!("{lines:#?}") };
    assert!(warning.contains("the client does not speak TLS") && warning.contains("count=1"), "{warning}");
    assert_eq!(call(&server.address(), client(&ca)).await.unwrap(), "ours");
}

#[tokio::test]
async fn connections_in_their_handshake_end_with_the_server() {
    let ca = Ca::new();
    for forced in [false, true] {
        let mut server = Running::start(tls(&ca).with_handshake_timeout(SOON * 100)).await;
        let mut held = Vec::new();
        for _ in 0..5 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(BEGINNING).await.unwrap();
            held.push(stream);
        }
        // All of them are accepted.
        call(&server.address(), client(&ca)).await.unwrap();
        server.stop();
        if forced {
            server.force();
        }
        server.ended().await.unwrap();
        for stream in held {
            closed(stream).await;
        }
    }
}

/// A server that drains, whose calls in flight take longer than that, cuts them under TLS too.
#[tokio::test]
async fn established_connections_are_cut() {
    let ca = Ca::new();
    let mut server = Running::start(tls(&ca)).await;
    let channel = crate::channel(&[&server.address()], client(&ca)).connect().await.unwrap();
    let client = crate::support::Client::new(&channel);
    let mut stream = client.stream("Ticks", String::new()).await.unwrap();
    stream.message().await.unwrap();
    server.stop();
    server.force();
    server.ended().await.unwrap();
    let end = async { while stream.message().await.is_ok_and(|message| message.is_some()) {} };
    timeout(SOON, end).await.expect("the call ends");
}

#[tokio::test]
async fn random_bytes_and_cut_handshakes_do_no_harm() {
    let ca = Ca::new();
    // It is the timeout of the good one too.
    let server = Running::start(tls(&ca).with_handshake_timeout(Duration::from_secs(2))).await;
    let hello = hello().await;
    let mut random = fastrand::Rng::with_seed(3);
    let mut connections = Vec::new();
    for round in 0..200 {
        let mut bytes = hello[..random.usize(..=hello.len())].to_vec();
        for _ in 0..random.usize(..4) {
            if !bytes.is_empty() {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
        }
        if round % 4 == 0 {
            bytes = (0..random.usize(..600)).map(|_| random.u8(..)).collect();
        }
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        // The server may have closed it.
        let _: io::Result<()> = stream.write_all(&bytes).await;
        connections.push(stream);
    }
    assert_eq!(call(&server.address(), client(&ca)).await.unwrap(), "ours");
    for stream in connections {
        closed(stream).await;
    }
}

/// What rustls sends first.
async fn hello() -> Vec<u8> {
    let (sent, received) = tokio::sync::oneshot::channel();
    let sent = std::sync::Mutex::new(Some(sent));
    let address = crate::peers::raw(move |mut stream| {
        let sent = sent.lock().unwrap().take();
        async move {
            let mut buf = vec![0; 4096];
            let read = stream.read(&mut buf).await.unwrap();
            buf.truncate(read);
            if let Some(sent) = sent {
                sent.send(buf).unwrap();
            }
        }
    })
    .await;
    let ca = Ca::new();
    let _ = call(&address, client(&ca)).await;
    received.await.unwrap()
}

/// A socket that is closed with something unread resets the connection, and the alert may be lost.
#[tokio::test]
async fn a_client_that_was_refused_while_it_sends_reads_the_alert_and_the_end() {
    let ca = Ca::new();
    let server = Running::start(tls(&ca)).await;
    // A ClientHello with nothing in it, and much more than is read at a time.
    let hello = [&[0x16, 3, 1, 0, 4, 1, 0, 0, 0][..], &[0; 60_000]].concat();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        let mut answer = Vec::new();
        let read = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the server closes its side");
        read.expect("and does not reset the connection");
        assert_eq!(answer.first(), Some(&0x15), "an alert: {answer:?}");
    }
}
