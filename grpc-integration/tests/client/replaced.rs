//! Connections that are replaced: the server has closed the last one, as at its maximum age, and the next one is made at once.
//! For a second the instance keeps its place meanwhile.

use hither_core::Instance;
use hither_tonic::{Lane, Lanes, OutlierDetection, PeakEwma, RoundRobin, Selection, Sticky};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::{Code, Status};

use crate::support::{Client, Gate, Log, Net, Registry, Server};
use crate::{SECOND, channel};

/// One server of each name, with these weights, and the gate to those of one letter.
struct Fleet {
    registry: Registry,
    net: Net,
    gate: Gate,
    servers: Vec<Server>,
}

impl Fleet {
    async fn new(weights: &[(&str, u32)], letter: char) -> Self {
        let (mut registry, net) = (Registry::new(), Net::new());
        let mut servers = Vec::new();
        for (name, weight) in weights {
            let address = format!("{name}:1");
            let instance = Instance::new(address.parse().unwrap()).with_weight(*weight);
            servers.push(Server::on(&net, &address));
            registry.put(instance.with_zone(&name[..1])).await;
        }
        let gate = Gate::closed(&net, letter);
        gate.open();
        Self { registry, net, gate, servers }
    }

    /// The connection of this server is lost, and the next one is not made yet.
    async fn lose(&self, number: usize) {
        self.gate.close();
        self.servers[number].break_connections();
        sleep(SECOND / 10).await;
    }

    fn calls(&self) -> Vec<usize> {
        self.servers.iter().map(Server::calls).collect()
    }
}

fn start(client: &Client) -> JoinHandle<Result<String, Status>> {
    let client = client.clone();
    tokio::spawn(async move { client.name().await })
}

#[tokio::test(start_paused = true)]
async fn a_standby_gets_no_calls_meanwhile() {
    let fleet = Fleet::new(&[("a", 1), ("b", 1)], 'a').await;
    let selection = Selection::default().prefer_zone("a").strict_failover();
    let builder = channel(&fleet.registry, &fleet.net).connector(fleet.gate.clone()).selection(selection);
    let client = Client::new(&builder.connect().await.unwrap());
    assert_eq!(client.name().await.unwrap(), "a:1");
    // It has taken over once, and stays connected for a while.
    fleet.lose(0).await;
    sleep(20 * SECOND).await;
    assert_eq!(client.name().await.unwrap(), "b:1");
    fleet.gate.open();
    sleep(60 * SECOND).await;
    assert_eq!(client.name().await.unwrap(), "a:1");
    assert_eq!(fleet.servers[1].open(), 1);

    fleet.lose(0).await;
    let waiting = start(&client);
    sleep(SECOND / 2).await;
    assert!(!waiting.is_finished());
    fleet.gate.open();
    assert_eq!(waiting.await.unwrap().unwrap(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn an_ejected_one_gets_no_calls_meanwhile() {
    let log = Log::capture();
    let fleet = Fleet::new(&[("a", 1), ("b", 1)], 'a').await;
    let builder = channel(&fleet.registry, &fleet.net).connector(fleet.gate.clone());
    let builder = builder.outlier_detection(OutlierDetection::default().with_max_ejection_percent(100));
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    fleet.servers[1].set_delay(60_000);
    while !log.take().iter().any(|line| line.contains("ejected")) {
        let mut request = tonic::Request::new(String::new());
        request.set_timeout(SECOND / 10);
        let _answer = client.call("Slow", request).await;
        sleep(SECOND / 10).await;
    }
    let ejected = fleet.servers[1].calls();
    fleet.lose(0).await;
    let waiting = start(&client);
    sleep(SECOND / 2).await;
    assert!(!waiting.is_finished());
    fleet.gate.open();
    assert_eq!(waiting.await.unwrap().unwrap(), "a:1");
    assert_eq!((fleet.servers[1].calls(), log.take()), (ejected, vec![]));
}

#[tokio::test(start_paused = true)]
async fn one_of_weight_0_gets_no_calls_meanwhile_nor_at_the_start() {
    let fleet = Fleet::new(&[("a", 0), ("b", 1)], 'b').await;
    fleet.gate.close();
    let builder = channel(&fleet.registry, &fleet.net).connector(fleet.gate.clone());
    let client = Client::new(&builder.connect_lazy().unwrap());
    for _ in 0..2 {
        let waiting = start(&client);
        sleep(SECOND / 2).await;
        assert!(!waiting.is_finished());
        fleet.gate.open();
        assert_eq!(waiting.await.unwrap().unwrap(), "b:1");
        fleet.lose(1).await;
    }
    assert_eq!(fleet.calls(), [0, 2]);
    // A server that cannot be connected to is waited for a second.
    let began = Instant::now();
    assert_eq!(client.name().await.unwrap(), "a:1");
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    let client = Client::new(
        &channel(&fleet.registry, &fleet.net).connector(fleet.gate.clone()).connect_lazy().unwrap(),
    );
    let began = Instant::now();
    assert_eq!(client.name().await.unwrap(), "a:1");
    assert_eq!(began.elapsed().as_secs(), 1);
}

/// Its room is found again.
#[tokio::test(start_paused = true)]
async fn one_of_weight_0_takes_what_the_others_have_no_room_for_afterwards() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let busy = Server::described(&net, "b:1", |server| server.max_concurrent_streams(1));
    let out = Server::on(&net, "a:1");
    for (address, weight) in [("a:1", 0), ("b:1", 1)] {
        registry.put(Instance::new(address.parse().unwrap()).with_weight(weight)).await;
    }
    let gate = Gate::closed(&net, 'b');
    gate.open();
    let builder = channel(&registry, &net).connector(gate.clone()).max_connections(1);
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    gate.close();
    busy.break_connections();
    sleep(SECOND / 10).await;
    busy.set_delay(60_000);
    out.set_delay(60_000);
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call("Slow", String::new()).await })
        })
        .collect();
    sleep(SECOND / 10).await;
    assert_eq!((busy.calls(), out.calls()), (0, 0));
    gate.open();
    sleep(SECOND / 10).await;
    assert_eq!((busy.calls(), out.calls()), (1, 2));
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_weight_0_gets_no_calls_meanwhile_for_a_stream_that_is_freed() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let weighted = Server::on(&net, "b:1");
    let out = Server::described(&net, "a:1", |server| server.max_concurrent_streams(1));
    registry.up("a:1").await;
    let gate = Gate::closed(&net, 'b');
    let builder = channel(&registry, &net).connector(gate.clone()).max_connections(1);
    let client = Client::new(&builder.connect().await.unwrap());
    out.set_delay(500);
    let slow = {
        let client = client.clone();
        tokio::spawn(async move { client.call("Slow", String::new()).await })
    };
    sleep(SECOND / 10).await;
    gate.open();
    registry.put(Instance::new("a:1".parse().unwrap()).with_weight(0)).await;
    registry.up("b:1").await;
    sleep(SECOND / 10).await;
    gate.close();
    weighted.break_connections();
    sleep(SECOND / 10).await;
    let waiting = start(&client);
    slow.await.unwrap().unwrap();
    sleep(SECOND / 10).await;
    assert!(!waiting.is_finished());
    gate.open();
    assert_eq!(waiting.await.unwrap().unwrap(), "b:1");
}

