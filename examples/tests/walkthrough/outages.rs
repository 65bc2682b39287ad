//! Outages of etcd.

use std::time::Duration;

use hither::tonic::DiscoveryChannel;
use hither::{Discovery, Instance, StaticRegistry};
use hither_examples::demo::{DiscoverDemoClient, proto::Request};
use rustix::process::Signal;
use tokio::time::Instant;

use crate::etcd::Etcd;
use crate::program::Program;
use crate::{SERVICE, busy_client, failures, records, registry, until_record};

fn is_lost(line: &str) -> bool {
    line.starts_with("registry ") && line.contains(" is lost")
}

fn is_back(line: &str) -> bool {
    line.starts_with("registry ") && line.contains(" is back")
}

/// How etcd ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Killed,
    Stopped,
}

/// Two servers, and a client that calls them.
async fn running(etcd: &Etcd, ttl: &str) -> (Vec<Program>, Program) {
    let registry = registry(etcd);
    let servers =
        vec![Program::server(&registry, &["--ttl", ttl]), Program::server(&registry, &["--ttl", ttl])];
    for server in &servers {
        server.registered().await;
    }
    let client = busy_client(&registry).await;
    (servers, client)
}

/// Ends etcd, and waits until each program has reported that. All of them: a server whose next renewal finds etcd back has
/// nothing to report.
async fn lose(etcd: &mut Etcd, end: End, servers: &[Program], client: &Program) {
    match end {
        End::Killed => etcd.kill(),
        End::Stopped => etcd.stop().await,
    }
    for program in servers.iter().chain([client]) {
        program.stderr.line(is_lost).await;
    }
    client.stdout.more(200).await;
    assert_eq!(failures(client), [""; 0]);
}

/// Each has reported once that the registry was lost, and once that it is back.
async fn recovered(servers: &[Program], client: &Program) {
    for program in servers.iter().chain([client]) {
        program.stderr.line(is_back).await;
        assert_eq!(program.stderr.count(is_lost), 1, "{:#?}", program.stderr.all());
        assert_eq!(program.stderr.count(is_back), 1, "{:#?}", program.stderr.all());
    }
    client.stdout.more(200).await;
    assert_eq!(failures(client), [""; 0]);
}

async fn restarted(end: End, ttl: &str) {
    let mut etcd = Etcd::start().await;
    let (servers, client) = running(&etcd, ttl).await;
    let before = records(&etcd.client().await).await;
    lose(&mut etcd, end, &servers, &client).await;
    let etcd = etcd.start_again().await;
    recovered(&servers, &client).await;
    assert_eq!(records(&etcd.client().await).await, before, "on the same leases");
}

#[tokio::test]
async fn a_restart_of_etcd_keeps_every_lease() {
    // While it waits for its streams to end, for up to 7 s, it renews no lease and goes on expiring them.
    restarted(End::Stopped, "30s").await;
}

#[tokio::test]
async fn a_crash_of_etcd_keeps_every_lease() {
    restarted(End::Killed, "10s").await;
}

#[tokio::test]
async fn servers_register_again_within_a_ttl_after_etcd_lost_its_data() {
    const TTL: Duration = Duration::from_secs(6);
    let mut etcd = Etcd::start().await;
    let (servers, client) = running(&etcd, "6s").await;
    lose(&mut etcd, End::Killed, &servers, &client).await;
    etcd.wipe();
    let etcd = etcd.start_again().await;
    let restarted = Instant::now();
    let raw = etcd.client().await;
    for server in &servers {
        let port = server.registered().await;
        until_record(&raw, port, true).await;
    }
    // On a busy machine it takes the programs a moment longer.
    assert!(restarted.elapsed() < TTL + Duration::from_secs(3), "{:?}", restarted.elapsed());
    recovered(&servers, &client).await;
}

#[tokio::test]
async fn servers_and_clients_start_while_etcd_is_down() {
    let mut etcd = Etcd::start().await;
    let registry = registry(&etcd);
    etcd.kill();
    let server = Program::server(&registry, &[]);
    let address = server.address().await;
    server.stderr.line(|line| line.contains("cannot be reached; serving unregistered, retrying")).await;
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
async fn a_client_counts_the_servers_that_it_calls_although_etcd_lost_them() {
    let mut etcd = Etcd::start().await;
    let (servers, client) = running(&etcd, "6s").await;
    lose(&mut etcd, End::Killed, &servers, &client).await;
    // Stopped, so that they do not register again.
    for server in &servers {
        server.signal(Signal::STOP);
    }
    etcd.wipe();
    let _etcd = etcd.start_again().await;
    let line = client.stderr.line(is_back).await;
    for server in &servers {
        server.signal(Signal::CONT);
    }
    let held = "has 2 server(s), 2 of them held: removed from the registry, still called";
    assert!(line.ends_with(held), "{line}");
}

#[tokio::test]
async fn a_client_without_a_ready_server_in_time_prints_the_reason_and_exits_with_2() {
    let mut etcd = Etcd::start().await;
    let registry = registry(&etcd);
    for why in ["no server is registered", "cannot be reached"] {
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
