//! nghttp2's server, which is no gRPC server, and its load generator.

use tokio::process::Command;
use tonic::Code;

use super::connect;
use super::peer::{Peer, executable};
use super::testing::Empty;
use super::upstream::Upstream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_files_is_named_in_the_error() {
    let nghttpd = Peer::nghttpd().await;
    let status = connect(&[&nghttpd.address]).await.empty_call(Empty {}).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status:?}");
    for word in ["404", "text/html"] {
        assert!(status.message().contains(word), "{word} is not in {:?}", status.message());
    }
}

/// Its frames are those of another client's: empty messages, 4 connections of 32 streams each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2load_gets_all_of_its_answers_from_a_server_of_lifecycle() {
    let (server, directory) = (Upstream::start().await, tempfile::tempdir().unwrap());
    let message = directory.path().join("message");
    std::fs::write(&message, [0; 5]).unwrap();
    let mut command = Command::new(executable("H2LOAD_BIN"));
    command.args([
        "-n",
        "2000",
        "-c",
        "4",
        "-m",
        "32",
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        "-d",
    ]);
    command.arg(message).arg(format!("http://{}/grpc.testing.TestService/EmptyCall", server.address));
    let output = command.output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("status codes: 2000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{text}");
    assert!(text.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{text}");
}
