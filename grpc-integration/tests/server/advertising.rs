//! What a server registers: its addresses, and a description for each service.

use hither_memory::MemoryRegistry;
use hither_tonic::{ErrorKind, IpSource, Lifecycle, LifecycleBuilder};

fn builder() -> LifecycleBuilder {
    Lifecycle::builder(MemoryRegistry::new()).service("greeter")
}

fn addresses(server: &Lifecycle) -> Vec<String> {
    server.registrations()[0].instance().addresses().iter().map(ToString::to_string).collect()
}

/// As asked for in gliderlabs/registrator#587, where eth0 or eth1 was registered by chance.
#[tokio::test]
async fn the_advertised_address_is_that_of_an_interface_or_of_the_route_to_a_peer() {
    for source in [IpSource::interface("lo"), IpSource::route_to("127.0.0.1:2379")] {
        let server = builder().advertise_ip(source).bind("0.0.0.0:0").await.unwrap();
        assert_eq!(addresses(&server), [format!("127.0.0.1:{}", server.local_addr().port().unwrap())]);
    }
    let both = builder().advertise("greeter.internal:80").advertise_ip(IpSource::interface("lo"));
    let server = both.bind("127.0.0.1:0").await.unwrap();
    assert_eq!(addresses(&server), ["greeter.internal:80".to_owned(), server.local_addr().to_string()]);
}

#[tokio::test]
async fn an_address_that_cannot_be_had_is_one_clear_error() {
    for (source, bound, expected) in [
        (IpSource::env("HITHER_NOT_SET"), "0.0.0.0:0", "the environment variable HITHER_NOT_SET is not set"),
        (
            IpSource::interface("eth99"),
            "0.0.0.0:0",
            "there is no network interface eth99 with an address, only ",
        ),
        (IpSource::route_to("host.invalid:80"), "0.0.0.0:0", "there is no route to host.invalid:80"),
        (IpSource::route_to("127.0.0.1"), "0.0.0.0:0", "there is no route to 127.0.0.1"),
        // No server listens there: it is registered, and unreachable.
        (
            IpSource::interface("lo"),
            "127.0.0.2:0",
            "where no client of 127.0.0.1 can reach it: bind 0.0.0.0:",
        ),
        (IpSource::route_to("[::1]:80"), "0.0.0.0:0", "where no client of ::1 can reach it: bind [::]:"),
    ] {
        let error = builder().advertise_ip(source.clone()).bind(bound).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{source:?}");
        assert!(error.to_string().contains(expected), "{source:?}: {error}");
    }
}

#[tokio::test]
async fn each_service_has_a_description_of_its_own_over_the_common_one() {
    let server = builder()
        .service_with("admin", |instance| instance.with_weight(5).with_metadata("role", "admin"))
        .instance(|instance| instance.with_zone("eu-1a").with_weight(2))
        .service_with("admin", |instance| instance.with_version("2.0"))
        .bind("127.0.0.1:0")
        .await
        .unwrap();
    let [greeter, admin] = server.registrations() else { panic!("{:?}", server.registrations()) };
    assert_eq!((greeter.service().as_str(), admin.service().as_str()), ("greeter", "admin"));
    let (greeter, admin) = (greeter.instance(), admin.instance());
    assert_eq!((greeter.weight(), greeter.version(), greeter.zone()), (2, None, Some("eu-1a")));
    assert_eq!((admin.weight(), admin.version(), admin.zone()), (5, Some("2.0"), Some("eu-1a")));
    assert_eq!(admin.metadata()["role"], "admin");
    assert_eq!(greeter.address(), admin.address());
}
