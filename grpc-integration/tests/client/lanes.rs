//! Lanes, end to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use hither_core::{Instance, SortedById};
use hither_tonic::{
    ChannelBuilder, DiscoveryChannel, ErrorKind, HedgingPolicy, Lane, LaneFallback, Lanes, LeastRequest,
    LoadBalancingPolicy, MethodConfig, OutlierDetection, Picker, ReadyInstance, RetryBudget, RetryPolicy,
    RoundRobin, SlowStart, Sticky, WaitForReady,
};
use http::HeaderName;
use tokio::time::{sleep, timeout};
use tonic::service::interceptor::InterceptedService;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::support::{Client, Log, Net, Registry, SERVICE, Server, path, until};
use crate::{SECOND, channel};

fn lanes() -> Lanes {
    Lanes::by_metadata("lane", LeastRequest::default).with_header(HeaderName::from_static("x-lane"))
}

fn described(server: &Server, lane: &str) -> Instance {
    let instance = Instance::new(server.address.parse().unwrap());
    if lane.is_empty() { instance } else { instance.with_metadata("lane", lane) }
}

/// Servers by name; those whose name begins with `c` are the canary, and all others the default lane.
struct Fleet {
    registry: Registry,
    net: Net,
    servers: Vec<Server>,
}

impl Fleet {
    async fn new(names: &[&str]) -> Self {
        let mut fleet = Self { registry: Registry::new(), net: Net::new(), servers: Vec::new() };
        for name in names {
            let server = Server::described(&fleet.net, &format!("{name}:1"), |server| {
                server.max_concurrent_streams(2)
            });
            let lane = if name.starts_with('c') { "canary" } else { "" };
            fleet.registry.put(described(&server, lane)).await;
            fleet.servers.push(server);
        }
        fleet
    }

    fn channel(&self, lanes: Lanes) -> ChannelBuilder {
        channel(&self.registry, &self.net).policy(lanes).max_connections(1)
    }

    async fn client(&self, builder: ChannelBuilder) -> Client {
        let client = Client::new(&builder.connect().await.unwrap());
        sleep(SECOND).await;
        client
    }

    fn calls(&self) -> Vec<usize> {
        self.servers.iter().map(Server::calls).collect()
    }
}

fn to(lane: &'static str) -> Request<String> {
    let mut request = Request::new(String::new());
    if !lane.is_empty() {
        request.extensions_mut().insert(Lane::new(lane));
    }
    request
}

async fn call(client: &Client, method: &str, lane: &'static str) -> Result<String, Status> {
    client.call(method, to(lane)).await.map(tonic::Response::into_inner)
}

