//! Which of the ready instances is called, and what counts as load.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{join, join_all};
use hither_core::{Instance, SortedById};
use hither_tonic::{
    CallInfo, LeastRequest, LoadBalancingPolicy, Outcome, PeakEwma, Pick, Picked, Picker, ReadyInstance,
    RoundRobin, Sticky, WaitForReady,
};
use tokio::time::sleep;
use tonic::{Code, Request, Status};

use crate::support::{Client, Net, Registry, Server, until};
use crate::{SECOND, channel};

/// Servers at these addresses, registered.
async fn servers(registry: &mut Registry, net: &Net, addresses: &[&str]) -> Vec<Server> {
    let mut servers = Vec::new();
    for address in addresses {
        servers.push(Server::on(net, address));
        registry.up(address).await;
    }
    servers
}

/// The servers that answer so many calls.
async fn names(client: &Client, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(client.name().await.unwrap());
    }
    names
}

#[tokio::test(start_paused = true)]
async fn round_robin_is_exact() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _servers = servers(&mut registry, &net, &["a:1", "b:1", "c:1"]).await;
    let channel = channel(&registry, &net).policy(RoundRobin::default()).connect().await.unwrap();
    let client = Client::new(&channel);
    sleep(SECOND).await;
    let names = names(&client, 300).await;
    for (i, name) in names.iter().enumerate() {
        assert_eq!(*name, names[i % 3]);
    }
    let mut turn = names[..3].to_vec();
    turn.sort();
    assert_eq!(turn, ["a:1", "b:1", "c:1"]);
}

#[tokio::test(start_paused = true)]
async fn round_robin_continues_its_turn_when_an_instance_joins_or_changes() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _servers = servers(&mut registry, &net, &["b:1", "d:1"]).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    sleep(SECOND).await;
    while client.name().await.unwrap() != "b:1" {}
    let _joined = servers(&mut registry, &net, &["c:1"]).await;
    sleep(SECOND).await;
    assert_eq!(names(&client, 4).await, ["d:1", "b:1", "c:1", "d:1"]);
    registry.put(Instance::new("d:1".parse().unwrap()).with_metadata("shard", "3")).await;
    sleep(SECOND).await;
    assert_eq!(names(&client, 3).await, ["b:1", "c:1", "d:1"]);
}

#[tokio::test(start_paused = true)]
async fn least_request_prefers_the_less_loaded_instance() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = servers(&mut registry, &net, &["a:1", "b:1"]).await;
    let builder = channel(&registry, &net).policy(LeastRequest::default().with_seed(1));
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    let busy = stream.message().await.unwrap().unwrap();
    let idle = if busy == "a:1" { "b:1" } else { "a:1" };
    assert!(names(&client, 50).await.iter().all(|name| name == idle), "a stream counts while it is open");
    servers.iter().for_each(Server::open_gate);
    while stream.message().await.unwrap().is_some() {}
    assert!(names(&client, 50).await.contains(&busy));
}

/// All calls of a lost connection fail, which is one event, and the server may be well again at once.
#[tokio::test(start_paused = true)]
async fn a_lost_connection_costs_its_server_no_calls() {
    async fn share(policy: impl LoadBalancingPolicy) -> usize {
        let (mut registry, net) = (Registry::new(), Net::new());
        let servers = servers(&mut registry, &net, &["a:1", "b:1"]).await;
        servers.iter().for_each(|server| server.set_delay(10));
        let client = Client::new(&channel(&registry, &net).policy(policy).connect().await.unwrap());
        sleep(SECOND).await;
        let call = || client.call("Slow", String::new());
        join_all((0..20).map(|_| call())).await;
        let breaks = async {
            sleep(SECOND / 200).await;
            servers[0].break_connections();
        };
        let (ended, ()) = join(join_all((0..100).map(|_| call())), breaks).await;
        let failed = ended.iter().filter(|ended| ended.is_err()).count();
        assert!((30..=70).contains(&failed), "{failed}");
        sleep(SECOND).await;
        let before = servers[0].calls();
        for _ in 0..200 {
            call().await.unwrap();
        }
        servers[0].calls() - before
    }
    let shares =
        [share(LeastRequest::default().with_seed(1)).await, share(PeakEwma::default().with_seed(1)).await];
    assert!(shares.iter().all(|share| (60..=140).contains(share)), "{shares:?} of 200");
}

