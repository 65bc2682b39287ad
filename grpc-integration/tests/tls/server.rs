//! What a server requires of its clients, and what its services see of them.

use std::sync::Arc;
use std::time::Duration;

use hither_memory::MemoryRegistry;
use hither_tonic::{ClientTls, ErrorKind, Lifecycle, ServerTls};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::peers::server_config;
use crate::pki::{Ca, Issued, NAME};
use crate::servers::{By, Running};
use crate::support::{Client, SERVICE};
use crate::{call, channel, refused};

fn of(identity: &Issued) -> ServerTls {
    ServerTls::new(&*identity.certificate, &*identity.key)
}

fn trusting(ca: &Ca) -> ClientTls {
    ClientTls::new(ca.pem()).with_server_name(NAME)
}

/// In tonic the address was missing under TLS (grpc/grpc-rust#483).
#[tokio::test]
async fn a_service_sees_the_address_of_the_client_and_its_certificates() {
    let ca = Ca::new();
    let client = ca.issue_below("client");
    for (by, certificates) in [(By::ServeTls, "2"), (By::Serve, "0")] {
        let server = Running::served(of(&ca.issue(NAME)).with_client_ca(ca.pem()), by).await;
        let tls = trusting(&ca).with_identity(&*client.certificate, &*client.key);
        let channel = channel(&[&server.address()], tls).connect().await.unwrap();
        let peer = Client::new(&channel).call("Peer", String::new()).await.unwrap().into_inner();
        let (address, seen) = peer.split_once(' ').unwrap();
        assert!(address.starts_with("127.0.0.1:"), "{peer}");
        assert_eq!(seen, certificates, "{by:?}");
    }
}

#[tokio::test]
async fn tonics_own_client_is_served() {
    let ca = Ca::new();
    let server = Running::start(of(&ca.issue_below(NAME)).with_client_ca(ca.pem())).await;
    let client = ca.issue("client");
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca.pem()))
        .identity(Identity::from_pem(&client.certificate, &client.key))
        .domain_name(NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", server.address)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<String, String>::new();
    let request = tonic::Request::new(String::new());
    let answer = grpc.unary(request, crate::support::path("Name"), codec).await.unwrap();
    assert_eq!(answer.into_inner(), "ours");
}

/// A client that is refused must not end the server (grpc/grpc-rust#1897), and is told why.
#[tokio::test]
async fn certificates_of_clients_are_required_optional_or_not_asked_for() {
    let (ca, stranger) = (Ca::new(), Ca::named("stranger"));
    let (good, bad, late) = (ca.issue("client"), stranger.issue("client"), ca.expired("client"));
    let with = |client: &Issued| trusting(&ca).with_identity(&*client.certificate, &*client.key);
    let plain = Running::start(of(&ca.issue(NAME))).await;
    let optional = of(&ca.issue(NAME)).with_client_ca(ca.pem()).with_optional_client_certificates();
    let optional = Running::start(optional).await;
    let required = Running::start(of(&ca.issue(NAME)).with_client_ca(ca.pem())).await;
    for (server, client, expected) in [
        (&plain, trusting(&ca), None),
        (&plain, with(&bad), None),
        (&optional, trusting(&ca), None),
        (&optional, with(&good), None),
        (&optional, with(&bad), Some("the client's certificate is of an authority that is unknown there")),
        (&required, trusting(&ca), Some("the server ended TLS: it requires a client certificate")),
        (&required, with(&bad), Some("the client's certificate is of an authority that is unknown there")),
        (&required, with(&late), Some("the server ended TLS: the client's certificate has expired")),
        (&required, with(&good), None),
    ] {
        match expected {
            None => assert_eq!(call(&server.address(), client).await.unwrap(), "ours"),
            Some(expected) => {
                let text = refused(&server.address(), client).await;
                assert!(text.contains(expected), "{text}");
            }
        }
    }
}

