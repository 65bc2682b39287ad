//! Servers of grpc-go's among which one fails, or stands still: ejected, hedged around.

use std::time::Duration;

use futures_util::future::join_all;
use hither::tonic::{
    CalledInstance, DiscoveryChannel, HedgingPolicy, MethodConfig, OutlierDetection, RoundRobin,
};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};
use tonic::Request;

use super::load::{Load, empty_call};
use super::peer::Peer;
use super::testing::Empty;
use super::{Client, LONG, builder};
use crate::port::Port;

const CALLERS: usize = 8;

/// All its calls fail at once, which without ejection draws a third of them.
const FAILING: [&str; 2] = ["-fail", "9"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_is_ejected_until_another_one_is_at_its_address() {
    // Nothing else listens there in between.
    let port = Port::new();
    let address = port.endpoint();
    let mut failing = Peer::go_server(&[&FAILING[..], &["-addr", &address]].concat()).await;
    let (other, third) = (Peer::go_server(&[]).await, Peer::go_server(&[]).await);
    let channel = detecting(&[&address, &other.address, &third.address]).await;
    is_ejected(&channel, &address).await;
    failing.signal(Signal::INT);
    failing.program.end().await;
    let _back = Peer::go_server(&["-addr", &address]).await;
    is_called(&channel, &address).await;
}

/// nginx passes the status on in headers that do not end the stream, so that the calls looked like cancelled ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_fails_behind_nginx_is_ejected_too() {
    let servers = join_all([&FAILING[..], &[], &[]].map(Peer::go_server)).await;
    let proxies = join_all(servers.iter().map(|server| Peer::nginx(&server.address, ""))).await;
    let addresses: Vec<_> = proxies.iter().map(|proxy| proxy.address.as_str()).collect();
    let channel = detecting(&addresses).await;
    is_ejected(&channel, addresses[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hedged_calls_pass_while_a_server_stands_still() {
    let servers = join_all([&[][..]; 3].map(Peer::go_server)).await;
    let addresses: Vec<_> = servers.iter().map(|server| server.address.as_str()).collect();
    let hedging = HedgingPolicy::after(Duration::from_millis(50));
    let method = MethodConfig::default().with_hedging(hedging);
    let builder = builder(&addresses).policy(RoundRobin::default()).method("", method);
    let channel = builder.connect().await.unwrap();
    is_called(&channel, addresses[0]).await;
    servers[0].signal(Signal::STOP);
    let load = Load::start(&Client::new(channel.clone()), CALLERS, empty_call);
    load.more(300).await;
    load.stop().await.assert_all_ok();
    // The losers were cancelled.
    assert_eq!(channel.status().instances().iter().map(|instance| instance.in_flight()).sum::<usize>(), 0);
    servers[0].signal(Signal::CONT);
}

/// Connects with round robin and outlier detection, of a second where its default is half a minute.
async fn detecting(addresses: &[&str]) -> DiscoveryChannel {
    let detection = OutlierDetection::default()
        .with_interval(Duration::from_millis(200))
        .with_base_ejection_time(Duration::from_secs(1));
    let builder = builder(addresses).policy(RoundRobin::default()).outlier_detection(detection);
    builder.connect().await.unwrap()
}

/// Waits until the instance is ejected under load; nearly all calls pass then.
async fn is_ejected(channel: &DiscoveryChannel, address: &str) {
    let client = Client::new(channel.clone());
    let load = Load::start(&client, CALLERS, empty_call);
    let ejected = async {
        while !channel.status().instances().iter().any(|one| one.ejected().is_some()) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(LONG, ejected).await.is_ok(), "{:#}", channel.status());
    load.stop().await;
    let load = Load::start(&client, CALLERS, empty_call);
    load.more(2000).await;
    let tally = load.stop().await;
    assert!(10 * tally.failures() < tally.ok, "{tally:#?}");
    let status = channel.status();
    let ejected = status.instances().iter().find(|one| one.ejected().is_some()).unwrap();
    assert_eq!(ejected.id().as_str(), address);
}

/// Waits until a call is answered by this server.
pub(super) async fn is_called(channel: &DiscoveryChannel, address: &str) {
    let mut client = Client::new(channel.clone());
    let is_it = async {
        loop {
            let (called, mut request) = (CalledInstance::default(), Request::new(Empty {}));
            request.extensions_mut().insert(called.clone());
            let is_answered = client.empty_call(request).await.is_ok();
            if is_answered && called.get().is_some_and(|one| one.instance().id().as_str() == address) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(timeout(LONG, is_it).await.is_ok(), "{address} answers no call: {:#}", channel.status());
}