#[tokio::test(start_paused = true)]
async fn least_request_spreads_long_calls_evenly() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = servers(&mut registry, &net, &["a:1", "b:1", "c:1"]).await;
    let builder = channel(&registry, &net).policy(LeastRequest::default().with_seed(1));
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    let mut streams = Vec::new();
    for _ in 0..90 {
        streams.push(client.stream("Stream", String::new()).await.unwrap());
    }
    assert!(servers.iter().all(|server| (27..=33).contains(&server.calls())), "{servers:?}");
}

#[tokio::test(start_paused = true)]
async fn sticky_stays_with_one_until_it_is_lost() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = servers(&mut registry, &net, &["b:1", "c:1"]).await;
    let client = Client::new(&channel(&registry, &net).policy(Sticky::default()).connect().await.unwrap());
    sleep(SECOND).await;
    assert_eq!(names(&client, 10).await, ["b:1"; 10]);

    let _earlier = Server::on(&net, "a:1");
    registry.up("a:1").await;
    sleep(SECOND).await;
    assert_eq!(names(&client, 10).await, ["b:1"; 10], "also when another joins");

    drop(servers.remove(0));
    sleep(SECOND).await;
    assert_eq!(names(&client, 10).await, ["a:1"; 10]);
    let _back = Server::on(&net, "b:1");
    sleep(300 * SECOND).await;
    assert_eq!(names(&client, 10).await, ["a:1"; 10], "also when the first returns");
}

/// Picks the first instance, and records what it sees.
#[derive(Debug, Clone, Default)]
struct Spy {
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    ready: Mutex<Vec<ReadyInstance>>,
    outcomes: Mutex<Vec<(Code, Duration)>>,
}

#[derive(Debug)]
struct SpyPicker(ReadyInstance, Arc<Seen>);

impl LoadBalancingPolicy for Spy {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        *self.seen.ready.lock().unwrap() = ready.iter().cloned().collect();
        Arc::new(SpyPicker(ready[0].clone(), Arc::clone(&self.seen)))
    }
}

impl Picker for SpyPicker {
    fn pick(&self, call: &CallInfo<'_>) -> Pick {
        assert!(call.path().starts_with("/test.Echo/"));
        match call.headers().get("x-verdict").map(|verdict| verdict.as_bytes()) {
            Some(b"queue") => Pick::Queue,
            Some(b"fail") => Pick::Fail(Status::unavailable("not enough capacity")),
            Some(b"fail-alone") if self.1.ready.lock().unwrap().len() == 1 => {
                Pick::Fail(Status::unavailable("alone"))
            }
            Some(b"drop") => Pick::Drop(Status::resource_exhausted("over quota")),
            _ => Pick::Instance(self.0.clone().into()),
        }
    }

    fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        assert_eq!(*picked.instance(), self.0);
        self.1.outcomes.lock().unwrap().push((outcome.code(), outcome.duration()));
    }
}

impl Spy {
    fn in_flight(&self) -> usize {
        self.seen.ready.lock().unwrap()[0].in_flight()
    }

