//! Ejections beside what else decides where calls go: tiers and hedges.

use hither_tonic::{DiscoveryChannel, HedgingPolicy, MethodConfig, OutlierDetection, Selection};
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::{Client, Log, Net, Registry, Server};
use crate::{SECOND, channel};

/// The addresses of the instances that are ejected or being tried.
fn ejected(channel: &DiscoveryChannel) -> Vec<String> {
    let status = channel.status();
    let ejected = status.instances().iter().filter(|instance| instance.ejected().is_some());
    ejected.map(|instance| instance.instance().address().to_string()).collect()
}

/// Of five instances in three tiers one may be ejected. Its tier has no other, so the next tier takes over, whose only one
/// fails too: without the maximum all calls would come to the last tier.
#[tokio::test(start_paused = true)]
async fn the_share_that_may_be_ejected_is_of_all_tiers_together() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = ["a:1", "b:1", "c:1"].map(|address| Server::on(&net, address));
    // Those that are down give their tier half of the calls that it would have, and more.
    for address in ["a:1", "a:2", "b:1", "b:2", "c:1"] {
        registry.up(address).await;
    }
    let tier = |instance: &hither_core::Instance| u32::from(instance.address().to_string().as_bytes()[0]);
    let detection = OutlierDetection::default().with_base_ejection_time(1000 * SECOND);
    let builder =
        channel(&registry, &net).selection(Selection::default().tiers(tier)).outlier_detection(detection);
    let channel = builder.connect().await.unwrap();
    let client = Client::new(&channel);
    sleep(SECOND).await;
    let load = async |seconds: usize| {
        for _ in 0..seconds {
            for _ in 0..20 {
                let _ = client.call("Faulty", String::new()).await;
            }
            sleep(SECOND).await;
        }
    };
    load(5).await;
    let [a, b, c] = servers.each_ref().map(Server::calls);
    assert!(a > b && b > 10 && c == 0, "{a} {b} {c}");
    servers[0].open_gate();
    load(5).await;
    assert_eq!(ejected(&channel), ["a:1"]);
    servers[1].open_gate();
    load(60).await;
    assert_eq!(ejected(&channel), ["a:1"]);
    assert!(servers[1].calls() > 600, "it has its share of the calls still");
    // Its place is free when it has left. What may not be ejected is looked at once in an interval.
    registry.leave("a:1").await;
    load(10).await;
    assert_eq!(ejected(&channel), ["b:1"]);
}

/// Three servers, of which the first has failed and is ejected, behind a channel that hedges after a tenth of a second.
struct Hedged {
    _registry: Registry,
    servers: [Server; 3],
    channel: DiscoveryChannel,
    client: Client,
    began: Instant,
}

impl Hedged {
    async fn new() -> Self {
        Self::of("").await
    }

    /// Only these methods are hedged.
    async fn of(methods: &str) -> Self {
        let (mut registry, net) = (Registry::new(), Net::new());
        let servers = ["a:1", "a:2", "a:3"].map(|address| Server::on(&net, address));
        for server in &servers {
            registry.up(&server.address).await;
        }
        let hedging = MethodConfig::default().with_hedging(HedgingPolicy::after(SECOND / 10));
        let builder = channel(&registry, &net).method(methods, hedging);
        let channel = builder.outlier_detection(OutlierDetection::default()).connect().await.unwrap();
        let client = Client::new(&channel);
        sleep(SECOND).await;
        let this = Self { _registry: registry, servers, channel, client, began: Instant::now() };
        this.servers[0].open_gate();
        for _ in 0..30 {
            let _ = this.client.call("Faulty", String::new()).await;
        }
        assert_eq!(ejected(&this.channel), ["a:1"]);
        this
    }

    /// Makes six calls in each second up to this one, of which none fails; returns how many come to each server.
    async fn load_until(&self, second: u32) -> [usize; 3] {
        let counts = || self.servers.each_ref().map(Server::calls);
        let before = counts();
        while self.began.elapsed() < second * SECOND {
            let next = Instant::now() + SECOND;
            for _ in 0..6 {
                self.client.call("Slow", String::new()).await.unwrap();
            }
            sleep_until(next).await;
        }
        let after = counts();
        [0, 1, 2].map(|index| after[index] - before[index])
    }

    /// Why the first server is ejected.
    fn cause(&self) -> Option<String> {
        self.channel.status().instances()[0].ejected().map(str::to_owned)
    }
}

/// Its probes are answered before their hedges are sent.
#[tokio::test(start_paused = true)]
async fn a_fast_server_is_back_though_calls_are_hedged() {
    let hedged = Hedged::new().await;
    assert_eq!(hedged.load_until(28).await[0], 0);
    hedged.load_until(45).await;
    assert_eq!(hedged.cause(), None);
    let shares = hedged.load_until(60).await;
    assert!(shares.iter().all(|share| share.abs_diff(30) <= 1), "{shares:?}");
}

/// A hedge of each probe is faster, so that none of them ever ends.
#[tokio::test(start_paused = true)]
async fn a_slow_server_is_ejected_again_though_its_hedges_always_win() {
    let hedged = Hedged::new().await;
    hedged.servers[0].set_delay(60_000);
    assert_eq!(hedged.load_until(28).await[0], 0);
    let log = Log::capture();
    let probes = hedged.load_until(65).await[0];
    assert!(probes > 30, "{probes}: half-open, it gets one call at a time");
    assert_eq!(hedged.cause().unwrap(), "5 failures in a row", "it is being tried");
    hedged.load_until(85).await;
    assert_eq!(hedged.cause().unwrap(), "no probe was answered");
    // For a minute.
    assert_eq!(hedged.load_until(128).await[0], 0);
    assert!(hedged.load_until(145).await[0] > 0);
    hedged.servers[0].set_delay(0);
    hedged.load_until(150).await;
    assert_eq!(hedged.cause(), None);
    let shares = hedged.load_until(165).await;
    assert!(shares.iter().all(|share| share.abs_diff(30) <= 1), "{shares:?}");
    assert_eq!(
        log.take(),
        [
            "WARN instance ejected service=greeter instance=a:1 address=a:1 cause=\"no probe was answered\" \
             time=60s ejected=1 of=3",
            "INFO ejected instance is back service=greeter instance=a:1 address=a:1",
        ]
    );
}

/// Of each stream the caller takes the first message, which is there when it is asked for, and no more. That is an answer, though
/// nothing else ends at the server that is tried.
#[tokio::test(start_paused = true)]
async fn a_server_whose_streams_are_left_at_their_beginning_is_back() {
    for methods in ["", "test.Echo/Slow"] {
        let hedged = Hedged::of(methods).await;
        hedged.servers[0].set_delay(60_000);
        hedged.servers[0].close_gate();
        while hedged.began.elapsed() < 90 * SECOND {
            let next = Instant::now() + SECOND;
            for _ in 0..4 {
                // Two, so that the turn of the server that is tried comes at streams as well.
                for _ in 0..2 {
                    let mut stream = hedged.client.stream("Stream", String::new()).await.unwrap();
                    assert!(stream.message().await.unwrap().is_some());
                }
                hedged.client.call("Slow", String::new()).await.unwrap();
            }
            sleep_until(next).await;
        }
        assert_eq!(hedged.cause(), None, "{methods:?}");
    }
}
