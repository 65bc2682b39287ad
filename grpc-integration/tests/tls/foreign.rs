//! The other side by others: OpenSSL and curl, as they are installed.

use std::process::Stdio;

use hither_tonic::{ClientTls, ServerTls};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::pki::{Ca, Issued, NAME};
use crate::refused;
use crate::reload::Directory;
use crate::servers::Running;
use crate::support::SOON;

/// The standard output and error of a command that ends by itself.
async fn run(command: &mut Command) -> String {
    let output = timeout(SOON, command.stdin(Stdio::null()).kill_on_drop(true).output());
    let output = output.await.expect("it ends").expect("it is installed");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn files(ca: &Ca, identity: &Issued) -> Directory {
    let files = Directory::new();
    files.put("ca.pem", &ca.pem());
    files.put_identity(identity);
    files
}

#[tokio::test]
async fn openssl_verifies_our_server_by_each_version_of_tls_and_selects_h2() {
    let ca = Ca::new();
    let client = ca.issue("client");
    let files = files(&ca, &client);
    let server = ca.issue_below(NAME);
    let server = ServerTls::new(server.certificate, server.key).with_client_ca(ca.pem());
    let server = Running::start(server).await;
    for (version, shown) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-connect", &server.address(), "-servername", NAME, "-alpn", "h2"]);
        openssl.args(["-verify_hostname", NAME, "-verify_return_error", version]);
        openssl.arg("-CAfile").arg(files.file("ca.pem"));
        openssl.arg("-cert").arg(files.file("cert.pem")).arg("-key").arg(files.file("key.pem"));
        let text = run(&mut openssl).await;
        for expected in ["Verify return code: 0 (ok)", "ALPN protocol: h2", shown] {
            assert!(text.contains(expected), "{text}");
        }
    }
    // Older ones are refused.
    let mut openssl = Command::new("openssl");
    openssl.args(["s_client", "-connect", &server.address(), "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    let text = run(&mut openssl).await;
    assert!(text.contains("Cipher is (NONE)"), "{text}");
}

/// The answer to a gRPC request without a body: a status, in a response of HTTP/2.
#[tokio::test]
async fn curl_is_answered_over_http2() {
    let ca = Ca::new();
    let files = files(&ca, &ca.issue("client"));
    let server = ca.issue(NAME);
    let server = ServerTls::new(server.certificate, server.key).with_client_ca(ca.pem());
    let server = Running::start(server).await;
    let port = server.address.port();
    let curl = || {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--include", "--http2", "--max-time", "5", "-X", "POST"]);
        curl.args(["--noproxy", "*", "--resolve", &format!("{NAME}:{port}:127.0.0.1")]);
        curl.args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
        curl.arg(format!("https://{NAME}:{port}/test.Echo/Name")).arg("--cacert").arg(files.file("ca.pem"));
        curl
    };
    let mut with = curl();
    with.arg("--cert").arg(files.file("cert.pem")).arg("--key").arg(files.file("key.pem"));
    let text = run(&mut with).await;
    assert!(text.contains("HTTP/2 200") && text.contains("grpc-status"), "{text}");
    let text = run(&mut curl()).await;
    assert!(text.contains("certificate required"), "{text}");
}

/// `openssl s_server` on a free port, which it tells.
async fn s_server(files: &Directory, more: &[&str]) -> (Child, String) {
    let mut command = Command::new("openssl");
    command.args(["s_server", "-accept", "127.0.0.1:0"]).args(more);
    command.arg("-cert").arg(files.file("cert.pem")).arg("-key").arg(files.file("key.pem"));
    command.arg("-CAfile").arg(files.file("ca.pem"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("openssl is installed");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let accepting = async {
        loop {
            let line = lines.next_line().await.unwrap().expect("it listens");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                return address.to_owned();
            }
        }
    };
    let address = timeout(SOON, accepting).await.unwrap();
    // What it prints from here on is read, so that it never waits.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let mut errors = child.stderr.take().unwrap();
    tokio::spawn(async move { drop(errors.read_to_end(&mut Vec::new()).await) });
    (child, address)
}

#[tokio::test]
async fn what_openssl_refuses_is_told_in_words() {
    let (ca, stranger) = (Ca::new(), Ca::named("stranger"));
    let files = files(&ca, &ca.issue(NAME));
    let client = |of: &Ca| {
        let client = of.issue("client");
        ClientTls::new(ca.pem()).with_server_name(NAME).with_identity(client.certificate, client.key)
    };
    let plain = || ClientTls::new(ca.pem()).with_server_name(NAME);
    for (more, tls, expected) in [
        (&["-alpn", "http/1.1"][..], plain(), "it does not speak h2 (ALPN)"),
        (&[], plain(), "the server did not select h2 by ALPN"),
        (
            &["-alpn", "h2", "-Verify", "2", "-verify_return_error"],
            plain(),
            "it requires a client certificate",
        ),
        (
            &["-alpn", "h2", "-Verify", "2", "-verify_return_error"],
            client(&stranger),
            "the client's certificate is of an authority that is unknown there",
        ),
        (
            &["-alpn", "h2", "-Verify", "2", "-verify_return_error", "-tls1_2"],
            plain(),
            "no agreement (HandshakeFailure)",
        ),
        (
            &["-alpn", "h2"],
            plain().with_server_name("other"),
            "is not valid for other, only for greeter.internal",
        ),
        (
            &["-alpn", "h2"],
            ClientTls::new(stranger.pem()).with_server_name(NAME),
            "is of an unknown authority",
        ),
    ] {
        let (_child, address) = s_server(&files, more).await;
        let text = refused(&address, tls).await;
        assert!(text.contains(expected), "{more:?}: {text}");
    }
}
