//! Mutual TLS of others: a server of `Lifecycle` with tonic's TLS, and a `DiscoveryChannel` over hyper-rustls' connector.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::time::Duration;

use hither::Discovery;
use hither::memory::MemoryRegistry;
use hither::tonic::{DiscoveryChannel, Lifecycle, ServiceConnector};
use http::uri::Scheme;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Code, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

type Issuer = CertifiedIssuer<'static, KeyPair>;

#[tokio::test]
async fn a_client_with_a_certificate_is_answered_by_a_server_of_the_expected_name() {
    let authority = authority();
    let registry = serve(&authority).await;
    let answer = call(&registry, client(&authority, &authority), "greeter.internal").await.unwrap();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn a_server_of_another_name_is_never_called() {
    let authority = authority();
    let registry = serve(&authority).await;
    let status = call(&registry, client(&authority, &authority), "other.internal").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("certificate not valid for name"), "{}", status.message());
}

#[tokio::test]
async fn a_server_of_another_authority_is_never_called() {
    let (ours, theirs) = (authority(), authority());
    let registry = serve(&theirs).await;
    let status = call(&registry, client(&ours, &theirs), "greeter.internal").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("invalid peer certificate"), "{}", status.message());
}

#[tokio::test]
async fn a_client_with_a_certificate_of_another_authority_is_refused() {
    let (ours, theirs) = (authority(), authority());
    let registry = serve(&ours).await;
    let status = call(&registry, client(&ours, &theirs), "greeter.internal").await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

fn authority() -> Issuer {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The certificate and the key of `name`, in PEM.
fn issue(authority: &Issuer, name: &str) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap().pem(), key.serialize_pem())
}

/// Starts a registered server that only answers clients with a certificate of `authority`.
async fn serve(authority: &Issuer) -> MemoryRegistry {
    let registry = MemoryRegistry::new();
    let (certificate, key) = issue(authority, "greeter.internal");
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authority.pem()));
    let (_reporter, health) = tonic_health::server::health_reporter();
    let server = Lifecycle::builder(registry.clone()).service("greeter").bind("127.0.0.1:0").await.unwrap();
    tokio::spawn(server.serve(|incoming, shutdown| {
        let mut server = Server::builder().tls_config(tls)?;
        Ok(server.add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
    }));
    registry
}

/// The settings of a client that trusts `trusted`, with a certificate of `issuer`.
fn client(trusted: &Issuer, issuer: &Issuer) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.pem().as_bytes()).unwrap()).unwrap();
    let (certificate, key) = issue(issuer, "client.internal");
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    ClientConfig::builder().with_root_certificates(roots).with_client_auth_cert(chain, key).unwrap()
}

async fn call(
    registry: &MemoryRegistry,
    tls: ClientConfig,
    name: &'static str,
) -> Result<HealthCheckResponse, Status> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(ServerName::try_from(name).unwrap()))
        .enable_http2()
        .build();
    let discovery = Discovery::new(registry.clone());
    // Waits for the registration.
    let service = "greeter".parse().unwrap();
    discovery.service(&service).wait_ready(Duration::from_secs(5)).await.unwrap();
    let channel = DiscoveryChannel::builder(&discovery, "greeter")
        .connector(ServiceConnector::new(connector).with_scheme(Scheme::HTTPS))
        .connect_lazy()?;
    HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(tonic::Response::into_inner)
}
