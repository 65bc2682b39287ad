//! Outlier detection: servers that fail get no calls, and what fails everywhere ejects none. The reports of others that are
//! tried are named at the tests.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use hither_tonic::{ErrorKind, FailurePercentage, LeastRequest, OutlierDetection, RoundRobin, SuccessRate};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use crate::support::{Client, Log, Net, Registry, Server, peers};
use crate::{SECOND, channel};

/// Servers in a network without sockets, and a client of all of them.
struct Fleet {
    _registry: Registry,
    net: Net,
    servers: Vec<Server>,
    client: Client,
}

impl Fleet {
    async fn new(count: usize, detection: OutlierDetection) -> Self {
        let (mut registry, net) = (Registry::new(), Net::new());
        let mut servers = Vec::new();
        for number in 1..=count {
            let address = format!("a:{number}");
            servers.push(Server::on(&net, &address));
            registry.up(&address).await;
        }
        let builder = channel(&registry, &net).outlier_detection(detection);
        let client = Client::new(&builder.connect().await.unwrap());
        sleep(SECOND).await;
        Self { _registry: registry, net, servers, client }
    }

    /// Makes so many calls, one after the other; returns how many have failed.
    async fn calls(&self, method: &str, count: usize) -> usize {
        let mut failed = 0;
        for _ in 0..count {
            failed += usize::from(self.client.call(method, String::new()).await.is_err());
        }
        failed
    }

    /// How many calls each server gets while these run.
    async fn shares(&self, running: impl Future<Output = usize>) -> (usize, Vec<usize>) {
        let counts = || self.servers.iter().map(Server::calls).collect::<Vec<_>>();
        let before = counts();
        let failed = running.await;
        (failed, counts().iter().zip(before).map(|(now, before)| now - before).collect())
    }

    /// Calls for so many seconds, six times in each; returns how many calls have failed.
    async fn load(&self, method: &str, seconds: u32) -> usize {
        let mut failed = 0;
        for _ in 0..seconds {
            failed += self.calls(method, 6).await;
            sleep(SECOND - SECOND * 12 / 1000).await;
        }
        failed
    }
}

fn detection() -> OutlierDetection {
    OutlierDetection::default()
}