    fn outcome(&self) -> (Code, u64) {
        let mut outcomes = self.seen.outcomes.lock().unwrap();
        assert_eq!(outcomes.len(), 1, "{outcomes:?}");
        let (code, duration) = outcomes.remove(0);
        (code, duration.as_secs())
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_counts_as_load_until_its_body_has_ended_and_the_picker_gets_its_outcome_then() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = servers(&mut registry, &net, &["a:1"]).await;
    let spy = Spy::default();
    let client = Client::new(&channel(&registry, &net).policy(spy.clone()).connect().await.unwrap());

    client.name().await.unwrap();
    assert_eq!((spy.in_flight(), spy.outcome()), (0, (Code::Ok, 0)));

    client.call("Fail", String::new()).await.unwrap_err();
    assert_eq!((spy.in_flight(), spy.outcome()), (0, (Code::Unavailable, 0)));

    // Dropped: after its headers, and before.
    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    stream.message().await.unwrap().unwrap();
    sleep(7 * SECOND).await;
    assert_eq!(spy.in_flight(), 1);
    drop(stream);
    assert_eq!((spy.in_flight(), spy.outcome()), (0, (Code::Cancelled, 7)));

    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call("Hold", String::new()).await }
    });
    until("it is under way", || spy.in_flight() == 1).await;
    call.abort();
    until("it is over", || spy.in_flight() == 0).await;
    assert_eq!(spy.outcome(), (Code::Cancelled, 0));

    let mut request = Request::new(String::new());
    request.set_timeout(3 * SECOND);
    let mut stream = client.stream("Stream", request).await.unwrap();
    while stream.message().await.is_ok() {}
    assert_eq!((spy.in_flight(), spy.outcome()), (0, (Code::DeadlineExceeded, 3)));

    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    stream.message().await.unwrap().unwrap();
    sleep(7 * SECOND).await;
    servers[0].open_gate();
    while stream.message().await.unwrap().is_some() {}
    assert_eq!((spy.in_flight(), spy.outcome()), (0, (Code::Ok, 7)));
}

