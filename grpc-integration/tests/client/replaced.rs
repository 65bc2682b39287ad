//! Connections that are replaced: the server has closed the last one, as at its maximum age, and the next one is made at once.
//! For a second the instance keeps its place meanwhile.

use hither_core::Instance;
use hither_tonic::{OutlierDetection, PeakEwma, Selection, Sticky};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::Status;

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