/// The calls that servers have in hand until their gate is open.
fn hold(client: &Client, count: usize) -> Vec<JoinHandle<Result<(), Status>>> {
    let call = |client: Client| async move { client.call("Hold", String::new()).await.map(drop) };
    (0..count).map(|_| tokio::spawn(call(client.clone()))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_at_once_is_left_out_and_the_others_share_its_calls() {
    for count in [2, 3, 10] {
        let fleet = Fleet::new(count, detection()).await;
        fleet.calls("Faulty", 10 * count).await;
        fleet.servers[0].open_gate();
        let (failed, shares) = fleet.shares(fleet.calls("Faulty", 200 * count)).await;
        let expected = if count == 2 { 6 } else { 5 };
        assert!(failed <= expected && shares[0] == failed, "{failed} of {count}: {shares:?}");
        for share in &shares[1..] {
            let fair = 200 * count / (count - 1);
            assert!(share.abs_diff(fair) <= fair / 20 + 1, "{shares:?}");
        }
    }
}

/// The default policy, with many callers at once: its own defence against such a server and this one do not disturb each
/// other.
#[tokio::test(start_paused = true)]
async fn a_failing_server_is_left_out_by_least_request_too() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let servers = [Server::on(&net, "a:1"), Server::on(&net, "a:2"), Server::on(&net, "a:3")];
    for server in &servers {
        registry.up(&server.address).await;
    }
    let policy = LeastRequest::default().with_seed(1);
    let builder = channel(&registry, &net).policy(policy).outlier_detection(detection());
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    servers[0].open_gate();
    let callers = (0..16).map(|_| async {
        let mut failed = 0;
        for _ in 0..200 {
            failed += usize::from(client.call("Faulty", String::new()).await.is_err());
        }
        failed
    });
    let failed: usize = join_all(callers).await.into_iter().sum();
    assert!(failed <= 5 + 16, "{failed}: five, and what was in flight");
}

/// Detectors that count failures alone eject healthy servers for it (envoyproxy/envoy-mobile#1866).
#[tokio::test(start_paused = true)]
async fn a_wrong_request_that_fails_everywhere_ejects_none() {
    for count in [1, 2, 3, 10] {
        let log = Log::capture();
        let detection = detection()
            .with_max_ejection_percent(100)
            .with_failure_percentage(FailurePercentage::default().with_threshold(10));
        let fleet = Fleet::new(count, detection).await;
        fleet.calls("Name", 100).await;
        let (failed, shares) = fleet.shares(fleet.load("Fail", 60)).await;
        assert_eq!(failed, 360);
        assert!(shares.iter().all(|share| share.abs_diff(360 / count) <= 1), "{shares:?}");
        // Mixed with calls that succeed.
        let mut random = fastrand::Rng::with_seed(1);
        let mixed = async {
            for _ in 0..300 {
                fleet.calls(if random.u8(..3) == 0 { "Fail" } else { "Name" }, 1).await;
            }
            0
        };
        let (_, shares) = fleet.shares(mixed).await;
        assert!(shares.iter().all(|share| share.abs_diff(300 / count) <= 1), "{shares:?}");
        assert_eq!(log.take(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_servers_fail_none_is_ejected() {
    let fleet = Fleet::new(3, detection().with_max_ejection_percent(100)).await;
    fleet.calls("Faulty", 300).await;
    fleet.servers.iter().for_each(Server::open_gate);
    let (failed, shares) = fleet.shares(fleet.load("Faulty", 60)).await;
    assert_eq!((failed, shares), (360, vec![120; 3]));
    fleet.servers.iter().for_each(Server::close_gate);
    assert_eq!(fleet.calls("Faulty", 30).await, 0, "and all are back at once");
}

/// istio/istio#8846: a server was not ejected, because its code was not among those that count.
#[tokio::test(start_paused = true)]
async fn codes_that_blame_the_request_eject_none() {
    let fleet = Fleet::new(3, detection().with_max_ejection_percent(100)).await;
    let (failed, shares) = fleet.shares(fleet.load("Unknown", 30)).await;
    assert_eq!((failed, shares), (180, vec![60; 3]));
    let status = fleet.client.call("Unknown", String::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_on_failing_gets_one_call_after_ever_longer_times() {
    let log = Log::capture();
    let fleet = Fleet::new(3, detection()).await;
    fleet.load("Faulty", 1).await;
    fleet.servers[0].open_gate();
    assert_eq!(fleet.load("Faulty", 10).await, 5);
    let lines = log.take();
    let line = "WARN instance ejected service=greeter instance=a:1 address=a:1 cause=\"5 failures in a row\" \
                time=30s ejected=1 of=3";
    assert_eq!(lines, [line]);
    // Ejected for 30, 60, 90, 120, ... seconds; each time is looked at every ten seconds.
    for (seconds, probes) in [(40, 1), (70, 1), (100, 1), (130, 1)] {
        assert_eq!(fleet.load("Faulty", seconds).await, probes, "within {seconds} s");
    }
    assert_eq!(log.take().len(), 4);
    fleet.servers[0].close_gate();
    fleet.load("Faulty", 160).await;
    assert_eq!(log.take(), ["INFO ejected instance is back service=greeter instance=a:1 address=a:1"]);
    let (failed, shares) = fleet.shares(fleet.load("Faulty", 3)).await;
    assert_eq!((failed, shares), (0, vec![6; 3]));
}

/// Fails for twenty seconds in each forty.
#[tokio::test(start_paused = true)]
async fn a_flapping_server_is_left_out_more_and_more() {
    let fleet = Fleet::new(3, detection()).await;
    let mut failed = Vec::new();
    for _ in 0..10 {
        fleet.load("Faulty", 20).await;
        fleet.servers[0].open_gate();
        failed.push(fleet.load("Faulty", 20).await);
        fleet.servers[0].close_gate();
    }
    let failed: usize = failed.iter().sum();
    assert!(failed <= 5 * 10, "{failed} of 1200 calls; 400 without");
}

/// A host was back with its next health check, failed or not (envoyproxy/envoy#32442).
#[tokio::test(start_paused = true)]
async fn a_new_connection_ends_no_ejection() {
    let fleet = Fleet::new(3, detection()).await;
    fleet.calls("Faulty", 30).await;
    fleet.servers[0].open_gate();
    assert_eq!(fleet.calls("Faulty", 100).await, 5);
    fleet.servers[0].break_connections();
    sleep(SECOND).await;
    assert_eq!((fleet.servers[0].open(), fleet.calls("Faulty", 100).await), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_ejected_server_stays_connected_and_its_streams_go_on() {
    let fleet = Fleet::new(3, detection()).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(fleet.client.stream("Ticks", String::new()).await.unwrap());
    }
    assert!(fleet.servers.iter().all(|server| server.calls() == 1), "one each");
    fleet.calls("Name", 60).await;
    let (failing, log) = (&fleet.servers[0], Log::capture());
    failing.open_gate();
    assert_eq!(fleet.calls("Faulty", 100).await, 5);
    for stream in &mut streams {
        // Half a minute of them: they were not sent before the ejection.
        for _ in 0..300 {
            assert_eq!(stream.message().await.unwrap().unwrap(), "tick");
        }
    }
    assert_eq!((log.take().len(), failing.open(), failing.accepted()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_lasts_ends_the_probation_of_its_server() {
    let fleet = Fleet::new(2, detection()).await;
    fleet.calls("Faulty", 20).await;
    fleet.servers[0].open_gate();
    fleet.load("Faulty", 10).await;
    fleet.servers[0].close_gate();
    sleep(30 * SECOND).await;
    let mut streams = Vec::new();
    let mut open = async |count: usize| {
        for _ in 0..count {
            let mut stream = fleet.client.stream("Stream", String::new()).await.unwrap();
            let name = stream.message().await.unwrap().unwrap();
            streams.push((name, stream));
        }
        streams.iter().filter(|(name, _)| name == "a:1").count()
    };
    assert_eq!(open(10).await, 1, "one is let through");
    sleep(35 * SECOND).await;
    assert_eq!(open(10).await, 1);
    sleep(10 * SECOND).await;
    assert_eq!(open(10).await, 6, "it is back");
}

#[tokio::test(start_paused = true)]
async fn an_ejected_server_is_called_when_the_others_are_lost() {
    let log = Log::capture();
    let mut fleet = Fleet::new(2, detection()).await;
    fleet.calls("Name", 20).await;
    fleet.servers[0].open_gate();
    fleet.calls("Faulty", 100).await;
    assert_eq!(fleet.shares(fleet.calls("Name", 10)).await, (0, vec![0, 10]));
    log.take();
    drop(fleet.servers.pop());
    sleep(SECOND).await;
    assert_eq!(fleet.calls("Name", 10).await, 0);
    let panic = "WARN too many instances ejected; all are called service=greeter left=0 of=1";
    assert!(log.take().contains(&panic.to_owned()));
    // Where none is left there are not enough.
    drop(fleet.servers.pop());
    sleep(SECOND).await;
    fleet.servers.push(Server::on(&fleet.net, "a:1"));
    sleep(5 * SECOND).await;
    assert_eq!(fleet.calls("Name", 10).await, 0);
    assert!(!log.take().iter().any(|line| line.contains("called") || line.contains("left")));
    let _back = Server::on(&fleet.net, "a:2");
    sleep(5 * SECOND).await;
    assert_eq!(fleet.shares(fleet.calls("Name", 10)).await, (0, vec![0]));
    let lines = log.take();
    let calm = "INFO enough instances left; ejected ones are left out service=greeter left=1 of=2";
    assert!(lines.contains(&calm.to_owned()), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn below_the_panic_threshold_all_are_called() {
    let log = Log::capture();
    let fleet = Fleet::new(3, detection().with_max_ejection_percent(100)).await;
    fleet.calls("Faulty", 300).await;
    fleet.servers[..2].iter().for_each(Server::open_gate);
    let (failed, shares) = fleet.shares(fleet.load("Faulty", 20)).await;
    assert!(failed > 60 && shares.iter().all(|share| *share > 30), "{failed}: {shares:?}");
    let lines = log.take();
    assert_eq!(
        lines.iter().filter(|line| line.contains("too many instances ejected")).count(),
        1,
        "{lines:?}"
    );
}

/// As many calls as are in flight fail when a connection is lost: one event, and the instance may be healthy again at once.
#[tokio::test(start_paused = true)]
async fn a_lost_connection_counts_once() {
    let log = Log::capture();
    let fleet = Fleet::new(3, detection()).await;
    fleet.calls("Name", 60).await;
    let held = hold(&fleet.client, 60);
    sleep(SECOND).await;
    fleet.servers[0].break_connections();
    sleep(SECOND).await;
    // The others answer theirs: that would be evidence.
    fleet.servers[1..].iter().for_each(Server::open_gate);
    sleep(SECOND).await;
    fleet.servers[1..].iter().for_each(Server::close_gate);
    let failed = join_all(held.into_iter().map(|call| timeout(SECOND / 100, call))).await;
    assert_eq!(failed.iter().filter(|call| matches!(call, Ok(Ok(Err(_))))).count(), 20);
    let held = hold(&fleet.client, 3);
    sleep(SECOND).await;
    fleet.servers[0].break_connections();
    sleep(SECOND).await;
    held.into_iter().for_each(|call| call.abort());
    let (failed, shares) = fleet.shares(fleet.calls("Name", 30)).await;
    assert_eq!((failed, shares), (0, vec![10; 3]));
    assert_eq!(log.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_answers_while_it_drains_is_no_lost_connection() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    peers::draining(&net, "a:1", 20);
    let _servers = [Server::on(&net, "a:2"), Server::on(&net, "a:3")];
    for address in ["a:1", "a:2", "a:3"] {
        registry.up(address).await;
    }
    let builder = channel(&registry, &net).outlier_detection(detection());
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    let _held = hold(&client, 60);
    for _ in 0..100 {
        sleep(SECOND / 200).await;
        client.name().await.unwrap();
    }
    let lines = log.take();
    assert!(lines.iter().any(|line| line.contains("failures in a row")), "{lines:?}");
}

/// It has not come to them.
#[tokio::test(start_paused = true)]
async fn what_a_server_refuses_by_goaway_is_no_failure_of_it() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let refused = peers::going_away(&net, "a:1");
    let _servers = [Server::on(&net, "a:2"), Server::on(&net, "a:3")];
    for address in ["a:1", "a:2", "a:3"] {
        registry.up(address).await;
    }
    let builder = channel(&registry, &net).outlier_detection(detection());
    let client = Client::new(&builder.connect().await.unwrap());
    for _ in 0..1200 {
        client.name().await.unwrap();
        sleep(SECOND / 10).await;
    }
    assert!(refused.load(Ordering::SeqCst) > 5);
    let lines = log.take();
    assert!(!lines.iter().any(|line| line.contains("in a row")), "{lines:?}");
}

/// A server that accepts, and ends each connection with its calls.
#[tokio::test(start_paused = true)]
async fn a_server_that_loses_each_connection_is_ejected() {
    let log = Log::capture();
    let fleet = Fleet::new(3, detection()).await;
    for _ in 0..6 {
        fleet.calls("Name", 30).await;
        let held = hold(&fleet.client, 30);
        sleep(SECOND / 10).await;
        fleet.servers[0].break_connections();
        sleep(SECOND / 10).await;
        held.into_iter().for_each(|call| call.abort());
    }
    assert_eq!(log.take(), [""; 0], "it answers in between");
    for _ in 0..6 {
        let held = hold(&fleet.client, 9);
        sleep(SECOND / 10).await;
        fleet.servers[0].break_connections();
        fleet.servers[1..].iter().for_each(Server::open_gate);
        sleep(SECOND / 10).await;
        fleet.servers[1..].iter().for_each(Server::close_gate);
        held.into_iter().for_each(|call| call.abort());
    }
    assert!(log.take()[0].contains("5 failures in a row"));
}

/// What the caller gives up says nothing of the server (envoyproxy/envoy#3643 is about such distinctions).
#[tokio::test(start_paused = true)]
async fn calls_that_are_given_up_eject_none_and_those_past_their_deadline_do() {
    let log = Log::capture();
    let fleet = Fleet::new(3, detection()).await;
    fleet.servers[1..].iter().for_each(Server::open_gate);
    for _ in 0..60 {
        let _ = timeout(SECOND / 10, fleet.client.call("Hold", String::new())).await;
    }
    assert_eq!(log.take(), [""; 0]);
    for _ in 0..60 {
        let mut request = tonic::Request::new(String::new());
        request.set_timeout(SECOND / 10);
        let _ = fleet.client.call("Hold", request).await;
    }
    assert_eq!(log.take().len(), 1);
    assert_eq!(fleet.shares(fleet.calls("Name", 30)).await, (0, vec![0, 15, 15]));
}

#[tokio::test(start_paused = true)]
async fn half_of_its_calls_may_fail_and_it_is_found_by_its_rate() {
    let log = Log::capture();
    let rate = SuccessRate::default().with_minimum_hosts(3).with_stdev_factor(1.0);
    let fleet = Fleet::new(3, detection().with_success_rate(rate)).await;
    // Every other call of the first server fails: not so many in a row.
    for _ in 0..600 {
        fleet.calls("Faulty", 3).await;
        if fleet.servers[0].calls() % 2 == 0 {
            fleet.servers[0].open_gate();
        } else {
            fleet.servers[0].close_gate();
        }
        sleep(SECOND / 50).await;
    }
    let lines = log.take();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("success rate below the others': 50."), "{lines:?}");
}

#[tokio::test]
async fn invalid_settings_are_errors() {
    let (registry, net) = (Registry::new(), Net::new());
    let zero = Duration::ZERO;
    for (config, expected) in [
        (detection().with_interval(zero), "interval is zero"),
        (detection().with_base_ejection_time(zero), "base_ejection_time is zero"),
        (detection().with_max_ejection_percent(101), "max_ejection_percent is above 100"),
        (detection().with_panic_threshold(101), "panic_threshold is above 100"),
        (detection().with_consecutive_failures(0), "consecutive_failures is zero"),
        (
            detection().with_success_rate(SuccessRate::default().with_stdev_factor(f64::NAN)),
            "stdev_factor is negative or no number",
        ),
        (
            detection().with_failure_percentage(FailurePercentage::default().with_threshold(101)),
            "threshold is above 100",
        ),
    ] {
        let builder = channel(&registry, &net).policy(RoundRobin::default()).outlier_detection(config);
        let error = builder.connect_lazy().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.to_string(), format!("outlier_detection: {expected}"));
    }
    let longest = detection().with_interval(Duration::MAX).with_base_ejection_time(Duration::MAX);
    let _channel = channel(&registry, &net).outlier_detection(longest).connect_lazy().unwrap();
}
