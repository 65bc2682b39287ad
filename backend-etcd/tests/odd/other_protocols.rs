//! Members that fail, servers that are not etcd, and proxies without a server.

use hither_core::{ErrorKind, Resolver};
use hither_etcd::EtcdConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::{Code, Status};

use crate::support::fake::{Fake, Script};
use crate::support::{hasty, ids};
use crate::{connect, resolve, svc};

/// etcd-io/etcd#8515, #7941, jetcd#208: a client stays with a member that answers with errors.
#[tokio::test]
async fn an_unknown_error_of_a_member_leads_to_the_next_one() {
    for code in [
        Code::Unknown,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Aborted,
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::Unimplemented,
        Code::ResourceExhausted,
    ] {
        for text in ["etcdserver: something new", "something else", ""] {
            assert_leaves(Status::new(code, text)).await;
        }
    }
    for (code, text) in [
        (Code::DataLoss, "etcdserver: corrupt cluster"),
        (Code::FailedPrecondition, "etcdserver: cluster ID mismatch"),
        (Code::FailedPrecondition, "etcdserver: not leader"),
        (Code::Unavailable, "etcdserver: request timed out, waiting for the applied index took too long"),
    ] {
        assert_leaves(Status::new(code, text)).await;
    }
}

async fn assert_leaves(status: Status) {
    let failing = status.clone();
    let bad = Fake::start(Script::default().range(move |_, _| Err(failing.clone()))).await;
    let good = Fake::start(Script::default()).await;
    let registry = connect(EtcdConfig::new([bad.endpoint(), good.endpoint()]));
    let mut failures = 0;
    for _ in 0..3 {
        match registry.resolve(&svc()).await {
            Ok(snapshot) => assert_eq!(ids(&snapshot), ["a"]),
            Err(error) => {
                assert!(error.is_retryable() || status.code() == Code::Unimplemented, "{error:?}");
                failures += 1;
            }
        }
    }
    assert!(failures <= 1, "{status:?}: {failures} of 3 calls failed");
}

#[tokio::test]
async fn a_member_without_a_leader_is_passed_over() {
    let alone = Fake::start(Script::default().leader(0)).await;
    let good = Fake::start(Script::default()).await;
    for _ in 0..4 {
        let registry = connect(EtcdConfig::new([alone.endpoint(), good.endpoint()]));
        assert_eq!(ids(&registry.resolve(&svc()).await.unwrap()), ["a"]);
    }
    assert_eq!(alone.counts().ranges, 0);
}

/// Listens, and answers every connection with `answer`; none: closes it.
async fn not_an_etcd(answer: Option<&'static [u8]>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = vec![0; 1024];
                let _ = client.read(&mut read).await;
                let Some(answer) = answer else { return };
                let _ = client.write_all(answer).await;
                while let Ok(1..) = client.read(&mut read).await {}
            });
        }
    });
    (endpoint, server)
}

#[tokio::test]
async fn a_server_that_is_not_etcd_is_an_error_and_the_next_endpoint_is_used() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    for (what, answer) in [
        ("closes", None),
        ("silence", Some(&b""[..])),
        ("HTTP/1.1", Some(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>no</html>")),
        ("HTML", Some(b"<html><body>It works!</body></html>")),
        ("SSH", Some(b"SSH-2.0-OpenSSH_9.6\r\n")),
        ("Redis", Some(b"-ERR unknown command\r\n")),
        ("TLS", Some(&[0x15, 3, 3, 0, 2, 2, 0x46])),
        ("HTTP/2 and nothing else", Some(SETTINGS)),
        ("zeros", Some(&[0; 4096])),
        ("ones", Some(&[0xff; 4096])),
    ] {
        let (endpoint, server) = not_an_etcd(answer).await;
        let error = connect(hasty(endpoint.clone())).resolve(&svc()).await.expect_err(what);
        assert!(error.is_retryable(), "{what}: {error:?}");
        assert!([ErrorKind::Unavailable, ErrorKind::Timeout].contains(&error.kind()), "{what}: {error:?}");
        let good = Fake::start(Script::default()).await;
        let config = EtcdConfig::new([endpoint, good.endpoint()]);
        assert_eq!(ids(&connect(config).resolve(&svc()).await.expect(what)), ["a"], "{what}");
        server.abort();
    }
}

/// A gRPC server that has other services, or a proxy before no server.
#[tokio::test]
async fn a_grpc_server_that_is_not_etcd_is_an_error() {
    for status in [
        Status::unimplemented(""),
        Status::unimplemented("unknown service etcdserverpb.KV"),
        Status::unavailable("upstream connect error or disconnect/reset before headers"),
        Status::unknown("grpc-status header missing, mapped from HTTP status code 502"),
        Status::permission_denied("RBAC: access denied"),
        Status::unauthenticated("Jwt is missing"),
        Status::not_found("no route"),
        Status::ok(""),
    ] {
        let failing = status.clone();
        let fake = Fake::start(Script::default().range(move |_, _| Err(failing.clone()))).await;
        let error = resolve(&fake).await.unwrap_err();
        assert!(error.is_retryable(), "{status:?}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{status:?}: {error:?}");
    }
}
