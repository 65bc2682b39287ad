//! Clients that send what Go's send, byte for byte, over a real socket.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::net::SocketAddr;
use std::time::Duration;

use hither_memory::MemoryRegistry;
use hither_tonic::Lifecycle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::Server;

const SOON: Duration = Duration::from_secs(10);
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A string of HPACK's, not compressed.
fn plain(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// A string of HPACK's from its compressed bytes.
fn compressed(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
    [&[0x80 | u8::try_from(bytes.len()).unwrap()], &bytes[..]].concat()
}

/// A call of the health service, with this `:authority`.
fn call(stream: u8, authority: &[u8]) -> Vec<u8> {
    let block = [
        &[0x83, 0x86, 0x44][..], // :method POST, :scheme http, :path
        &plain("/grpc.health.v1.Health/Check"),
        &[0x41], // :authority
        authority,
        &[0x5f], // content-type
        &plain("application/grpc"),
        &[0x40],
        &plain("te"),
        &plain("trailers"),
    ]
    .concat();
    let headers = frame(HEADERS, END_HEADERS, stream, &block);
    [headers, frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

/// The kind of the first frame that answers the stream.
async fn answer(connection: &mut TcpStream, stream: u8) -> u8 {
    let read = async {
        loop {
            let mut header = [0; 9];
            connection.read_exact(&mut header).await.unwrap();
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            connection.read_exact(&mut payload).await.unwrap();
            if header[8] == stream && matches!(header[3], HEADERS | RST_STREAM) {
                return header[3];
            }
        }
    };
    timeout(SOON, read).await.expect("an answer")
}

async fn server() -> SocketAddr {
    let (_, health) = tonic_health::server::health_reporter();
    let server =
        Lifecycle::builder(MemoryRegistry::new()).service("team/greeter").bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr();
    tokio::spawn(server.serve(|incoming, shutdown| {
        Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
    }));
    address
}

#[tokio::test]
async fn a_go_client_of_a_service_with_a_slash_in_its_name_is_answered() {
    let mut connection = TcpStream::connect(server().await).await.unwrap();
    let greeting = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat();
    connection.write_all(&greeting).await.unwrap();
    let authorities = [
        plain("greeter"),
        plain("grpc-demo%2Fgrpc%2Fdiscover-demo"),
        // The same, as Go's encoder compresses it; and the path that older ones send.
        compressed("9acac8b485a4ea8b0cd656454586432087ee5b1690b49f"),
        compressed("62cb6a626b0a5496c5d07275"),
    ];
    for (stream, authority) in (1..).step_by(2).zip(&authorities) {
        connection.write_all(&call(stream, authority)).await.unwrap();
        assert_eq!(answer(&mut connection, stream).await, HEADERS, "{authority:x?}");
    }
}

#[tokio::test]
async fn bytes_that_come_one_by_one_are_a_call_all_the_same() {
    let mut connection = TcpStream::connect(server().await).await.unwrap();
    connection.set_nodelay(true).unwrap();
    let greeting = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..]].concat();
    for byte in [greeting, call(1, &plain("a%2Fb"))].concat() {
        connection.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(answer(&mut connection, 1).await, HEADERS);
}
