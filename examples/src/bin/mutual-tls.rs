//! Mutual TLS: a server that requires a certificate of its clients and sees whose it is, and a channel that has one.
//!
//! `cargo run -p hither-examples --bin mutual-tls`

use std::error::Error;

use hither::Discovery;
use hither::memory::MemoryRegistry;
use hither::tonic::{ClientTls, DiscoveryChannel, Lifecycle, ServerTls};
use hither_examples::logging;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tonic::transport::Server;
use tonic::{Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    logging::init();
    let authority = Authority::new()?;
    let registry = MemoryRegistry::new();

    // The server: files would be `ServerTls::from_files(..)`, and read again when they are replaced.
    let (certificate, key) = authority.issue("greeter.internal")?;
    let tls = ServerTls::new(certificate, key).with_client_ca(authority.pem());
    let server = Lifecycle::builder(registry.clone()).service("greeter").tls(tls).bind("127.0.0.1:0").await?;
    let health = HealthService::from_health_reporter(HealthReporter::new());
    let service = HealthServer::with_interceptor(health, known_client);
    tokio::spawn(server.serve_tls(|incoming, shutdown| {
        Ok(Server::builder().add_service(service).serve_with_incoming_shutdown(incoming, shutdown))
    }));

    // The client: its certificate, whom it trusts, and which name the certificate of a server must have.
    let (certificate, key) = authority.issue("client.internal")?;
    let tls =
        ClientTls::new(authority.pem()).with_identity(certificate, key).with_server_name("greeter.internal");
    let discovery = Discovery::new(registry);
    let channel = DiscoveryChannel::builder(&discovery, "greeter").tls(tls).connect().await?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
    println!("{:?}", answer.into_inner().status());
    Ok(())
}

/// Lets through who has a certificate. TLS has verified it; what it says is for the service to judge.
fn known_client(request: Request<()>) -> Result<Request<()>, Status> {
    let chain = request.peer_certs().ok_or_else(|| Status::unauthenticated("no client certificate"))?;
    println!("a call of a client with {} certificate, from {:?}", chain.len(), request.remote_addr());
    Ok(request)
}

/// Signs certificates, which elsewhere a CA or the platform does.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// The certificate and the key of `name`.
    fn issue(&self, name: &str) -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([name.to_owned()])?.signed_by(&key, &self.0)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}