#[tokio::test(start_paused = true)]
async fn tagged_calls_go_to_their_lane_and_untagged_ones_never_to_a_canary() {
    let fleet = Fleet::new(&["a", "b", "c1", "c2"]).await;
    let client = fleet.client(fleet.channel(lanes())).await;
    for _ in 0..50 {
        call(&client, "Name", "").await.unwrap();
    }
    let calls = fleet.calls();
    assert!(calls[..2].iter().sum::<usize>() == 50 && calls[2..] == [0, 0], "{calls:?}");
    let by_header = || {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("x-lane", "canary".parse().unwrap());
        request
    };
    for _ in 0..25 {
        assert!(call(&client, "Name", "canary").await.unwrap().starts_with('c'));
        assert!(client.call("Name", by_header()).await.unwrap().into_inner().starts_with('c'));
        assert!(!call(&client, "Name", "unknown").await.unwrap().starts_with('c'));
    }
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_can_choose_the_lane() {
    let fleet = Fleet::new(&["a", "c"]).await;
    let channel = fleet.channel(lanes()).connect().await.unwrap();
    sleep(SECOND).await;
    let tag = |mut request: Request<()>| {
        request.extensions_mut().insert(Lane::new("canary"));
        Ok(request)
    };
    let mut grpc = tonic::client::Grpc::new(InterceptedService::new(channel, tag));
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<String, String>::new();
    let answer = grpc.unary(Request::new(String::new()), path("Name"), codec).await.unwrap();
    assert_eq!(answer.into_inner(), "c:1");
}

#[tokio::test(start_paused = true)]
async fn a_share_of_the_untagged_calls_goes_to_the_canary() {
    let fleet = Fleet::new(&["a", "b", "c"]).await;
    let lanes = lanes().with_share("canary", 0.05).with_seed(1);
    let client = fleet.client(fleet.channel(lanes)).await;
    for _ in 0..2000 {
        call(&client, "Name", "").await.unwrap();
    }
    let calls = fleet.calls();
    // Five standard deviations.
    assert!((52..=148).contains(&calls[2]), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lane_without_instances_fails_its_calls_or_queues_them_if_it_is_set_so() {
    let mut fleet = Fleet::new(&["a"]).await;
    let client = fleet.client(fleet.channel(lanes().with_fallback(LaneFallback::Fail))).await;
    let status = call(&client, "Name", "canary").await.unwrap_err();
    let text = "no instance of the lane \"canary\" is ready";
    assert_eq!((status.code(), status.message()), (Code::Unavailable, text));
    call(&client, "Name", "").await.unwrap();
    let mut request = to("canary");
    request.extensions_mut().insert(WaitForReady(true));
    let waiting = tokio::spawn(async move { client.call("Name", request).await });
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    let canary = Server::on(&fleet.net, "c:1");
    fleet.registry.put(described(&canary, "canary")).await;
    assert_eq!(waiting.await.unwrap().unwrap().into_inner(), "c:1");
}

#[tokio::test(start_paused = true)]
async fn retries_and_hedges_go_to_other_instances_of_the_lane() {
    let fleet = Fleet::new(&["a", "b", "c1", "c2", "c3"]).await;
    let retry = RetryPolicy::default().with_max_attempts(3).with_codes([Code::Unavailable]);
    let hedging = HedgingPolicy::after(SECOND).with_max_attempts(5);
    let builder = fleet
        .channel(lanes())
        .method("test.Echo/Fail", MethodConfig::default().with_retry(retry))
        .method("test.Echo/Slow", MethodConfig::default().with_hedging(hedging))
        .retry_budget(RetryBudget::default().with_ratio(5.0));
    let client = fleet.client(builder).await;
    call(&client, "Fail", "canary").await.unwrap_err();
    assert_eq!(fleet.calls(), [0, 0, 1, 1, 1]);
    for server in &fleet.servers {
        server.set_delay(60_000);
    }
    assert!(call(&client, "Slow", "canary").await.unwrap().starts_with('c'));
    // There is no fourth.
    assert_eq!(fleet.calls(), [0, 0, 2, 2, 2]);
    // And with one instance a retry goes to it again.
    let fleet = Fleet::new(&["a", "b", "c"]).await;
    let retry = RetryPolicy::default().with_max_attempts(3).with_codes([Code::Unavailable]);
    let config = MethodConfig::default().with_retry(retry);
    let budget = RetryBudget::default().with_ratio(5.0);
    let client = fleet.client(fleet.channel(lanes()).method("", config).retry_budget(budget)).await;
    call(&client, "Fail", "canary").await.unwrap_err();
    assert_eq!(fleet.calls(), [0, 0, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_full_lane_holds_back_no_calls_of_others_and_its_calls_wait_for_it() {
    for (full, other) in [("canary", ""), ("", "canary")] {
        let fleet = Fleet::new(&["a", "c"]).await;
        let client = fleet.client(fleet.channel(lanes())).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            streams.push(client.stream("Stream", to(full)).await.unwrap());
        }
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { call(&client, "Name", full).await })
            })
            .collect();
        sleep(SECOND).await;
        for _ in 0..10 {
            let answer = timeout(SECOND, call(&client, "Name", other)).await.expect("it is not held back");
            assert_eq!(answer.unwrap().starts_with('c'), other == "canary");
        }
        assert!(waiting.iter().all(|call| !call.is_finished()));
        drop(streams.pop());
        for call in waiting {
            let answer = timeout(SECOND, call).await.expect("a stream is free").unwrap().unwrap();
            assert_eq!(answer.starts_with('c'), full == "canary");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_default_lane_leaves_the_canary_its_share() {
    let mut fleet = Fleet::new(&["a"]).await;
    let canary = Server::on(&fleet.net, "c:1");
    fleet.registry.put(described(&canary, "canary")).await;
    let lanes = lanes().with_share("canary", 0.3).with_seed(1);
    let client = fleet.client(fleet.channel(lanes)).await;
    let mut streams = Vec::new();
    while fleet.calls() != [2] {
        streams.push(client.stream("Stream", to("")).await.unwrap());
    }
    let before = canary.calls();
    let calls: Vec<_> = (0..200)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { call(&client, "Name", "").await })
        })
        .collect();
    sleep(SECOND).await;
    let shared = canary.calls() - before;
    // Four standard deviations; and those are not held back by the others, which wait.
    assert!((34..=86).contains(&shared), "{shared}");
    assert_eq!(calls.iter().filter(|call| call.is_finished()).count(), shared);
    // Nor do those draw again when they are woken.
    fleet.registry.put(described(&fleet.servers[0], "").with_metadata("changed", "yes")).await;
    sleep(SECOND).await;
    assert_eq!(canary.calls() - before, shared);
    drop(streams);
    for call in calls {
        timeout(SECOND, call).await.expect("streams are free").unwrap().unwrap();
    }
    assert_eq!(canary.calls() - before, shared);
}

#[tokio::test(start_paused = true)]
async fn a_call_in_the_line_of_another_lane_goes_to_its_own_as_soon_as_that_is_back() {
    let mut fleet = Fleet::new(&["a"]).await;
    let client = fleet.client(fleet.channel(lanes())).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.stream("Stream", to("")).await.unwrap());
    }
    let mut waiting = Vec::new();
    for lane in ["", "canary", "", "canary"] {
        let client = client.clone();
        waiting.push(tokio::spawn(async move { call(&client, "Name", lane).await }));
        sleep(SECOND).await;
    }
    let canary = Server::on(&fleet.net, "c:1");
    fleet.registry.put(described(&canary, "canary")).await;
    for at in [3, 1] {
        let call = timeout(SECOND, waiting.remove(at)).await.expect("its lane is ready");
        assert_eq!(call.unwrap().unwrap(), "c:1");
    }
    assert!(waiting.iter().all(|call| !call.is_finished()));
    drop(streams);
    for call in waiting {
        assert_eq!(timeout(SECOND, call).await.expect("it is free").unwrap().unwrap(), "a:1");
    }
}

