//! curl, as one looks at a server by hand.

use tokio::process::Command;

use super::peer::executable;
use super::upstream::Upstream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_calls_a_server_of_lifecycle() {
    let server = Upstream::start().await;
    let output = Command::new(executable("CURL_BIN"))
        .args(["--silent", "--show-error", "--http2-prior-knowledge", "--include", "--max-time", "10"])
        .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
        .arg(format!("http://{}/grpc.testing.TestService/Nothing", server.address))
        .output()
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.starts_with("HTTP/2 200"), "{text}");
    assert!(text.contains("grpc-status: 12"), "{text}");
}
