//! Which name the certificate of a server must be valid for.

use hither_core::Instance;
use hither_tonic::ClientTls;

use crate::peers::TonicServer;
use crate::pki::{Ca, NAME};
use crate::support::Client;
use crate::{call, of_instances, refused};

#[tokio::test]
async fn the_name_is_the_host_unless_it_is_set() {
    let ca = Ca::new();
    let server = TonicServer::start(&ca.issue("localhost"), None).await;
    let by_name = format!("localhost:{}", server.address.port());
    assert_eq!(call(&by_name, ClientTls::new(ca.pem())).await.unwrap(), "tonic");
    let tls = || ClientTls::new(ca.pem()).with_server_name("localhost");
    assert_eq!(call(&server.address(), tls()).await.unwrap(), "tonic");
    let text = refused(&by_name, ClientTls::new(ca.pem()).with_server_name(NAME)).await;
    let expected = "the server's certificate is not valid for greeter.internal, only for ";
    assert!(text.contains(expected) && text.contains("localhost"), "{text}");
}

/// tonic's first error here was `InvalidDNSNameError`, without the name or a remedy (grpc/grpc-rust#239,
/// kurrent-io/KurrentDB-Client-Rust#71).
#[tokio::test]
async fn an_ip_address_needs_a_name_or_leave_to_be_one() {
    let ca = Ca::new();
    let server = TonicServer::start(&ca.issue("127.0.0.1"), None).await;
    let text = refused(&server.address(), ClientTls::new(ca.pem())).await;
    let expected = format!("{} is an IP address, and there is no name", server.address);
    assert!(text.contains(&expected) && text.contains("with_server_name"), "{text}");
    let tls = ClientTls::new(ca.pem()).with_ip_addresses();
    assert_eq!(call(&server.address(), tls).await.unwrap(), "tonic");

    let other = TonicServer::start(&ca.issue("127.0.0.2"), None).await;
    let text = refused(&other.address(), ClientTls::new(ca.pem()).with_ip_addresses()).await;
    assert!(text.contains("certificate is not valid for 127.0.0.1"), "{text}");
}

#[tokio::test]
async fn each_instance_may_name_its_own_certificate() {
    let ca = Ca::new();
    let names = ["a.internal", "b.internal"];
    let servers = [
        TonicServer::start(&ca.issue(names[0]), None).await,
        TonicServer::start(&ca.issue(names[1]), None).await,
    ];
    let tls = || ClientTls::new(ca.pem()).with_server_name_from_metadata("tls_name");
    let instance =
        |of: usize, name: &str| Instance::new(servers[of].address.into()).with_metadata("tls_name", name);
    for of in [0, 1] {
        let channel = of_instances([instance(of, names[of])], tls()).connect_lazy().unwrap();
        assert_eq!(Client::new(&channel).name().await.unwrap(), "tonic");
    }
    for (instance, expected) in [
        (instance(0, names[1]), "is not valid for b.internal, only for"),
        (instance(0, "a b"), "the instance's metadata \"tls_name\" is \"a b\", which is no server name"),
        (Instance::new(servers[0].address.into()), "is an IP address"),
    ] {
        let channel = of_instances([instance], tls()).connect_lazy().unwrap();
        let status = Client::new(&channel).name().await.unwrap_err();
        assert!(status.message().contains(expected), "{status}");
    }
    // An instance that names none has the name of the channel.
    let instance = Instance::new(servers[0].address.into());
    let channel = of_instances([instance], tls().with_server_name("a.internal")).connect_lazy().unwrap();
    Client::new(&channel).name().await.unwrap();
}