/// The outer ones divide by version, the inner ones by lane, and untagged calls are of any inner lane.
#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_outer_lanes_is_woken_though_there_are_inner_ones() {
    let mut fleet = Fleet::new(&["a"]).await;
    fleet.registry.put(described(&fleet.servers[0], "inner").with_version("v1")).await;
    let inner = || {
        Lanes::by_metadata("lane", LeastRequest::default)
            .with_default_lane("none")
            .with_fallback(LaneFallback::AnyInstance)
    };
    let outer = Lanes::by(|instance| instance.version().map(str::to_owned), inner).with_default_lane("v1");
    let client = fleet.client(fleet.channel(outer)).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.stream("Stream", to("")).await.unwrap());
    }
    // The first waits in the line of the outer lane, and the second in that of the inner one.
    for lane in ["", "inner"] {
        let waiting = {
            let client = client.clone();
            tokio::spawn(async move { client.stream("Stream", to(lane)).await })
        };
        sleep(SECOND).await;
        assert!(!waiting.is_finished());
        drop(streams.pop());
        streams.push(timeout(SECOND, waiting).await.expect("a stream is free").unwrap().unwrap());
    }
}

/// A policy that panics over an instance with this in its metadata.
#[derive(Debug)]
struct Panics;

impl LoadBalancingPolicy for Panics {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        assert!(ready.iter().all(|ready| !ready.instance().metadata().contains_key("bug")), "a bug");
        LeastRequest::default().picker(ready)
    }
}

