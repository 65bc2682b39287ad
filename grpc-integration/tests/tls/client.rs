//! Handshakes of a channel, those that succeed and those that fail, and what is said of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hither_core::Address;
use hither_tonic::{ClientTls, Connected, Connector, Destination, TcpConnector};
use rustls::ClientConfig;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tonic::Code;

use crate::peers::{TonicServer, plaintext, server_config, silent, tls};
use crate::pki::{Ca, NAME, roots};
use crate::support::{self, Client, SOON};
use crate::{call, channel, refused};

fn trusting(ca: &Ca) -> ClientTls {
    ClientTls::new(ca.pem()).with_server_name(NAME)
}

/// Google's front ends and strict servers such as Kestrel refuse calls over TLS whose scheme is `http`
/// (grpc/grpc-node#2895).
#[tokio::test]
async fn calls_over_tls_have_the_scheme_https() {
    let ca = Ca::new();
    let server = TonicServer::start(&ca.issue(NAME), None).await;
    let channel = channel(&[&server.address()], trusting(&ca)).connect().await.unwrap();
    let scheme = Client::new(&channel).call("Scheme", String::new()).await.unwrap();
    assert_eq!(scheme.into_inner(), "https");
}

#[tokio::test]
async fn mutual_tls_with_a_chain_of_authorities() {
    let (servers, clients) = (Ca::new(), Ca::named("clients"));
    let server = TonicServer::start(&servers.issue_below(NAME), Some(&clients)).await;
    let client = clients.issue_below("client");
    // Several authorities, in the form that Windows writes. A line feed more at the end was a BadCertificate in
    // linkerd/linkerd2#3880.
    let ca = format!("{}{}\n\n", Ca::new().pem(), servers.pem()).replace('\n', "\r\n");
    let tls = ClientTls::new(ca).with_server_name(NAME);
    let with =
        tls.clone().with_identity(client.certificate.replace('\n', "\r\n"), client.key.replace('\n', "\r\n"));
    assert_eq!(call(&server.address(), with).await.unwrap(), "tonic");

    // The rest of the chain is missing.
    let alone = clients.issue_below("client");
    let first = alone.certificate.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let text = refused(&server.address(), tls.with_identity(first, &*alone.key)).await;
    assert!(
        text.contains(
            "the server ended TLS: the client's certificate is of an authority that is unknown there"
        ),
        "{text}"
    );
}

