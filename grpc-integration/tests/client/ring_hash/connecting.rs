//! Instances of the ring that are being connected to.

use std::time::Duration;

use hither_core::Instance;
use hither_tonic::{ChannelBuilder, Lanes, OutlierDetection};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{Code, Status};

use super::*;
use crate::support::{Gate, Log};

/// Servers `a` to `d`, and a gate to `d`.
struct Fleet {
    registry: Registry,
    net: Net,
    gate: Gate,
    servers: Vec<Server>,
}

impl Fleet {
    async fn new() -> Self {
        Self::of(&[("a", 1), ("b", 1), ("c", 1), ("d", 1)]).await
    }

    /// Servers with these weights.
    async fn of(weights: &[(&str, u32)]) -> Self {
        let (mut registry, net) = (Registry::new(), Net::new());
        let mut servers = Vec::new();
        for (name, weight) in weights {
            let address = format!("{name}:1");
            let instance = Instance::new(address.parse().unwrap()).with_weight(*weight);
            servers.push(Server::on(&net, &address));
            registry.put(instance.with_metadata("lane", "all")).await;
        }
        let gate = Gate::closed(&net, 'd');
        gate.open();
        Self { registry, net, gate, servers }
    }

    fn channel(&self, policy: RingHash) -> ChannelBuilder {
        channel(&self.registry, &self.net).connector(self.gate.clone()).policy(policy)
    }

    /// The connection to `d` is lost, as with GOAWAY, and the next one cannot be made before the gate is open.
    async fn lose(&self) {
        self.gate.close();
        self.servers[3].break_connections();
        sleep(SECOND / 100).await;
    }
}

fn policy() -> RingHash {
    RingHash::header(HeaderName::from_static("x-user"))
}

/// Where users' calls go while all of these are connected.
async fn homes_among(fleet: &Fleet, servers: &[&str]) -> Vec<String> {
    let mut registry = Registry::new();
    for address in servers {
        registry.up(address).await;
    }
    let client = Client::new(&channel(&registry, &fleet.net).policy(policy()).connect().await.unwrap());
    sleep(SECOND).await;
    homes(&client).await
}

const ALL: [&str; 4] = ["a:1", "b:1", "c:1", "d:1"];

fn of(user: usize) -> Request<String> {
    let mut request = Request::new(String::new());
    request.metadata_mut().insert("x-user", format!("user {user}").parse().unwrap());
    request
}

fn start(client: &Client, request: Request<String>) -> JoinHandle<Result<String, Status>> {
    let client = client.clone();
    tokio::spawn(async move { client.call("Name", request).await.map(tonic::Response::into_inner) })
}