#[tokio::test(start_paused = true)]
async fn calls_of_a_lane_whose_policy_panics_go_to_other_instances_when_all_of_it_was_replaced() {
    let mut fleet = Fleet::new(&["a", "c1"]).await;
    let client = fleet.client(fleet.channel(Lanes::by_metadata("lane", || Panics))).await;
    assert_eq!(call(&client, "Name", "canary").await.unwrap(), "c1:1");
    let canary = Server::on(&fleet.net, "c2:1");
    fleet.registry.put(described(&canary, "canary").with_metadata("bug", "yes")).await;
    sleep(SECOND).await;
    fleet.registry.leave("c1:1").await;
    sleep(SECOND).await;
    let answer = timeout(SECOND, call(&client, "Name", "canary")).await.expect("there are others");
    assert!(["a:1", "c2:1"].contains(&&*answer.unwrap()));
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_for_a_full_lane_go_to_an_instance_that_moves_into_it() {
    let mut fleet = Fleet::new(&["a", "b", "c"]).await;
    // Which picks no other by itself while the first is ready.
    let client = fleet.client(fleet.channel(Lanes::by_metadata("lane", Sticky::default))).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        streams.push(client.stream("Stream", to("canary")).await.unwrap());
    }
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.stream("Stream", to("canary")).await })
        })
        .collect();
    sleep(SECOND).await;
    assert!(waiting.iter().all(|call| !call.is_finished()));
    fleet.registry.put(described(&fleet.servers[1], "canary")).await;
    for call in waiting {
        streams.push(timeout(SECOND, call).await.expect("b has capacity").unwrap().unwrap());
    }
    assert_eq!(fleet.calls(), [0, 2, 2]);
    // Both are full, and what is freed on the one that has moved counts for its new lane.
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { call(&client, "Name", "canary").await })
    };
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    drop(streams.pop());
    assert_eq!(timeout(SECOND, waiting).await.expect("it is free").unwrap().unwrap(), "b:1");
    // When the whole lane is gone, calls that wait for it go to the default lane.
    let waiting = {
        drop(client.stream("Stream", to("canary")).await.map(|stream| streams.push(stream)));
        let client = client.clone();
        tokio::spawn(async move { call(&client, "Name", "canary").await })
    };
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    for at in [1, 2] {
        fleet.registry.put(described(&fleet.servers[at], "other")).await;
    }
    assert_eq!(timeout(SECOND, waiting).await.expect("a has capacity").unwrap().unwrap(), "a:1");
}

