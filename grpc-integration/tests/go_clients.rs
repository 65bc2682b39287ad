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
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::Server;

use frame::{END_HEADERS, FrameHeader, HEADER_LEN, HEADERS, PREFACE, frame};

const SOON: Duration = Duration::from_secs(10);
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;

/// What a client sends first.
fn preface() -> Vec<u8> {
    [&PREFACE[..], &frame(4, 0, 0, &[])].concat()
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

/// The kind of the first frame that answers the stream.
async fn answer(connection: &mut (impl AsyncRead + Unpin), stream: u32) -> u8 {
    let read = async {
        loop {
            let mut header = [0; HEADER_LEN];
            connection.read_exact(&mut header).await.unwrap();
            let header = FrameHeader::parse(&header);
            connection.read_exact(&mut vec![0; header.length]).await.unwrap();
            if header.stream == stream && matches!(header.kind, HEADERS | RST_STREAM) {
                return header.kind;
            }
        }
    };
    timeout(SOON, read).await.expect("an answer")
}

async fn server() -> SocketAddr {
    described(|builder| builder).await
}

async fn described(describe: impl FnOnce(LifecycleBuilder) -> LifecycleBuilder) -> SocketAddr {
    let (_, health) = tonic_health::server::health_reporter();
    let builder = Lifecycle::builder(MemoryRegistry::new()).service("team/greeter");
    let server = describe(builder).bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string().parse().unwrap();
    tokio::spawn(server.serve(|incoming, shutdown| {
        Ok(Server::builder().add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
    }));
    address
}

#[tokio::test]
async fn a_go_client_of_a_service_with_a_slash_in_its_name_is_answered() {
    answered(TcpStream::connect(server().await).await.unwrap()).await;
}

#[tokio::test]
async fn a_go_client_of_a_service_with_a_slash_in_its_name_is_answered_under_tls() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["greeter.internal".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()).unwrap();
    let tls = ServerTls::new(certificate, key.serialize_pem());
    let address = described(|builder| builder.tls(tls)).await;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let name = ServerName::try_from("greeter.internal").unwrap();
    let stream = TcpStream::connect(address).await.unwrap();
    answered(connector.connect(name, stream).await.unwrap()).await;
}

async fn answered(mut connection: impl AsyncRead + AsyncWrite + Unpin) {
    connection.write_all(&preface()).await.unwrap();
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
async fn a_call_that_arrives_byte_by_byte_is_answered() {
    let mut connection = TcpStream::connect(server().await).await.unwrap();
    connection.set_nodelay(true).unwrap();
    for byte in [preface(), call(1, &plain("a%2Fb"))].concat() {
        connection.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(answer(&mut connection, 1).await, HEADERS);
}

#[tokio::test]
async fn the_rewriting_of_authorities_can_be_switched_off() {
    let address = described(|builder| builder.rewrite_authority(false)).await;
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(&preface()).await.unwrap();
    connection.write_all(&call(1, &plain("greeter"))).await.unwrap();
    assert_eq!(answer(&mut connection, 1).await, HEADERS);
    connection.write_all(&call(3, &plain("team%2Fgreeter"))).await.unwrap();
    assert_eq!(answer(&mut connection, 3).await, RST_STREAM, "hyper refuses it: see hyperium/http#836");
}
