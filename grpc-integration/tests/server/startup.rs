//! How a server starts, and which settings it refuses.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hither_core::{Claim, Error, ErrorKind, Lease, Registrar, Registration, Result, ServiceName};
use hither_memory::MemoryRegistry;
use hither_tonic::{ErrorKind as TonicErrorKind, Lifecycle};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic_health::pb::HealthCheckRequest;

use crate::support::{client, greeter};

/// Counts registrations, and refuses them all.
#[derive(Debug, Default)]
struct Counting(AtomicUsize);

#[async_trait]
impl Registrar for Counting {
    async fn register(&self, _: &Registration, _: Claim) -> Result<Box<dyn Lease>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(Error::new(ErrorKind::Unavailable, "only counting"))
    }
}

#[tokio::test]
async fn a_server_that_fails_at_once_is_never_registered() {
    let registrar = Arc::new(Counting::default());
    let build = || Lifecycle::builder(Arc::clone(&registrar)).service(greeter()).bind("127.0.0.1:0");
    let unbuilt = build().await.unwrap().serve(|_, _| match "bad certificate" {
        why if !why.is_empty() => Err(why.into()),
        _ => Ok(std::future::ready(Ok::<(), std::io::Error>(()))),
    });
    let error = unbuilt.await.unwrap_err();
    assert_eq!(error.kind(), TonicErrorKind::Server);
    assert_eq!(error.report(), "the server failed: bad certificate");
    let failed =
        build().await.unwrap().serve(|_, _| Ok(std::future::ready(Err::<(), _>("an early failure"))));
    let error = failed.await.unwrap_err();
    assert_eq!(
        (error.kind(), error.report().as_str()),
        (TonicErrorKind::Server, "the server failed: an early failure")
    );
    assert_eq!(registrar.0.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_port_in_use_is_named_in_the_error() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let error = Lifecycle::builder(MemoryRegistry::new()).service("greeter").bind(address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
    assert_eq!((error.kind(), error.address()), (TonicErrorKind::Bind, Some(&address.into())));
    let source = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    assert_eq!(source.map(std::io::Error::kind), Some(std::io::ErrorKind::AddrInUse));
}

#[tokio::test]
async fn invalid_settings_are_errors_of_bind() {
    let builder = || Lifecycle::builder(MemoryRegistry::new());
    let table = [
        (builder(), "no service"),
        (builder().service("a//b"), "a//b"),
        (builder().service("a").advertise("nonsense"), "nonsense"),
        (builder().service("a").advertise("0.0.0.0:80"), "0.0.0.0:80"),
        (builder().service("a").advertise("[::]:80"), "[::]:80"),
        (builder().service("a").advertise("http://pod:80"), "http://pod:80"),
        (builder().service("a").ttl(Duration::ZERO), "TTL"),
        (
            builder().service("a").max_connection_age(Duration::ZERO),
            "the maximum age of connections is zero: max_connection_age(..)",
        ),
        (
            builder().service("a").max_connection_age_grace(Duration::from_secs(1)),
            "max_connection_age_grace(..) is the grace after max_connection_age(..), which is not set",
        ),
        (
            builder().service("a").require_registration(Duration::ZERO),
            "no server is registered in no time: require_registration(..) is zero",
        ),
    ];
    for (builder, expected) in table {
        let error = builder.bind("127.0.0.1:0").await.unwrap_err();
        assert_eq!(error.kind(), TonicErrorKind::InvalidArgument, "{error:?}");
        assert!(error.report().contains(expected), "{}", error.report());
    }
    let name = "a//b".parse::<ServiceName>().unwrap_err();
    let error = builder().service("a//b").bind("127.0.0.1:0").await.unwrap_err();
    assert_eq!(error.report(), name.report(), "the same text as a channel's");
    let everywhere = builder().service("a").bind("0.0.0.0:0").await.unwrap_err();
    assert!(everywhere.to_string().contains("which no client can call"), "{everywhere}");
}

#[tokio::test]
async fn the_advertised_address_takes_the_real_port_where_it_has_none() {
    let server = Lifecycle::builder(MemoryRegistry::new())
        .service("greeter")
        .advertise("greeter.internal:0")
        .advertise("10.0.0.7:80")
        .instance(|instance| instance.with_id("greeter-1".parse().unwrap()))
        .bind("0.0.0.0:0")
        .await
        .unwrap();
    let port = server.local_addr().port().unwrap();
    let addresses: Vec<_> =
        server.registrations()[0].instance().addresses().iter().map(ToString::to_string).collect();
    assert_eq!(addresses, [format!("greeter.internal:{port}"), "10.0.0.7:80".into()]);
    assert_eq!(server.registrations()[0].instance().id().as_str(), "greeter-1");
}

#[tokio::test]
async fn a_service_sees_the_address_of_its_peer() {
    let (report, mut peers) = tokio::sync::mpsc::unbounded_channel();
    let (_, health) = tonic_health::server::health_reporter();
    let look = tonic::service::InterceptorLayer::new(move |request: tonic::Request<()>| {
        report.send(request.remote_addr()).unwrap();
        Ok(request)
    });
    let server =
        Lifecycle::builder(MemoryRegistry::new()).service("greeter").bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().to_string();
    let served = tokio::spawn(server.serve(|incoming, shutdown| {
        Ok(Server::builder().layer(look).add_service(health).serve_with_incoming_shutdown(incoming, shutdown))
    }));
    client(&address).await.check(HealthCheckRequest::default()).await.unwrap();
    let peer = peers.recv().await.unwrap().expect("the peer's address");
    assert_eq!(peer.ip().to_string(), "127.0.0.1");
    served.abort();
}