#[tokio::test]
async fn spiffe_ids_of_clients_are_checked() {
    let ca = Ca::new();
    let tls = of(&ca.issue(NAME))
        .with_client_ca(ca.pem())
        .with_client_spiffe_id("spiffe://a.example/front")
        .with_client_spiffe_trust_domain("b.example");
    let server = Running::start(tls).await;
    for (id, good) in [
        ("spiffe://a.example/front", true),
        ("spiffe://b.example/anything", true),
        ("spiffe://a.example/back", false),
        ("client.internal", false),
    ] {
        let client = ca.issue(id);
        let tls = trusting(&ca).with_identity(&*client.certificate, &*client.key);
        if good {
            assert_eq!(call(&server.address(), tls).await.unwrap(), "ours", "{id}");
        } else {
            let text = refused(&server.address(), tls).await;
            assert!(text.contains("it refuses the client's certificate"), "{text}");
        }
    }
}

#[tokio::test]
async fn settings_of_a_server_that_cannot_be_used_are_one_clear_error() {
    let ca = Ca::new();
    let (server, other) = (ca.issue(NAME), ca.issue(NAME));
    let pem = || of(&server);
    let own = |alpn: &[&str]| ServerTls::rustls(server_config(&server, alpn));
    for (tls, expected) in [
        (ServerTls::new("", &*server.key), "the server certificate has no certificate in it"),
        (ServerTls::new(&*server.certificate, ""), "the server key has no private key in it"),
        (
            ServerTls::new(&*server.certificate, &*other.key),
            "the server key does not belong to the server certificate",
        ),
        (
            ServerTls::from_files("/nowhere/a", "/nowhere/b"),
            "the server certificate /nowhere/a cannot be read",
        ),
        (pem().with_client_ca(""), "the client CA has no certificate in it"),
        (pem().with_client_ca_file("/nowhere/ca"), "the client CA /nowhere/ca cannot be read"),
        (pem().with_optional_client_certificates(), "set ServerTls::with_client_ca"),
        (pem().with_client_spiffe_trust_domain("a.example"), "set ServerTls::with_client_ca"),
        (pem().with_client_ca(ca.pem()).with_client_spiffe_id("x"), "\"x\" is no SPIFFE id"),
        (own(&["http/1.1"]), "offers http/1.1 by ALPN and not h2"),
        (pem().with_handshake_timeout(Duration::ZERO), "ServerTls::with_handshake_timeout is zero"),
        (own(&[]).with_handshake_timeout(Duration::ZERO), "ServerTls::with_handshake_timeout is zero"),
        (own(&[]).with_client_ca(ca.pem()), "with_client_ca and with_client_spiffe_id do not apply"),
    ] {
        let builder = Lifecycle::builder(MemoryRegistry::new()).service(SERVICE).tls(tls);
        let error = builder.bind("127.0.0.1:0").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.report().contains(expected), "{}", error.report());
    }
}

#[tokio::test]
async fn serve_tls_without_tls_is_an_error() {
    let builder = Lifecycle::builder(MemoryRegistry::new()).service(SERVICE);
    let server = builder.bind("127.0.0.1:0").await.unwrap();
    let never = |_, _| Ok(std::future::pending::<hither_tonic::Result<()>>());
    let error = server.serve_tls(never).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("LifecycleBuilder::tls"), "{error}");
}

#[tokio::test]
async fn a_configuration_of_rustls_is_served() {
    let ca = Ca::new();
    for alpn in [&[][..], &["h2", "http/1.1"]] {
        let config = Arc::new(server_config(&ca.issue(NAME), alpn));
        let server = Running::start(ServerTls::rustls(config)).await;
        assert_eq!(call(&server.address(), trusting(&ca)).await.unwrap(), "ours");
    }
}

#[tokio::test]
async fn a_channel_without_tls_is_told_to_use_it() {
    let ca = Ca::new();
    let server = Running::start(of(&ca.issue(NAME))).await;
    let instance = hither_core::Instance::new(server.address.into());
    let discovery = hither_core::Discovery::new(hither_core::StaticRegistry::new([instance]));
    let channel = hither_tonic::DiscoveryChannel::builder(discovery, SERVICE).connect_lazy().unwrap();
    let status = Client::new(&channel).name().await.unwrap_err();
    assert!(status.message().contains("the server speaks TLS, not plain HTTP/2: use .tls()"), "{status}");
}