/// Outlier detection and the line of a lane: a trial that finds no connection is none.
#[tokio::test(start_paused = true)]
async fn one_that_is_tried_keeps_no_call_busy() {
    let log = Log::capture();
    let fleet = Fleet::new(&[("a", 1), ("b", 1), ("c", 1)], 'c').await;
    let lanes = Lanes::by(
        |instance| instance.zone().filter(|zone| *zone == "c").map(str::to_owned),
        RoundRobin::default,
    );
    let builder = channel(&fleet.registry, &fleet.net).connector(fleet.gate.clone());
    let builder = builder.policy(lanes).outlier_detection(OutlierDetection::default());
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    let call = |method: &'static str, lane: &'static str| {
        let client = client.clone();
        async move {
            let mut request = tonic::Request::new(String::new());
            request.set_timeout(SECOND / 2);
            request.extensions_mut().insert(Lane::new(lane));
            client.call(method, request).await
        }
    };
    while !log.take().iter().any(|line| line.contains("ejected")) {
        call("Name", "").await.unwrap();
        let _failed = call("Fail", "c").await;
        sleep(SECOND / 10).await;
    }
    // Its ejection is over.
    sleep(40 * SECOND).await;
    fleet.lose(2).await;
    let tried = call("Name", "c").await;
    fleet.gate.open();
    assert_eq!(tried.unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(call("Name", "c").await.unwrap().into_inner(), "c:1");
}

#[tokio::test(start_paused = true)]
async fn all_calls_of_sticky_go_to_one_other_meanwhile() {
    let names: Vec<_> = ('a'..='l').map(String::from).collect();
    let weights: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let fleet = Fleet::new(&weights, 'a').await;
    let builder =
        channel(&fleet.registry, &fleet.net).connector(fleet.gate.clone()).policy(Sticky::default());
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    assert_eq!(client.name().await.unwrap(), "a:1");
    fleet.lose(0).await;
    for _ in 0..20 {
        assert_eq!(client.name().await.unwrap(), "b:1");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_keeps_what_it_knows() {
    let fleet = Fleet::new(&[("a", 1), ("b", 1)], 'a').await;
    let builder = || channel(&fleet.registry, &fleet.net).connector(fleet.gate.clone());
    let sticky = Client::new(&builder().policy(Sticky::default()).connect().await.unwrap());
    let ewma = Client::new(&builder().policy(PeakEwma::default()).connect().await.unwrap());
    sleep(SECOND).await;
    let home = sticky.name().await.unwrap();
    assert_eq!(home, "a:1");
    fleet.servers[0].set_delay(2000);
    let slow = |client: Client| async move { client.call("Slow", String::new()).await.unwrap() };
    for _ in 0..20 {
        slow(ewma.clone()).await;
    }
    let before = fleet.calls();
    for _ in 0..5 {
        fleet.lose(0).await;
        fleet.gate.open();
        sleep(SECOND / 10).await;
        assert_eq!(sticky.name().await.unwrap(), home);
        slow(ewma.clone()).await;
    }
    // A server that is not known yet gets a call at once.
    assert_eq!(fleet.calls()[0] - before[0], 5, "those of the other channel");
}