/// Each user's first call: those of `d` wait for it, and all others are answered.
async fn wait_for_d_alone(client: &Client, gate: &Gate, homes: &[String]) {
    let calls: Vec<_> = (0..homes.len()).map(|user| start(client, of(user))).collect();
    sleep(SECOND / 10).await;
    for (call, home) in calls.iter().zip(homes) {
        assert_eq!(call.is_finished(), home != "d:1", "{home}");
    }
    gate.open();
    for (call, home) in calls.into_iter().zip(homes) {
        assert_eq!(call.await.unwrap().unwrap(), *home);
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_connection_of_a_users_server_is_replaced_his_calls_wait_for_it() {
    let fleet = Fleet::new().await;
    let expected = homes_among(&fleet, &ALL).await;
    for policy in [policy(), policy().with_balance_factor(u32::MAX)] {
        let client = Client::new(&fleet.channel(policy).connect().await.unwrap());
        sleep(SECOND).await;
        for _ in 0..3 {
            assert_eq!(homes(&client).await, expected);
            fleet.lose().await;
            wait_for_d_alone(&client, &fleet.gate, &expected).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_user_is_at_home_from_the_first_call_on() {
    let fleet = Fleet::new().await;
    let expected = homes_among(&fleet, &ALL).await;
    for policy in [policy, || policy().with_balance_factor(u32::MAX)] {
        fleet.gate.close();
        let client = Client::new(&fleet.channel(policy()).connect().await.unwrap());
        wait_for_d_alone(&client, &fleet.gate, &expected).await;
        fleet.gate.close();
        let client = Client::new(&fleet.channel(policy()).connect_lazy().unwrap());
        wait_for_d_alone(&client, &fleet.gate, &expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_cannot_be_connected_to_keeps_its_users_for_a_second_until_it_is_back() {
    let fleet = Fleet::new().await;
    let (expected, without) = (homes_among(&fleet, &ALL).await, homes_among(&fleet, &ALL[..3]).await);
    let user = expected.iter().position(|home| home == "d:1").unwrap();
    fleet.gate.close();
    let client = Client::new(&fleet.channel(policy()).connect().await.unwrap());
    for _ in 0..2 {
        let began = Instant::now();
        let mut hasty = of(user);
        hasty.set_timeout(SECOND / 2);
        let status = start(&client, hasty).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        let reason = "the instance of the call's key, d:1, is being connected to";
        assert!(status.message().contains(reason), "{status:?}");
        assert_eq!(start(&client, of(user)).await.unwrap().unwrap(), without[user]);
        let waited = began.elapsed();
        assert!(SECOND * 9 / 10 < waited && waited < SECOND * 6 / 5, "{waited:?}");
        // It is given up after the connect timeout, and attempted again, which holds up none.
        let began = Instant::now();
        assert_eq!(homes(&client).await, without);
        for _ in 0..30 {
            assert_eq!(start(&client, of(user)).await.unwrap().unwrap(), without[user]);
            sleep(SECOND).await;
        }
        assert_eq!(began.elapsed(), 30 * SECOND);
        fleet.gate.open();
        sleep(60 * SECOND).await;
        assert_eq!(homes(&client).await, expected);
        fleet.lose().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_joins_or_returns_has_its_users_from_their_next_call_on() {
    let mut fleet = Fleet::new().await;
    let expected = homes_among(&fleet, &ALL).await;
    let client = Client::new(&fleet.channel(policy()).connect().await.unwrap());
    sleep(SECOND).await;
    for _ in 0..2 {
        fleet.registry.leave("d:1").await;
        sleep(SECOND).await;
        assert!(!homes(&client).await.contains(&"d:1".to_owned()));
        fleet.gate.close();
        fleet.registry.up("d:1").await;
        sleep(SECOND / 10).await;
        wait_for_d_alone(&client, &fleet.gate, &expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_key_waits_for_none() {
    let any = || Request::new(String::new());
    for weights in
        [&[("a", 1), ("b", 1), ("c", 1), ("d", 1)], &[("a", 0), ("b", 0), ("c", 1), ("d", u32::MAX)]]
    {
        let fleet = Fleet::of(weights).await;
        for policy in [policy(), policy().with_balance_factor(125)] {
            fleet.gate.close();
            let client = Client::new(&fleet.channel(policy).connect().await.unwrap());
            sleep(SECOND / 10).await;
            for _ in 0..2 {
                let (before, began) = (fleet.servers[3].calls(), Instant::now());
                for _ in 0..100 {
                    let home = start(&client, any()).await.unwrap().unwrap();
                    assert!(weights.iter().any(|(name, weight)| home.starts_with(name) && *weight > 0));
                }
                assert_eq!((fleet.servers[3].calls(), began.elapsed()), (before, Duration::ZERO));
                fleet.gate.open();
                sleep(SECOND).await;
                let calls: Vec<_> = (0..100).map(|_| start(&client, any())).collect();
                for call in calls {
                    call.await.unwrap().unwrap();
                }
                assert!(fleet.servers[3].calls() > before);
                fleet.lose().await;
            }
            fleet.gate.open();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_for_a_users_server_goes_to_none_that_is_being_connected_to() {
    let fleet = Fleet::new().await;
    let expected = homes_among(&fleet, &ALL).await;
    let user = expected.iter().position(|home| home == "a:1").unwrap();
    let other = expected.iter().position(|home| home == "d:1").unwrap();
    fleet.gate.close();
    let client = Client::new(&fleet.channel(policy().with_balance_factor(100)).connect().await.unwrap());
    sleep(SECOND / 10).await;
    let calls = || fleet.servers.iter().map(Server::calls).collect::<Vec<_>>();
    let (mut streams, before, began) = (Vec::new(), calls(), Instant::now());
    for _ in 0..12 {
        streams.push(client.stream("Stream", of(user)).await.unwrap());
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    // 100 % of the mean of those that are connected.
    let shares: Vec<_> = calls().iter().zip(before).map(|(now, before)| now - before).collect();
    assert_eq!(shares, [4, 4, 4, 0]);
    let waiting = start(&client, of(other));
    sleep(SECOND / 10).await;
    assert!(!waiting.is_finished());
    fleet.gate.open();
    assert_eq!(waiting.await.unwrap().unwrap(), "d:1");
}

#[tokio::test(start_paused = true)]
async fn within_a_lane_it_is_the_same() {
    let fleet = Fleet::new().await;
    let expected = homes_among(&fleet, &ALL).await;
    fleet.gate.close();
    let lanes = Lanes::by_metadata("lane", policy).with_default_lane("all");
    let builder = channel(&fleet.registry, &fleet.net).connector(fleet.gate.clone()).policy(lanes);
    let client = Client::new(&builder.connect().await.unwrap());
    for _ in 0..2 {
        wait_for_d_alone(&client, &fleet.gate, &expected).await;
        assert_eq!(homes(&client).await, expected);
        fleet.lose().await;
    }
    sleep(2 * SECOND).await;
    let began = Instant::now();
    assert!(!homes(&client).await.contains(&"d:1".to_owned()));
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_ejected_has_no_users_while_its_connection_is_replaced_either() {
    let log = Log::capture();
    let fleet = Fleet::new().await;
    let (expected, without) = (homes_among(&fleet, &ALL).await, homes_among(&fleet, &ALL[..3]).await);
    let outliers = OutlierDetection::default().with_max_ejection_percent(100);
    let builder = fleet.channel(policy()).outlier_detection(outliers);
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    fleet.servers[3].set_delay(60_000);
    // The others are well.
    for user in 0..expected.len() {
        let mut request = of(user);
        request.set_timeout(SECOND / 10);
        let _answer = client.call("Slow", request).await;
    }
    assert!(log.take().iter().any(|line| line.contains("ejected")));
    assert_eq!(homes(&client).await, without);
    for _ in 0..2 {
        fleet.lose().await;
        let began = Instant::now();
        assert_eq!(homes(&client).await, without);
        sleep(2 * SECOND).await;
        assert_eq!(homes(&client).await, without);
        assert_eq!(began.elapsed(), 2 * SECOND);
        fleet.gate.open();
        sleep(SECOND).await;
    }
}
