//! Which name the certificate of a server must be valid for.

use std::pin::pin;
use std::sync::atomic::Ordering;

use futures_util::StreamExt;
use hither_core::{Claim, Discovery, Instance, Registrar, Registration};
use hither_memory::MemoryRegistry;
use hither_tonic::{ClientTls, ConnectivityState, DiscoveryChannel, RoundRobin};
use tokio::time::timeout;

use crate::peers::TonicServer;
use crate::pki::{Ca, NAME};
use crate::support::{Client, SERVICE, SOON};
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

/// As behind a gateway that routes by SNI: a connection that was made for one name is none for another.
#[tokio::test]
async fn instances_with_one_address_and_several_names_are_several_servers() {
    let ca = Ca::new();
    let server = TonicServer::start(&ca.issue("a.internal"), None).await;
    let instance = |id: &str| {
        let instance = Instance::new(server.address.into()).with_id(id.parse().unwrap());
        instance.with_metadata("tls_name", format!("{id}.internal"))
    };
    let tls = ClientTls::new(ca.pem()).with_server_name_from_metadata("tls_name");
    let channel = of_instances([instance("a"), instance("b")], tls).policy(RoundRobin::default());
    let channel = channel.connect_lazy().unwrap();
    let mut changes = pin!(channel.status_changes());
    let is_told = async {
        while let Some(status) = changes.next().await {
            let [a, b] = status.instances() else { continue };
            if a.state() == ConnectivityState::Ready && b.state() == ConnectivityState::TransientFailure {
                return b.last_error().unwrap_or_default().to_owned();
            }
        }
        String::new()
    };
    let error = timeout(SOON, is_told).await.unwrap();
    assert!(error.contains("is not valid for b.internal, only for a.internal"), "{error}");
    for _ in 0..4 {
        assert_eq!(Client::new(&channel).name().await.unwrap(), "tonic");
    }
    let started: Vec<_> = channel.status().instances().iter().map(|instance| instance.started()).collect();
    assert_eq!(started, [4, 0]);
}

#[tokio::test]
async fn an_instance_that_changes_its_name_is_connected_to_anew() {
    let ca = Ca::new();
    let server = TonicServer::start(&ca.with(&["a.internal", "b.internal"], |_| {}), None).await;
    let named = |name: &str, shard: &str| {
        let instance = Instance::new(server.address.into()).with_metadata("tls_name", name);
        Registration::new(SERVICE.parse().unwrap(), instance.with_metadata("shard", shard)).unwrap()
    };
    let registry = MemoryRegistry::new();
    let mut lease = registry.register(&named("a.internal", "1"), Claim::TakeOver).await.unwrap();
    let tls = ClientTls::new(ca.pem()).with_server_name_from_metadata("tls_name");
    let channel =
        DiscoveryChannel::builder(Discovery::new(registry), SERVICE).tls(tls).connect().await.unwrap();
    let mut changes = pin!(channel.status_changes());
    for (name, shard, connections) in [("a.internal", "2", 1), ("b.internal", "2", 2)] {
        lease.update(&named(name, shard)).await.unwrap();
        let is_followed = async {
            while let Some(status) = changes.next().await {
                let [instance] = status.instances() else { continue };
                let metadata = instance.instance().metadata();
                let is_current = metadata["tls_name"] == name && metadata["shard"] == shard;
                if is_current && instance.state() == ConnectivityState::Ready {
                    return;
                }
            }
        };
        timeout(SOON, is_followed).await.unwrap();
        assert_eq!(Client::new(&channel).name().await.unwrap(), "tonic");
        assert_eq!(server.accepted.load(Ordering::Relaxed), connections, "as {name}");
    }
}
