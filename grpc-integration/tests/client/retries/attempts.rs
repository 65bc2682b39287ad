//! When and where attempts are made, and what the caller gets of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hither_core::{Backoff, SortedById};
use hither_tonic::{
    CallInfo, CalledInstance, LeastRequest, LoadBalancingPolicy, Pick, Picker, ReadyInstance, RetryBudget,
    RetryPolicy, Sticky, WaitForReady,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status};

use super::{MILLI, client, connect, constant, policy, retrying};
use crate::SECOND;
use crate::scripted::{Fleet, Reply, Script};
use crate::support::{Client, Registry, SERVICE, Server, ready};

#[tokio::test(start_paused = true)]
async fn attempts_are_made_at_the_instants_of_the_backoff() {
    for seed in 0..20 {
        let fleet = Fleet::of(1, Script::default()).await;
        fleet.script.then(Reply::Fail(Code::Unavailable));
        let backoff = || Backoff::proportional(100 * MILLI, 2.0, 300 * MILLI, 0.2).with_seed(seed);
        let policy = RetryPolicy::default().with_max_attempts(5).with_backoff(backoff());
        let client = client(&fleet, policy).await;
        let mut template = backoff();
        for _ in 0..3 {
            let began = Instant::now();
            client.name().await.unwrap_err();
            let (mut expected, mut at) = (template.fork(), Duration::ZERO);
            for (seen, nominal) in fleet.script.take().iter().zip([0, 100, 200, 300, 300]) {
                if nominal > 0 {
                    let delay = expected.next_delay();
                    assert!(delay >= nominal * MILLI * 4 / 5 && delay <= nominal * MILLI * 6 / 5);
                    at += delay;
                }
                // Tokio's timers round up to a millisecond.
                let late = (seen.at - began).checked_sub(at).unwrap();
                assert!(late <= 5 * MILLI, "{late:?} late");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn by_default_unavailable_is_retried_twice_after_100_and_200_ms() {
    let fleet = Fleet::of(1, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let client = client(&fleet, RetryPolicy::default()).await;
    client.name().await.unwrap_err();
    let seen = fleet.script.take();
    let gaps: Vec<_> = seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect();
    let [first, second] = gaps[..] else { panic!("{gaps:?}") };
    assert!((80..=125).contains(&first) && (160..=245).contains(&second), "{gaps:?}");
    fleet.script.then(Reply::Fail(Code::ResourceExhausted));
    client.name().await.unwrap_err();
    assert_eq!(fleet.script.take().len(), 1);
}

/// grpc-go's TestRetryUnary.
#[tokio::test(start_paused = true)]
async fn a_call_is_answered_by_its_first_attempt_that_is_or_fails_with_its_last() {
    let fleet = Fleet::of(1, Script::default()).await;
    let client = client(&fleet, policy().with_codes([Code::AlreadyExists])).await;
    let (retryable, other) = (Reply::Fail(Code::AlreadyExists), Reply::Fail(Code::Internal));
    for (failures, last, code) in [
        (0, Reply::Name, None),
        (1, Reply::Name, None),
        (2, Reply::Name, None),
        (3, Reply::Name, None),
        (0, other.clone(), Some(Code::Internal)),
        (1, other.clone(), Some(Code::Internal)),
        (2, other, Some(Code::Internal)),
        (3, retryable.clone(), Some(Code::AlreadyExists)),
    ] {
        fleet.script.push((0..failures).map(|_| retryable.clone()).chain([last]));
        let outcome = client.call("Name", "request".to_owned()).await;
        assert_eq!(outcome.err().map(|status| status.code()), code);
        let seen = fleet.script.take();
        assert_eq!(seen.len(), failures + 1);
        for (number, seen) in seen.iter().enumerate() {
            let previous = (number > 0).then(|| number.to_string());
            assert_eq!(seen.previous(), previous.as_deref());
        }
        let codes = fleet.recorder.codes();
        assert_eq!(codes.len(), failures + 1, "each attempt has one end: {codes:?}");
        assert!(codes.iter().take(failures).all(|code| *code == Code::AlreadyExists), "{codes:?}");
    }
    assert_eq!(fleet.recorder.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_sets_the_delay_and_the_one_after_that_is_the_first_again() {
    let pushback = |millis| Reply::Pushback(Code::Unavailable, millis);
    let fail = Reply::Fail(Code::Unavailable);
    let fleet = Fleet::of(1, Script::of([fail.clone(), fail.clone(), pushback("1000"), fail])).await;
    let backoff = Backoff::proportional(100 * MILLI, 2.0, SECOND, 0.0);
    let client = client(&fleet, policy().with_max_attempts(5).with_backoff(backoff)).await;
    client.name().await.unwrap();
    let seen = fleet.script.take();
    let gaps: Vec<_> = seen.windows(2).map(|pair| (pair[1].at - pair[0].at).as_millis()).collect();
    assert_eq!(gaps.len(), 4);
    for (gap, expected) in gaps.iter().zip([100, 200, 1000, 100]) {
        assert!((expected..expected + 5).contains(gap), "{gaps:?}");
    }

    // It does not make another code retryable, and an attempt too many is not made for it either.
    fleet.script.push([Reply::Pushback(Code::Internal, "10")]);
    assert_eq!(client.name().await.unwrap_err().code(), Code::Internal);
    assert_eq!(fleet.script.take().len(), 1);
    fleet.script.push((0..5).map(|_| pushback("0")));
    assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fleet.script.take().len(), 5);
}

/// Envoy's predicate of previous hosts gives up after a few draws (envoyproxy/envoy#27317, #36736).
#[tokio::test(start_paused = true)]
async fn each_attempt_goes_to_an_instance_that_was_not_tried_while_there_is_one() {
    async fn servers(fleet: &Fleet, client: &Client) -> Vec<String> {
        client.name().await.unwrap_err();
        let mut servers: Vec<_> = fleet.script.take().into_iter().map(|seen| seen.server).collect();
        assert_eq!(servers.len(), 4);
        servers.sort();
        servers
    }
    let fleet = Fleet::of(4, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let all = ["a:1", "b:1", "c:1", "d:1"];
    for builder in [fleet.channel(), fleet.network.channel(SERVICE).policy(Sticky::default())] {
        let builder =
            builder.method("", retrying(policy())).retry_budget(RetryBudget::default().with_ratio(5.0));
        let client = connect(&fleet, builder).await;
        for _ in 0..50 {
            assert_eq!(servers(&fleet, &client).await, all);
        }
    }
    // Where there is none, to one that was.
    let fleet = Fleet::of(3, Script::default()).await;
    fleet.script.then(Reply::Fail(Code::Unavailable));
    let client = client(&fleet, policy()).await;
    let mut servers = servers(&fleet, &client).await;
    servers.dedup();
    assert_eq!(servers, all[..3]);
}

#[tokio::test(start_paused = true)]
async fn weight_zero_gets_no_retries_while_another_instance_is_ready() {
    for (weights, expected) in [([1, 0], &["a:1"][..]), ([0, 0], &["a:1", "b:1"])] {
        let fleet = Fleet::weighted(&weights, Script::default()).await;
        fleet.script.then(Reply::Fail(Code::Unavailable));
        let builder =
            fleet.network.channel(SERVICE).policy(LeastRequest::default()).method("", retrying(policy()));
        let client = connect(&fleet, builder).await;
        client.name().await.unwrap_err();
        let mut servers: Vec<_> = fleet.script.take().into_iter().map(|seen| seen.server).collect();
        assert_eq!(servers.len(), 4);
        servers.sort();
        servers.dedup();
        assert_eq!(servers, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_caller_gets_the_last_failure_whole() {
    let fleet = Fleet::of(2, Script::default()).await;
    fleet.script.then(Reply::Pushback(Code::Unavailable, "1"));
    let client = client(&fleet, policy()).await;
    let called = CalledInstance::default();
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(called.clone());
    let status = client.call("Name", request).await.unwrap_err();
    let last = fleet.script.take().pop().unwrap().server;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, format!("from {last}").as_str()));
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1");
    assert_eq!(called.get().unwrap().instance().id().to_string(), last);
}

#[tokio::test(start_paused = true)]
async fn a_response_of_a_proxy_is_retried_by_the_code_that_it_stands_for() {
    let fleet = Fleet::of(2, Script::of([Reply::Http(503), Reply::Http(502)])).await;
    let client = client(&fleet, policy()).await;
    client.name().await.unwrap();
    assert_eq!(fleet.script.take().len(), 3);
    assert_eq!(fleet.recorder.codes(), [Code::Unavailable, Code::Unavailable, Code::Ok]);
    fleet.script.push([Reply::Http(404)]);
    let status = client.name().await.unwrap_err();
    let [seen] = &fleet.script.take()[..] else { panic!("it was retried") };
    assert_eq!((status.code(), fleet.recorder.codes()), (Code::Unimplemented, vec![Code::Unimplemented]));
    assert!(status.message().ends_with(&format!(" at {}", seen.server)), "{status:?}");
    // It may forbid retries, and delay them.
    fleet.script.push([Reply::HttpPushback(503, "-1")]);
    assert_eq!(client.name().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(fleet.script.take().len(), 1);
    fleet.script.push([Reply::HttpPushback(503, "5000")]);
    let began = Instant::now();
    client.name().await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_retried_elsewhere() {
    let mut fleet = Fleet::of(2, Script::of([Reply::Silence])).await;
    let client = client(&fleet, policy()).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.name().await }
    });
    sleep(SECOND).await;
    let seen = fleet.script.take();
    let at = fleet
        .servers
        .iter()
        .position(|server| server.host().address().to_string() == seen[0].server)
        .unwrap();
    fleet.servers.remove(at).kill();
    let name = call.await.unwrap().unwrap();
    assert_ne!(name, seen[0].server);
    assert_eq!(fleet.recorder.codes(), [Code::Unavailable, Code::Ok]);

    // Without a policy it is not.
    let fleet = Fleet::of(2, Script::of([Reply::Silence, Reply::Silence])).await;
    let plain = fleet.channel().method("test.Echo/Other", retrying(RetryPolicy::default()));
    let client = connect(&fleet, plain).await;
    let call = tokio::spawn(async move { client.name().await });
    sleep(SECOND).await;
    fleet.servers.into_iter().for_each(|server| server.kill());
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

/// A call whose connection died between two attempts was retried until its deadline (grpc/grpc-go#5341).
#[tokio::test(start_paused = true)]
async fn where_no_instance_is_left_a_call_fails_after_its_attempts() {
    let mut fleet = Fleet::of(1, Script::of([Reply::Silence])).await;
    let client = client(&fleet, policy().with_backoff(constant(100 * MILLI))).await;
    let call = tokio::spawn({
        let client = client.clone();
        async move {
            let mut request = Request::new(String::new());
            request.set_timeout(60 * SECOND);
            client.call("Name", request).await
        }
    });
    sleep(SECOND).await;
    let began = Instant::now();
    fleet.servers.remove(0).kill();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("refused"), "{status:?}");
    assert!((300..320).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert_eq!(fleet.recorder.codes(), [Code::Unavailable], "one was sent");
    // Where calls wait for an instance, the next attempt does.
    let router = || tonic::transport::Server::builder().add_service(crate::support::Echo::new("again"));
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(WaitForReady(true));
    let call = tokio::spawn(async move { client.call("Name", request).await });
    sleep(60 * SECOND).await;
    let _server = fleet.network.serve(SERVICE, "a:1", router()).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap().into_inner(), "again");
}

/// Drops what it is asked for after so many picks, which it counts.
#[derive(Debug, Clone)]
struct Dropping {
    after: usize,
    picks: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct DroppingPicker(Dropping, ReadyInstance);

impl LoadBalancingPolicy for Dropping {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        Arc::new(DroppingPicker(self.clone(), ready[0].clone()))
    }
}

impl Picker for DroppingPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        match self.0.picks.fetch_add(1, Ordering::SeqCst) < self.0.after {
            true => Pick::Instance(self.1.clone().into()),
            false => Pick::Drop(Status::unavailable("dropped")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_policy_drops_is_not_retried() {
    // At the first attempt, and at the second.
    for (after, attempts, picks) in [(0, 0, 1), (1, 1, 2)] {
        let fleet = Fleet::of(1, Script::default()).await;
        fleet.script.then(Reply::Fail(Code::Unavailable));
        let dropping = Dropping { after, picks: Arc::default() };
        let builder = fleet.channel().policy(dropping.clone()).method("", retrying(policy()));
        let client = connect(&fleet, builder).await;
        assert_eq!(client.name().await.unwrap_err().message(), "dropped");
        assert_eq!((fleet.script.seen().len(), dropping.picks.load(Ordering::SeqCst)), (attempts, picks));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_costs_no_call() {
    let (mut registry, mut servers) = (Registry::new(), Vec::new());
    for _ in 0..3 {
        let server = Server::start().await;
        registry.up(&server.address).await;
        servers.push(server);
    }
    let builder = hither_tonic::DiscoveryChannel::builder(registry.discovery(), SERVICE);
    let channel = builder.method("", retrying(policy())).connect().await.unwrap();
    ready(&channel, 3).await;
    let client = Client::new(&channel);
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    client.call("Faulty", String::new()).await?;
                }
                Ok::<_, Status>(())
            })
        })
        .collect();
    for _ in 0..2 {
        sleep(100 * MILLI).await;
        drop(servers.pop());
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}
