//! etcd goes, and comes back.

use std::time::Duration;

use hither_core::{Discovery, Instance, StaticRegistry};
use hither_examples::demo::{DiscoverDemoClient, proto::Request};
use hither_tonic::DiscoveryChannel;
use tokio::time::Instant;

use crate::etcd::Etcd;
use crate::program::Program;
use crate::{SERVICE, busy_client, failures, record, registry, until_record};

fn says_lost(line: &str) -> bool {
    line.starts_with("registry ") && line.contains(" is lost")
}

fn says_back(line: &str) -> bool {
    line.starts_with("registry ") && line.contains(" is back")
}

/// How etcd goes.
#[derive(Debug, Clone, Copy)]
enum Way {
    Killed,
    Stopped,
}

/// Two servers and a client, which calls them, on an etcd that has just gone, and have said so.
async fn lost(etcd: &mut Etcd, way: Way, ttl: &str) -> (Vec<Program>, Program) {
    let registry = registry(etcd);
    let servers =
        vec![Program::server(&registry, &["--ttl", ttl]), Program::server(&registry, &["--ttl", ttl])];
    for server in &servers {
        server.registered().await;
    }
    let client = busy_client(&registry).await;
    match way {
        Way::Killed => etcd.kill(),
        Way::Stopped => etcd.stop().await,
    }
    for program in servers.iter().chain([&client]) {
        program.stderr.line(says_lost).await;
    }
    client.stdout.more(200).await;
    assert_eq!(failures(&client), [""; 0]);
    (servers, client)
}

/// Each has said once that the registry was lost, and once that it is back.
async fn all_is_well_again(servers: &[Program], client: &Program) {
    for program in servers.iter().chain([client]) {
        program.stderr.line(says_back).await;
        assert_eq!(program.stderr.count(says_lost), 1, "{:#?}", program.stderr.all());
        assert_eq!(program.stderr.count(says_back), 1, "{:#?}", program.stderr.all());
    }
    client.stdout.more(200).await;
    assert_eq!(failures(client), [""; 0]);
}

async fn restarted(way: Way) {
    let mut etcd = Etcd::start().await;
    let raw = etcd.client().await;
    let probe = Program::server(&registry(&etcd), &["--ttl", "10s"]);
    let port = probe.registered().await;
    let before = record(&raw, port).await.expect("it is registered");
    let (mut servers, client) = lost(&mut etcd, way, "10s").await;
    servers.push(probe);
    let etcd = etcd.start_again().await;
    all_is_well_again(&servers, &client).await;
    let after = record(&etcd.client().await, port).await;
    assert_eq!(after, Some(before), "on the same lease");
}

#[tokio::test]
async fn an_etcd_that_was_stopped_finds_everybody_on_the_same_lease() {
    restarted(Way::Stopped).await;
}

#[tokio::test]
async fn an_etcd_that_was_killed_finds_everybody_on_the_same_lease() {
    restarted(Way::Killed).await;
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_is_filled_again_within_a_ttl() {
    const TTL: Duration = Duration::from_secs(6);
    let mut etcd = Etcd::start().await;
    let (servers, client) = lost(&mut etcd, Way::Killed, "6s").await;
    etcd.wipe();
    let etcd = etcd.start_again().await;
    let answers = Instant::now();
    let raw = etcd.client().await;
    for server in &servers {
        let port = server.registered().await;
        until_record(&raw, port, true).await;
    }
    assert!(answers.elapsed() < TTL, "{:?}", answers.elapsed());
    all_is_well_again(&servers, &client).await;
}

#[tokio::test]
async fn an_etcd_that_is_down_at_the_start_keeps_nobody_from_starting() {
    let mut etcd = Etcd::start().await;
    let registry = registry(&etcd);
    etcd.kill();
    let server = Program::server(&registry, &[]);
    let address = server.address().await;
    server.stderr.line(|line| line.contains("cannot be reached; serving, and registering when it can")).await;
    let instance = Instance::new(address.to_string().parse().unwrap());
    let channel = DiscoveryChannel::builder(Discovery::new(StaticRegistry::new([instance])), SERVICE)
        .connect()
        .await
        .unwrap();
    let answer = DiscoverDemoClient::new(channel).discover(Request { name: "you".into() }).await.unwrap();
    assert_eq!(answer.into_inner().content, format!("request content from {} => you", address.port()));

    let mut client = Program::client(&registry, &["--timeout", "60s", "--count", "3", "--interval", "1ms"]);
    client.stderr.line(|line| line == format!("waiting for a server of {SERVICE} at {registry}")).await;
    client.stderr.line(|line| line.contains("cannot be reached; waiting for it")).await;

    let _etcd = etcd.start_again().await;
    server.registered().await;
    assert_eq!(client.end().await.code(), Some(0), "{:?}", client.stderr.all());
    assert_eq!(client.stdout.all().len(), 3);
}

#[tokio::test]
async fn a_client_that_finds_nobody_in_time_says_why_and_exits_with_2() {
    let mut etcd = Etcd::start().await;
    let registry = registry(&etcd);
    for why in ["nobody is registered", "cannot be reached"] {
        let began = Instant::now();
        let mut client = Program::client(&registry, &["--timeout", "1500ms"]);
        assert_eq!(client.end().await.code(), Some(2));
        assert!(began.elapsed() >= Duration::from_millis(1500) && began.elapsed() < Duration::from_secs(5));
        assert_eq!(client.stdout.all(), [""; 0]);
        let errors: Vec<_> =
            client.stderr.all().into_iter().filter(|line| line.starts_with("error: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(why) && errors[0].contains(SERVICE), "{errors:?}");
        etcd.kill();
    }
}