/// In TLS 1.3 the client's handshake succeeds all the same, and its first write too (rustls/tokio-rustls#38, #83,
/// rustls/rustls#1707).
#[tokio::test]
async fn a_client_certificate_that_is_missing_or_refused_is_what_the_error_says() {
    let (ca, stranger) = (Ca::new(), Ca::named("stranger"));
    let server = TonicServer::start(&ca.issue(NAME), Some(&ca)).await;
    let text = refused(&server.address(), trusting(&ca)).await;
    assert!(text.contains("the server ended TLS: it requires a client certificate"), "{text}");
    for (client, expected) in [
        (stranger.issue("client"), "the client's certificate is of an authority that is unknown there"),
        (ca.expired("client"), "the client's certificate has expired"),
    ] {
        let tls = trusting(&ca).with_identity(&*client.certificate, &*client.key);
        let text = refused(&server.address(), tls).await;
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_good_is_refused_with_the_reason() {
    let (ca, stranger) = (Ca::new(), Ca::named("stranger"));
    let not_yet = ca.with(&[NAME], |params| {
        params.not_before = rcgen::date_time_ymd(2200, 1, 1);
    });
    let own =
        ca.with(&[NAME], |params| params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained));
    let for_clients = ca.with(&[NAME], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    for (issued, expected) in [
        (ca.expired(NAME), "the server's certificate expired "),
        (not_yet, "the server's certificate is not valid yet, only in "),
        (stranger.issue(NAME), "the server's certificate is of an unknown authority: it is signed by none"),
        (
            Ca::new().issue(NAME),
            "the server's certificate is of an unknown authority: a trusted CA has the name",
        ),
        (ca.issue("other.internal"), "is not valid for greeter.internal, only for other.internal at"),
        (own, "the server's certificate is that of an authority itself (CA:TRUE)"),
        (for_clients, "the server's certificate is not for this side of TLS (extended key usage)"),
    ] {
        let server = TonicServer::start(&issued, None).await;
        let text = refused(&server.address(), trusting(&ca)).await;
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_what_the_error_says() {
    let ca = Ca::new();
    let h2 = support::Server::start().await;
    let http1 = plaintext(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let ssh = plaintext(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    for address in [&h2.address, &http1, &ssh] {
        let text = refused(address, trusting(&ca)).await;
        assert!(text.contains("the server does not speak TLS"), "{text}");
    }
    let closing = crate::peers::raw(|stream| async move { drop(stream) }).await;
    let text = refused(&closing, trusting(&ca)).await;
    assert!(text.contains("TLS handshake") || text.contains("reset"), "{text}");
    let puzzled = crate::peers::raw(|mut stream| async move {
        let mut hello = [0; 16 * 1024];
        drop(stream.read(&mut hello).await);
    })
    .await;
    let text = refused(&puzzled, trusting(&ca)).await;
    let expected = "the server closed the connection during the TLS handshake; it may be one without TLS";
    assert!(text.contains(expected), "{text}");
}

/// gRPC requires `h2`, and so do grpc-go and grpc's core (grpc/grpc-go#5814).
#[tokio::test]
async fn a_server_that_does_not_select_h2_is_refused() {
    let ca = Ca::new();
    for (alpn, expected) in
        [(&["http/1.1"][..], "it does not speak h2 (ALPN)"), (&[], "the server did not select h2 by ALPN")]
    {
        let address = tls(server_config(&ca.issue(NAME), alpn)).await;
        let text = refused(&address, trusting(&ca)).await;
        assert!(text.contains(expected), "{text}");
    }
}

#[tokio::test]
async fn the_handshake_is_a_part_of_the_connect_timeout() {
    let ca = Ca::new();
    let builder = channel(&[&silent().await], trusting(&ca)).connect_timeout(Duration::from_millis(100));
    let client = Client::new(&builder.connect_lazy().unwrap());
    let began = Instant::now();
    let status = client.name().await.unwrap_err();
    assert!(began.elapsed() < SOON, "{status}");
    assert!(status.message().contains("within 100ms"), "{status}");
}

#[tokio::test]
async fn a_configuration_of_rustls_is_used_as_it_is() {
    let ca = Ca::new();
    let server = TonicServer::start(&ca.issue(NAME), Some(&ca)).await;
    let client = ca.issue("client");
    let config = |alpn: &[&str]| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(&ca))
            .with_client_auth_cert(client.chain(), client.key())
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        ClientTls::rustls(config).with_server_name(NAME)
    };
    for alpn in [&[][..], &["h2"], &["http/1.1", "h2"]] {
        assert_eq!(call(&server.address(), config(alpn)).await.unwrap(), "tonic");
    }
    let build = |tls| channel(&[&server.address()], tls).connect_lazy().unwrap_err().to_string();
    let text = build(config(&["http/1.1"]));
    assert!(text.contains("offers http/1.1 by ALPN and not h2"), "{text}");
    for tls in [config(&[]).with_identity("a", "b"), config(&[]).with_spiffe_id("spiffe://a/b")] {
        let text = build(tls);
        assert!(text.contains("with_identity and with_spiffe_id do not apply"), "{text}");
    }
}

/// Connects to another port than the registered one.
#[derive(Debug)]
struct Tunnel(Address);

#[async_trait::async_trait]
impl Connector for Tunnel {
    async fn connect(&self, destination: Destination<'_>) -> std::io::Result<Connected> {
        TcpConnector::default().connect(Destination::new(destination.instance(), &self.0)).await
    }
}

#[tokio::test]
async fn tls_goes_over_any_connector_and_the_name_is_that_of_the_registered_address() {
    let ca = Ca::new();
    let server = TonicServer::start(&ca.issue(NAME), None).await;
    let builder = channel(&["greeter.internal:443"], ClientTls::new(ca.pem()));
    let channel = builder.connector(Tunnel(server.address.into())).connect().await.unwrap();
    assert_eq!(Client::new(&channel).name().await.unwrap(), "tonic");
    assert_eq!(server.accepted.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn roots_of_the_platform_and_of_mozilla_know_no_authority_of_ours() {
    let ca = Ca::new();
    let server = TonicServer::start(&ca.issue(NAME), None).await;
    let text = refused(&server.address(), ClientTls::webpki().with_server_name(NAME)).await;
    assert!(text.contains("is of an unknown authority"), "{text}");
    // Some machines have no roots: that is an error of its own.
    let platform = channel(&[&server.address()], ClientTls::platform().with_server_name(NAME));
    match platform.connect_lazy() {
        Ok(channel) => {
            let status = Client::new(&channel).name().await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.message().contains("is of an unknown authority"), "{status}");
        }
        Err(error) => assert!(error.to_string().contains("no root certificates"), "{error}"),
    }
}

/// A peer that closes without close_notify is at its end, as everywhere else in HTTP/2 (tokio-rs/tls#157).
#[tokio::test]
async fn a_server_that_closes_without_close_notify_is_at_its_end() {
    let ca = Ca::new();
    let config = server_config(&ca.issue(NAME), &["h2"]);
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let address = crate::peers::raw(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            // Only the socket below is closed.
            drop(stream.into_inner().0);
        }
    })
    .await;
    let text = refused(&address, trusting(&ca)).await;
    assert!(!text.contains("close_notify") && !text.contains("docs.rs"), "{text}");
}
