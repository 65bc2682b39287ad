//! Clients that send what Go's send, byte for byte, over a real socket.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "not all of it is needed here")]
#[path = "../src/http2/frame.rs"]
mod frame;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hither_memory::MemoryRegistry;
use hither_tonic::{Lifecycle, LifecycleBuilder, ServerTls};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::Server;
use tower::util::MapRequestLayer;

use frame::{END_HEADERS, FrameHeader, HEADER_LEN, HEADERS, PREFACE, frame};

const SOON: Duration = Duration::from_secs(10);
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// What a client sends first. Without a table for headers (SETTINGS_HEADER_TABLE_SIZE), each response has its own in full.
fn preface() -> Vec<u8> {
    [&PREFACE[..], &frame(4, 0, 0, &[0, 1, 0, 0, 0, 0])].concat()
}

/// An HPACK string, not compressed.
fn plain(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

/// An HPACK string from its Huffman coded bytes.
fn compressed(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
    [&[0x80 | u8::try_from(bytes.len()).unwrap()], &bytes[..]].concat()
}

/// A call of the health service, with this `:authority`.
fn call(stream: u32, authority: &[u8]) -> Vec<u8> {
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

/// The frames of the stream until it ends: their kinds and payloads.
async fn answer(connection: &mut (impl AsyncRead + Unpin), stream: u32) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    let read = async {
        loop {
            let mut header = [0; HEADER_LEN];
            connection.read_exact(&mut header).await.unwrap();
            let header = FrameHeader::parse(&header);
            let mut payload = vec![0; header.length];
            connection.read_exact(&mut payload).await.unwrap();
            if header.stream != stream {
                continue;
            }
            frames.push((header.kind, payload));
            if header.kind == RST_STREAM || matches!(header.kind, HEADERS | DATA) && header.has(END_STREAM) {
                return;
            }
        }
    };
    timeout(SOON, read).await.expect("an answer");
    frames
}

/// `:status: 200`, of the static table.
const STATUS_200: u8 = 0x88;
/// `grpc-status: 0`, compressed.
const GRPC_STATUS_0: &[u8] = &[0x88, 0x9a, 0xca, 0xc8, 0xb2, 0x12, 0x34, 0xda, 0x8f, 0x81, 0x07];
/// The response: SERVING.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];

/// Checks that the call has succeeded.
async fn succeeds(connection: &mut (impl AsyncRead + Unpin), stream: u32) {
    let frames = answer(connection, stream).await;
    let [(HEADERS, head), (DATA, message), (HEADERS, trailers)] = &frames[..] else { panic!("{frames:x?}") };
    // After the change of the table's size, in the first one.
    assert!(head.iter().find(|byte| **byte != 0x20) == Some(&STATUS_200), "{head:x?}");
    assert_eq!(message, SERVING);
    assert!(trailers.windows(GRPC_STATUS_0.len()).any(|part| part == GRPC_STATUS_0), "{trailers:x?}");
}

/// A server of health, and the authorities that its service sees.
struct Target {
    address: SocketAddr,
    authorities: mpsc::UnboundedReceiver<String>,
}

async fn server() -> Target {
    described(|builder| builder).await
}

async fn described(describe: impl FnOnce(LifecycleBuilder) -> LifecycleBuilder) -> Target {
    let (_, health) = tonic_health::server::health_reporter();
    let (seen, authorities) = mpsc::unbounded_channel();
    let look = MapRequestLayer::new(move |request: http::Request<tonic::body::Body>| {
        seen.send(request.uri().authority().unwrap().to_string()).unwrap();
        request
    });
    let builder = Lifecycle::builder(MemoryRegistry::new()).service("team/greeter");
    let server = describe(builder).bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string().parse().unwrap();
    tokio::spawn(server.serve(|incoming, shutdown| {
        Ok(Server::builder().layer(look).add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
    }));
    Target { address, authorities }
}

#[tokio::test]
async fn a_go_client_of_a_service_with_a_slash_in_its_name_is_answered() {
    let target = server().await;
    answered(TcpStream::connect(target.address).await.unwrap(), target.authorities).await;
}

#[tokio::test]
async fn a_go_client_of_a_service_with_a_slash_in_its_name_is_answered_under_tls() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["greeter.internal".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let tls = ServerTls::new(certificate, key.serialize_pem());
    let target = described(|builder| builder.tls(tls)).await;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("greeter.internal").unwrap();
    let stream = TcpStream::connect(target.address).await.unwrap();
    answered(connector.connect(name, stream).await.unwrap(), target.authorities).await;
}

async fn answered(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    mut authorities: mpsc::UnboundedReceiver<String>,
) {
    connection.write_all(&preface()).await.unwrap();
    let sent = [
        (plain("greeter"), "greeter"),
        (plain("grpc-demo%2Fgrpc%2Fdiscover-demo"), "grpc-demo.2Fgrpc.2Fdiscover-demo"),
        // The same, as Go's encoder compresses it; and the path that older ones send.
        (compressed("9acac8b485a4ea8b0cd656454586432087ee5b1690b49f"), "grpc-demo.2Fgrpc.2Fdiscover-demo"),
        (compressed("62cb6a626b0a5496c5d07275"), ".run.greeter.sock"),
    ];
    for (stream, (authority, seen)) in (1..).step_by(2).zip(&sent) {
        connection.write_all(&call(stream, authority)).await.unwrap();
        succeeds(&mut connection, stream).await;
        assert_eq!(authorities.try_recv().unwrap(), *seen);
    }
}

#[tokio::test]
async fn a_call_that_arrives_byte_by_byte_is_answered() {
    let mut target = server().await;
    let mut connection = TcpStream::connect(target.address).await.unwrap();
    connection.set_nodelay(true).unwrap();
    for byte in [preface(), call(1, &plain("a%2Fb"))].concat() {
        connection.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    succeeds(&mut connection, 1).await;
    assert_eq!(target.authorities.try_recv().unwrap(), "a.2Fb");
}

#[tokio::test]
async fn the_rewriting_of_authorities_can_be_switched_off() {
    let target = described(|builder| builder.rewrite_authority(false)).await;
    let mut connection = TcpStream::connect(target.address).await.unwrap();
    connection.write_all(&preface()).await.unwrap();
    connection.write_all(&call(1, &plain("greeter"))).await.unwrap();
    succeeds(&mut connection, 1).await;
    connection.write_all(&call(3, &plain("team%2Fgreeter"))).await.unwrap();
    let frames = answer(&mut connection, 3).await;
    assert!(matches!(frames[..], [(RST_STREAM, _)]), "hyper refuses it (hyperium/http#836): {frames:x?}");
}