#[tokio::test(start_paused = true)]
async fn load_survives_a_new_description_of_the_instance() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _servers = servers(&mut registry, &net, &["a:1"]).await;
    let spy = Spy::default();
    let client = Client::new(&channel(&registry, &net).policy(spy.clone()).connect().await.unwrap());
    let _stream = client.stream("Stream", String::new()).await.unwrap();
    registry.put(Instance::new("a:1".parse().unwrap()).with_zone("eu-1a")).await;
    let zone = || spy.seen.ready.lock().unwrap()[0].instance().zone().map(str::to_owned);
    until("the policy sees the zone", || zone().as_deref() == Some("eu-1a")).await;
    assert_eq!(spy.in_flight(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_policy_can_queue_fail_or_drop_a_call() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = servers(&mut registry, &net, &["a:1"]).await;
    let client = Client::new(&channel(&registry, &net).policy(Spy::default()).connect().await.unwrap());
    for (verdict, wait_for_ready, expected) in [
        ("queue", false, (Code::DeadlineExceeded, "not done within 1s: no instance was picked")),
        ("fail", false, (Code::Unavailable, "not enough capacity")),
        ("fail", true, (Code::DeadlineExceeded, "not done within 1s: not enough capacity")),
        ("drop", false, (Code::ResourceExhausted, "over quota")),
        ("drop", true, (Code::ResourceExhausted, "over quota")),
    ] {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("x-verdict", verdict.parse().unwrap());
        request.extensions_mut().insert(WaitForReady(wait_for_ready));
        request.set_timeout(SECOND);
        let status = client.call("Name", request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), expected, "{verdict}, {wait_for_ready}");
    }
    assert_eq!(servers[0].calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_ready_call_that_a_picker_fails_is_offered_to_the_next_picker() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _first = servers(&mut registry, &net, &["a:1"]).await;
    let client = Client::new(&channel(&registry, &net).policy(Spy::default()).connect().await.unwrap());
    let mut request = Request::new(String::new());
    request.metadata_mut().insert("x-verdict", "fail-alone".parse().unwrap());
    request.extensions_mut().insert(WaitForReady(true));
    request.set_timeout(60 * SECOND);
    let call = tokio::spawn(async move { client.call("Name", request).await });
    sleep(SECOND).await;
    assert!(!call.is_finished());
    let _second = servers(&mut registry, &net, &["b:1"]).await;
    assert_eq!(call.await.unwrap().unwrap().into_inner(), "a:1");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_policy_queues_takes_no_other_calls_turn() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::described(&net, "a:1", |server| server.max_concurrent_streams(1));
    registry.up("a:1").await;
    let builder = channel(&registry, &net).policy(Spy::default()).max_connections(1);
    let client = Client::new(&builder.connect().await.unwrap());
    let first = client.stream("Stream", String::new()).await.unwrap();
    // Behind it, in turn: one that waits for room, ten that are held back, and one more for room.
    let waiting = |verdict: Option<&str>| {
        let (client, mut request) = (client.clone(), Request::new(String::new()));
        if let Some(verdict) = verdict {
            request.metadata_mut().insert("x-verdict", verdict.parse().unwrap());
        }
        tokio::spawn(async move { client.call("Name", request).await })
    };
    let earlier = waiting(None);
    sleep(SECOND).await;
    let held: Vec<_> = (0..10).map(|_| waiting(Some("queue"))).collect();
    sleep(SECOND).await;
    let later = waiting(None);
    sleep(SECOND).await;
    assert_eq!(server.calls(), 1);
    drop(first);
    for call in [earlier, later] {
        tokio::time::timeout(SECOND, call).await.expect("there is room").unwrap().unwrap();
    }
    assert!(held.iter().all(|call| !call.is_finished()));
}

/// A caller that yields only when the channel makes it: how many of its calls fail before another task runs.
async fn calls_before_another_task_runs(client: &Client, verdict: &str) -> usize {
    let has_run = Arc::new(AtomicBool::new(false));
    let run = Arc::clone(&has_run);
    tokio::spawn(async move { run.store(true, Ordering::SeqCst) });
    let mut calls = 0;
    while !has_run.load(Ordering::SeqCst) && calls < 10_000 {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("x-verdict", verdict.parse().unwrap());
        client.call("Name", request).await.unwrap_err();
        calls += 1;
    }
    calls
}

#[tokio::test(start_paused = true)]
async fn callers_that_repeat_calls_which_fail_at_once_keep_no_thread_from_other_tasks() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let channel = channel(&registry, &net).policy(Spy::default()).connect_lazy().unwrap();
    let client = Client::new(&channel);
    client.name().await.unwrap_err();
    let calls = calls_before_another_task_runs(&client, "no instance").await;
    assert!(calls < 1000, "no instance: {calls} calls");
    let _servers = servers(&mut registry, &net, &["a:1"]).await;
    channel.wait_ready(SECOND).await.unwrap();
    for verdict in ["fail", "drop"] {
        let calls = calls_before_another_task_runs(&client, verdict).await;
        assert!(calls < 1000, "{verdict}: {calls} calls");
    }
}

/// Picks the first instance, full or not.
#[derive(Debug)]
struct First;

#[derive(Debug)]
struct FirstPicker(ReadyInstance);

impl LoadBalancingPolicy for First {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        Arc::new(FirstPicker(ready.at(0).unwrap().clone()))
    }
}

impl Picker for FirstPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        Pick::Instance(self.0.clone().into())
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_pick_is_full_goes_to_the_instance_with_the_fewest_calls() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut all = Vec::new();
    for address in ["a:1", "b:1", "c:1"] {
        all.push(Server::described(&net, address, |server| server.max_concurrent_streams(2)));
        registry.up(address).await;
    }
    let client = Client::new(&channel(&registry, &net).policy(First).connect().await.unwrap());
    sleep(SECOND).await;
    let mut held = Vec::new();
    for expected in [[1, 0, 0], [2, 0, 0], [2, 1, 0], [2, 1, 1], [2, 2, 1], [2, 2, 2]] {
        held.push(client.stream("Stream", String::new()).await.unwrap());
        assert_eq!(all.iter().map(Server::calls).collect::<Vec<_>>(), expected);
    }
    assert!(all.iter().all(|server| server.accepted() == 1), "no further connection was needed");
}
