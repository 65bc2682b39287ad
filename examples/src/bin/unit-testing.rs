//! How to test code that depends on discovery: read the tests at the end of this file.
//!
//! - With the mocks (feature `mock`), where a test is about one call and its answer.
//! - With the registry in memory under paused time, where a test is about what happens over time: an hour takes no
//!   time.
//! - With servers and channels on a network in memory (feature `memory-network`), where it is about calls: they too
//!   under paused time.
//!
//! `cargo test -p hither-examples --bin unit-testing`

use std::time::Duration;

use hither::memory::MemoryRegistry;
use hither::tonic::DiscoveryChannel;
use hither::{
    Discovery, Instance, Registration, RegistrationConfig, Resolver, Result, ServiceName, ServiceView,
    keep_registered,
};
use hither_examples::demo::{DiscoverDemoClient, proto};
use tonic::Request;

/// A limit that all instances of a service share, each an equal part of it. This is code under test.
#[derive(Debug)]
struct Quota {
    limit: u32,
    view: ServiceView,
}

impl Quota {
    fn new(limit: u32, discovery: &Discovery, service: &ServiceName) -> Self {
        Self { limit, view: discovery.service(service) }
    }

    /// Returns how many requests a second this instance may serve now.
    fn share(&self) -> u32 {
        // No known instance: this one is the first, or the registry has not answered yet.
        let instances = u32::try_from(self.view.current().instances().count()).unwrap_or(u32::MAX);
        self.limit / instances.max(1)
    }
}

/// Returns whether the service has as many instances as it should, for a readiness probe.
async fn is_complete(registry: &dyn Resolver, service: &ServiceName, expected: usize) -> Result<bool> {
    Ok(registry.resolve(service).await?.len() >= expected)
}

/// Asks a server, and answers itself when that takes too long or fails. This is code under test, too.
async fn greeting(channel: DiscoveryChannel, name: &str) -> String {
    let mut request = Request::new(proto::Request { name: name.to_owned() });
    request.set_timeout(Duration::from_secs(2));
    match DiscoverDemoClient::new(channel).discover(request).await {
        Ok(response) => response.into_inner().content,
        Err(_) => format!("hello, {name}"),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let registry = MemoryRegistry::new();
    let service: ServiceName = "greeter".parse()?;
    let quota = Quota::new(100, &Discovery::new(registry.clone()), &service);
    println!("alone, the share is {}", quota.share());
    let mut servers = Vec::new();
    for port in 8001..=8004 {
        let instance = Instance::new(format!("10.0.0.7:{port}").parse()?);
        let registration = Registration::new(service.clone(), instance)?;
        servers.push(keep_registered(registry.clone(), registration, RegistrationConfig::default()));
    }
    let mut view = quota.view.clone();
    while view.changed().await?.instances().count() < servers.len() {}
    println!("among {} it is {}", servers.len(), quota.share());
    println!("complete: {}", is_complete(&registry, &service, servers.len()).await?);
    let channel = DiscoveryChannel::builder(Discovery::new(registry), "demo").connect_lazy()?;
    println!("without a server: {}", greeting(channel, "Ada").await);
    println!("its tests: cargo test -p hither-examples --bin unit-testing");
    Ok(())
}

#[cfg(test)]
mod tests {
    use hither::mock::MockResolver;
    use hither::tonic::MemoryNetwork;
    use hither::{Error, ErrorKind, RegistrationHandle, Snapshot};
    use hither_examples::demo::Demo;
    use tokio::time::{Instant, sleep};
    use tonic::transport::Server;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn service() -> ServiceName {
        "greeter".parse().unwrap()
    }

    fn instance(port: u16) -> Instance {
        Instance::new(format!("10.0.0.7:{port}").parse().unwrap())
    }

    async fn server(registry: &MemoryRegistry, port: u16) -> RegistrationHandle {
        let registration = Registration::new(service(), instance(port)).unwrap();
        let server = keep_registered(registry.connect(), registration, RegistrationConfig::default());
        server.registered().await.unwrap();
        server
    }

    /// Paused time advances only when all tasks wait, so everything that was due has happened then.
    async fn settle() {
        sleep(Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn a_probe_counts_instances() {
        let mut registry = MockResolver::new();
        registry.expect_resolve().returning(|service| {
            Ok(Snapshot::new(service.clone(), [instance(8001).into(), instance(8002).into()]))
        });
        assert!(is_complete(&registry, &service(), 2).await.unwrap());
        assert!(!is_complete(&registry, &service(), 3).await.unwrap());
    }

    #[tokio::test]
    async fn a_probe_fails_while_the_registry_is_down() {
        let mut registry = MockResolver::new();
        registry.expect_resolve().times(1).returning(|_| Err(Error::new(ErrorKind::Unavailable, "down")));
        let error = is_complete(&registry, &service(), 1).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_follows_servers_that_join_and_leave() {
        let registry = MemoryRegistry::new();
        let quota = Quota::new(100, &Discovery::new(registry.clone()), &service());
        let (first, _second) = (server(&registry, 8001).await, server(&registry, 8002).await);
        settle().await;
        assert_eq!(quota.share(), 50);
        first.deregister().await.unwrap();
        settle().await;
        assert_eq!(quota.share(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn an_hour_without_the_registry_does_not_change_the_share() {
        let registry = MemoryRegistry::new();
        let quota = Quota::new(100, &Discovery::new(registry.clone()), &service());
        let _servers = (server(&registry, 8001).await, server(&registry, 8002).await);
        settle().await;
        registry.faults().stop();
        sleep(HOUR).await;
        assert_eq!(quota.share(), 50);
        registry.faults().wipe();
        registry.faults().start();
        sleep(HOUR).await;
        assert_eq!(quota.share(), 50, "and all are registered again");
    }
    #[tokio::test(start_paused = true)]
    async fn a_greeting_comes_from_a_server_or_after_two_seconds_from_us() {
        let network = MemoryNetwork::new(MemoryRegistry::new());
        let router = Server::builder().add_service(Demo::service("a"));
        let server = network.serve("demo", "10.0.0.1:80", router).await.unwrap();
        let channel = network.channel("demo").connect().await.unwrap();
        assert_eq!(greeting(channel.clone(), "Ada").await, "request content from a => Ada");

        server.host().freeze();
        let began = Instant::now();
        assert_eq!(greeting(channel.clone(), "Ada").await, "hello, Ada");
        assert_eq!(began.elapsed().as_secs(), 2);

        server.kill();
        assert_eq!(greeting(channel, "Ada").await, "hello, Ada");
        assert_eq!(began.elapsed().as_secs(), 2, "at once");
    }
}