/// Over sockets: calls of both lanes go on while instances move between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_change_their_metadata_move_without_a_failed_call_or_a_new_connection() {
    let mut registry = Registry::new();
    let mut servers = Vec::new();
    for lane in ["", "", "canary", "canary"] {
        let server = Server::start().await;
        registry.put(described(&server, lane)).await;
        servers.push(server);
    }
    let channel = DiscoveryChannel::builder(registry.discovery(), SERVICE).policy(lanes()).connect().await;
    let channel = channel.unwrap();
    let client = Client::new(&channel);
    // Not only as the servers see it: a lane has to be ready.
    let connections = || channel.status().instances().iter().map(|one| one.connections()).collect::<Vec<_>>();
    until("all are connected", || connections() == [1; 4]).await;
    let (is_over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (client, is_over, done) = (client.clone(), Arc::clone(&is_over), Arc::clone(&done));
            tokio::spawn(async move {
                let lane = ["", "canary"][caller % 2];
                while !is_over.load(Ordering::SeqCst) {
                    call(&client, "Name", lane).await.unwrap();
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 0..20_usize {
        // One of each lane moves to the other.
        let moving = &servers[round % 2..][..3];
        for (at, lane) in [(0, ["canary", ""]), (2, ["", "canary"])] {
            registry.put(described(&moving[at], lane[round / 2 % 2])).await;
            let (before, done) = (done.load(Ordering::SeqCst), Arc::clone(&done));
            until("calls go on", move || done.load(Ordering::SeqCst) >= before + 50).await;
        }
    }
    is_over.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("no call has failed");
    }
    for server in &servers {
        assert_eq!(server.accepted(), 1, "it was not connected to again");
    }
    // The last ones have moved, and calls go where they are now.
    registry.put(described(&servers[0], "canary")).await;
    for server in &servers[1..] {
        registry.put(described(server, "")).await;
    }
    let home = servers[0].address.clone();
    let mut in_a_row = 0;
    while in_a_row < 100 {
        let tagged = call(&client, "Name", "canary").await.unwrap();
        let untagged = call(&client, "Name", "").await.unwrap();
        in_a_row = if tagged == home && untagged != home { in_a_row + 1 } else { 0 };
    }
}

#[tokio::test(start_paused = true)]
async fn weights_and_slow_start_count_within_a_lane() {
    let mut fleet = Fleet::new(&["a", "c1", "c2"]).await;
    fleet.registry.put(described(&fleet.servers[2], "canary").with_weight(3)).await;
    let lanes = Lanes::by_metadata("lane", || RoundRobin::default().with_seed(1));
    let builder = fleet.channel(lanes).slow_start(SlowStart::new(60 * SECOND));
    let client = fleet.client(builder).await;
    sleep(60 * SECOND).await;
    let shares = |client: Client| async move {
        for _ in 0..400 {
            call(&client, "Name", "canary").await.unwrap();
        }
    };
    shares(client.clone()).await;
    let calls = fleet.calls();
    assert!(calls[0] == 0 && (95..=105).contains(&calls[1]), "{calls:?}");
    let new = Server::on(&fleet.net, "c3:1");
    fleet.registry.put(described(&new, "canary").with_weight(4)).await;
    sleep(SECOND).await;
    shares(client).await;
    // A tenth of its weight, of four and 0.4.
    assert!((26..=46).contains(&new.calls()), "{}", new.calls());
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_is_ejected_leaves_its_calls_to_the_default_lane() {
    let mut registry = Registry::new();
    let net = Net::new();
    let mut servers = Vec::new();
    for name in ["a1", "a2", "a3", "a4", "a5", "c"] {
        let server = Server::on(&net, &format!("{name}:1"));
        registry.put(described(&server, if name == "c" { "canary" } else { "" })).await;
        servers.push(server);
    }
    let detection = OutlierDetection::default();
    let builder = channel(&registry, &net).policy(lanes()).outlier_detection(detection);
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    for _ in 0..100 {
        call(&client, "Name", "").await.unwrap();
    }
    let mut failed = 0;
    while call(&client, "Fail", "canary").await.is_err() && servers[5].calls() > failed {
        failed = servers[5].calls();
        assert!(failed < 100, "it is not ejected");
        // As ejections are made by the channel's task.
        sleep(Duration::from_millis(10)).await;
        call(&client, "Name", "").await.unwrap();
    }
    for _ in 0..10 {
        assert!(call(&client, "Name", "canary").await.unwrap().starts_with('a'));
        assert!(call(&client, "Name", "").await.unwrap().starts_with('a'));
    }
}

#[tokio::test(start_paused = true)]
async fn a_closure_that_panics_leaves_the_instance_in_the_default_lane() {
    let log = Log::capture();
    let fleet = Fleet::new(&["a", "b", "c"]).await;
    let by_lane = |instance: &Instance| Some(instance.metadata()["lane"].clone());
    let client = fleet.client(fleet.channel(Lanes::by(by_lane, RoundRobin::default))).await;
    for _ in 0..4 {
        call(&client, "Name", "").await.unwrap();
        call(&client, "Name", "canary").await.unwrap();
    }
    assert_eq!(fleet.calls(), [2, 2, 4]);
    let lines: Vec<_> = log.take().into_iter().filter(|line| line.contains("panicked")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let start = "ERROR lane panicked; instance in the default lane step=\"lanes\" instance=";
    assert!(lines[0].starts_with(start), "{lines:?}");
}

#[tokio::test]
async fn a_share_above_one_is_an_error() {
    let builder = channel(&Registry::new(), &Net::new()).policy(lanes().with_share("canary", 5.0));
    let error = builder.connect_lazy().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let text = "the share of lane \"canary\" is 5, which is not between 0 and 1";
    assert_eq!(error.to_string(), text);
}
