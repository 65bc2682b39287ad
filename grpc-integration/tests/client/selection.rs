//! Which of the registered instances are connected to and called.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use hither_core::{Instance, InstanceState};
use hither_tonic::{
    ChannelBuilder, ConnectivityState, DiscoveryChannel, ErrorKind, LeastRequest, OutlierDetection,
    Selection, SlowStart, WaitForReady,
};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::{Code, Request};

use crate::support::peers::Frozen;
use crate::support::{Client, Log, Net, Registry, Server, until};
use crate::{SECOND, channel};

const A: [&str; 10] = ["a0:1", "a1:1", "a2:1", "a3:1", "a4:1", "a5:1", "a6:1", "a7:1", "a8:1", "a9:1"];
const B: [&str; 5] = ["b0:1", "b1:1", "b2:1", "b3:1", "b4:1"];

fn in_zone(address: &str) -> Instance {
    Instance::new(address.parse().unwrap()).with_zone(&address[..1])
}

/// Servers in a zone, named by the first letter of their address, and registered.
struct Zone {
    servers: BTreeMap<&'static str, Server>,
}

impl Zone {
    async fn start(registry: &mut Registry, net: &Net, addresses: &[&'static str]) -> Self {
        let mut servers = BTreeMap::new();
        for address in addresses {
            servers.insert(*address, Server::on(net, address));
            registry.put(in_zone(address)).await;
        }
        Self { servers }
    }

    fn calls(&self) -> usize {
        self.servers.values().map(Server::calls).sum()
    }

    fn open(&self) -> usize {
        self.servers.values().map(Server::open).sum()
    }

    fn accepted(&self) -> usize {
        self.servers.values().map(Server::accepted).sum()
    }
}

async fn call(client: &Client, count: usize) {
    for _ in 0..count {
        client.name().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn of_10_000_instances_a_subset_of_20_is_connected_to() {
    let (registry, net) = (Registry::new(), Net::new());
    let addresses: Vec<String> = (0..10_000).map(|number| format!("h{number}:1")).collect();
    let all = net.listen_on_all(addresses.iter().map(|address| address.parse().unwrap()));
    let server = Server::taking(all, "all", |server| server);
    for address in &addresses {
        registry.faults().put_without_lease(&Registry::service(), Instance::new(address.parse().unwrap()));
    }
    let selection = Selection::default().subset(20);
    let client = Client::new(&channel(&registry, &net).selection(selection).connect().await.unwrap());
    sleep(SECOND).await;
    call(&client, 100).await;
    assert_eq!((server.open(), server.accepted()), (20, 20));
    // Half of all leave, one after the other: each that was connected is replaced by one.
    let dialled = |address: &&String| !net.dials(address).is_empty();
    let leaving: Vec<_> = addresses.iter().filter(dialled).take(10).collect();
    for (replaced, address) in leaving.iter().enumerate() {
        registry.faults().delete_record(&Registry::service(), &address.parse().unwrap());
        sleep(SECOND).await;
        assert_eq!((server.open(), server.accepted()), (20, 21 + replaced));
    }
}

/// The selected ones may be the last of an update that are followed.
#[tokio::test(start_paused = true)]
async fn calls_wait_while_an_update_of_many_instances_is_followed() {
    let (registry, net) = (Registry::new(), Net::new());
    let addresses: Vec<String> = (0..2000).map(|number| format!("h{number}:1")).collect();
    let all = net.listen_on_all(addresses.iter().map(|address| address.parse().unwrap()));
    let _server = Server::taking(all, "all", |server| server);
    for (number, address) in addresses.iter().enumerate() {
        let instance =
            Instance::new(address.parse().unwrap()).with_id(format!("i{number:04}").parse().unwrap());
        let zone = if number == 1999 { "last" } else { "others" };
        registry.faults().put_without_lease(&Registry::service(), instance.with_zone(zone));
    }
    let last = Selection::default().prefer_zone("last");
    for selection in [last, Selection::default().subset(3), Selection::default().pick_first()] {
        let channel = channel(&registry, &net).selection(selection.with_seed(1)).connect_lazy().unwrap();
        let mut changes = Box::pin(channel.status_changes());
        let states = tokio::spawn(async move {
            let mut states = Vec::new();
            while let Some(status) = changes.next().await {
                states.push(status.state());
            }
            states
        });
        assert_eq!(Client::new(&channel).name().await.unwrap(), "all");
        drop(channel);
        assert!(!states.await.unwrap().contains(&ConnectivityState::TransientFailure));
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_filter_leaves_out_is_not_connected_to() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let [old, new] = ["a:1", "b:1"].map(|address| Server::on(&net, address));
    let version = |address: &str, version| Instance::new(address.parse().unwrap()).with_version(version);
    registry.put(version("a:1", "v1")).await;
    registry.put(version("b:1", "v2")).await;
    let selection = Selection::default().filter(|instance| instance.version() == Some("v2"));
    let client = Client::new(&channel(&registry, &net).selection(selection).connect().await.unwrap());
    call(&client, 10).await;
    assert_eq!((old.accepted(), new.calls()), (0, 10));
    // What an instance announces may change.
    registry.put(version("a:1", "v2")).await;
    registry.put(version("b:1", "v1")).await;
    sleep(SECOND).await;
    call(&client, 10).await;
    assert_eq!((old.calls(), new.calls(), new.open()), (10, 10, 0));
}

/// An old record of a server that is up again with another id.
#[tokio::test(start_paused = true)]
async fn of_several_records_of_one_server_any_may_pass() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    for (id, version) in [("1", "v1"), ("2", "v2")] {
        let instance = Instance::new("a:1".parse().unwrap()).with_id(id.parse().unwrap());
        registry.put(instance.with_version(version)).await;
    }
    let selection = Selection::default().filter(|instance| instance.version() == Some("v2"));
    let client = Client::new(&channel(&registry, &net).selection(selection).connect().await.unwrap());
    call(&client, 1).await;
    assert_eq!(server.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_selection_that_leaves_nothing_is_the_reason_that_calls_fail_with() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let zone = Zone::start(&mut registry, &net, &A).await;
    let none = Selection::default().filter(|instance| instance.version() == Some("v2"));
    let channel = channel(&registry, &net).selection(none).connect_lazy().unwrap();
    let client = Client::new(&channel);
    let status = client.name().await.unwrap_err();
    let reason = "none of the 10 instances of greeter is selected";
    assert_eq!((status.code(), status.message()), (Code::Unavailable, reason));
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(WaitForReady(true));
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.call("Name", request).await }
    });
    sleep(SECOND).await;
    assert_eq!((zone.accepted(), waiting.is_finished()), (0, false));
    channel.set_selection(Selection::default()).unwrap();
    waiting.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_subset_of_zero_is_refused() {
    let (registry, net) = (Registry::new(), Net::new());
    let none = Selection::default().subset(0);
    let error = channel(&registry, &net).selection(none.clone()).connect_lazy().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.to_string(), "the subset of the selection is zero");
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    assert_eq!(channel.set_selection(none).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

/// Envoy's formula: with half of the zone usable it gets 70 %. That all of the others are new takes nothing from them.
#[tokio::test(start_paused = true)]
async fn a_zone_with_too_few_instances_keeps_its_share_and_the_rest_spills_over() {
    spill_over(|builder| builder).await;
    spill_over(|builder| builder.slow_start(SlowStart::new(600 * SECOND))).await;
}

async fn spill_over(set: impl FnOnce(ChannelBuilder) -> ChannelBuilder) {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut near = Zone::start(&mut registry, &net, &A).await;
    let far = Zone::start(&mut registry, &net, &B).await;
    let builder = channel(&registry, &net)
        .selection(Selection::default().prefer_zone("a"))
        .policy(LeastRequest::default().with_seed(1));
    let client = Client::new(&set(builder).connect().await.unwrap());
    sleep(SECOND).await;
    call(&client, 1000).await;
    assert_eq!((near.calls(), near.open(), far.accepted()), (1000, 10, 0));

    let failed: Vec<_> = A[..5].iter().map(|address| near.servers.remove(address).unwrap()).collect();
    drop(failed);
    sleep(SECOND).await;
    let before = near.calls();
    call(&client, 4000).await;
    let share = near.calls() - before;
    // A binomial deviation is 29, and shares are kept to one per cent.
    assert!((2800 - 185..2800 + 185).contains(&share), "{share}");
    assert_eq!(far.open(), 5);
    let spread: Vec<_> = far.servers.values().map(Server::calls).collect();
    assert!(spread.iter().all(|calls| (180..300).contains(calls)), "{spread:?}");
}

/// What outlier detection leaves out is not usable.
#[tokio::test(start_paused = true)]
async fn a_zone_of_which_half_is_ejected_keeps_its_share_and_the_rest_spills_over() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let near = Zone::start(&mut registry, &net, &A[..4]).await;
    let far = Zone::start(&mut registry, &net, &B[..2]).await;
    let outliers = OutlierDetection::default()
        .with_max_ejection_percent(50)
        .with_consecutive_failures(5)
        .with_interval(1000 * SECOND)
        .with_base_ejection_time(1000 * SECOND);
    let builder =
        channel(&registry, &net).selection(Selection::default().prefer_zone("a")).outlier_detection(outliers);
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    for server in near.servers.values().take(2) {
        server.open_gate();
    }
    for _ in 0..100 {
        let _ = client.call("Faulty", String::new()).await;
    }
    sleep(SECOND).await;
    assert_eq!(far.open(), 2);
    let (near_before, far_before) = (near.calls(), far.calls());
    call(&client, 2000).await;
    let (near, far) = (near.calls() - near_before, far.calls() - far_before);
    // A binomial deviation is 20, and shares are kept to one per cent.
    assert!((1400 - 120..1400 + 120).contains(&near) && near + far == 2000, "{near} {far}");
}

/// Ten calls at once in each of so many seconds, which are given half a second: how many have failed.
async fn slow_load(client: &Client, seconds: usize) -> usize {
    let call = || async {
        let mut request = Request::new(String::new());
        request.set_timeout(SECOND / 2);
        client.call("Slow", request).await.is_err()
    };
    let mut failed = 0;
    for _ in 0..seconds {
        let began = Instant::now();
        let ended = join_all((0..10).map(|_| call())).await;
        failed += ended.into_iter().filter(|has_failed| *has_failed).count();
        sleep_until(began + SECOND).await;
    }
    failed
}

/// Half-open, though the zone has no other instance that is called.
#[tokio::test(start_paused = true)]
async fn a_zone_that_is_ejected_as_a_whole_is_tried_by_one_call_at_a_time() {
    for is_strict in [false, true] {
        let log = Log::capture();
        let (mut registry, net) = (Registry::new(), Net::new());
        let mut near = Zone::start(&mut registry, &net, &A[..2]).await;
        let far = Zone::start(&mut registry, &net, &B[..1]).await;
        let outliers = OutlierDetection::default().with_max_ejection_percent(100);
        let selection = Selection::default().prefer_zone("a");
        let builder = channel(&registry, &net)
            .selection(if is_strict { selection.strict_failover() } else { selection })
            .outlier_detection(outliers);
        let client = Client::new(&builder.connect().await.unwrap());
        sleep(SECOND).await;
        slow_load(&client, 5).await;
        for server in near.servers.values().take(if is_strict { 1 } else { 2 }) {
            server.set_delay(60_000);
            slow_load(&client, 10).await;
        }
        if is_strict {
            // The other zone is not called before, so that there is no evidence against the last of this one.
            near.servers.pop_last();
            sleep(SECOND).await;
        }
        let calls = far.calls();
        assert_eq!(
            (slow_load(&client, 5).await, far.calls() - calls),
            (0, 50),
            "the other zone has taken over"
        );
        log.take();
        let (near_before, far_before) = (near.calls(), far.calls());
        let failed = slow_load(&client, 200).await;
        // After 30, 60 and 90 seconds each.
        assert!((2..=6).contains(&failed), "{failed}");
        assert_eq!((near.calls() - near_before, far.calls() - far_before), (failed, 2000 - failed));
        assert!(log.take().iter().all(|line| !line.contains("too many")), "no panic");
        near.servers.values().for_each(|server| server.set_delay(0));
        slow_load(&client, 300).await;
        let far_before = far.calls();
        assert_eq!((slow_load(&client, 5).await, far.calls() - far_before), (0, 0), "it is back");
        assert_eq!(near.accepted(), near.servers.len(), "over the connections that it had");
    }
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_fails_is_replaced_by_the_others_until_it_is_back() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let near = Zone::start(&mut registry, &net, &A).await;
    let far = Zone::start(&mut registry, &net, &B).await;
    let builder = channel(&registry, &net).selection(Selection::default().prefer_zone("a"));
    let client = Client::new(&builder.wait_for_ready(true).connect().await.unwrap());
    sleep(SECOND).await;
    drop(near);
    sleep(SECOND).await;
    call(&client, 100).await;
    assert_eq!((far.calls(), far.open()), (100, 5));

    let servers: BTreeMap<_, _> = A.iter().map(|address| (*address, Server::on(&net, address))).collect();
    let near = Zone { servers };
    sleep(180 * SECOND).await;
    call(&client, 100).await;
    assert_eq!((near.calls(), far.calls(), far.open()), (100, 100, 5), "kept for a quarter of an hour");
    sleep(15 * 60 * SECOND).await;
    assert_eq!((near.open(), far.open(), far.accepted()), (10, 0, 5));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_needed_any_more_ends_with_its_last_call() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let near = Zone::start(&mut registry, &net, &A[..1]).await;
    let channel = channel(&registry, &net).connect().await.unwrap();
    let mut stream = Client::new(&channel).stream("Stream", String::new()).await.unwrap();
    stream.message().await.unwrap().unwrap();
    channel.set_selection(Selection::default().filter(|_| false)).unwrap();
    sleep(60 * SECOND).await;
    assert_eq!(near.open(), 1);
    near.servers["a0:1"].open_gate();
    while stream.message().await.unwrap().is_some() {}
    sleep(SECOND).await;
    assert_eq!(near.open(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_run_time_fail_no_call_and_reconnect_nothing_that_stays() {
    let mut registry = Registry::new();
    let mut servers = Vec::new();
    for number in 0..6 {
        let server = Server::start().await;
        let zone = if number == 0 { "stays" } else { "other" };
        registry.put(Instance::new(server.address.parse().unwrap()).with_zone(zone)).await;
        servers.push(server);
    }
    let builder = DiscoveryChannel::builder(registry.discovery(), "greeter");
    let channel = builder.default_timeout(10 * SECOND).connect().await.unwrap();
    let (over, calls) = (Arc::<std::sync::atomic::AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (client, over, calls) = (Client::new(&channel), Arc::clone(&over), Arc::clone(&calls));
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    client.name().await.unwrap();
                    calls.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let stays = |instance: &Instance| instance.zone() == Some("stays");
    for round in 0..20 {
        let others = servers[1].accepted();
        for selection in [
            Selection::default().filter(stays),
            Selection::default().prefer_zone("stays"),
            Selection::default().filter(stays).subset(2),
            Selection::default().tiers(move |instance| u32::from(!stays(instance))).pick_first(),
            Selection::default(),
        ] {
            channel.set_selection(selection).unwrap();
            let before = calls.load(Ordering::SeqCst);
            until("there were calls", || calls.load(Ordering::SeqCst) > before + 20).await;
            assert_eq!(servers[0].accepted(), 1, "round {round}");
        }
        until("the others are back", || servers[1].accepted() > others).await;
    }
    over.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_registry_changes_nothing_and_the_selection_can_be_changed_meanwhile() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let near = Zone::start(&mut registry, &net, &A).await;
    let far = Zone::start(&mut registry, &net, &B).await;
    let channel =
        channel(&registry, &net).selection(Selection::default().prefer_zone("a")).connect().await.unwrap();
    let client = Client::new(&channel);
    sleep(SECOND).await;
    registry.faults().stop();
    sleep(60 * SECOND).await;
    call(&client, 10).await;
    assert_eq!((near.calls(), near.accepted(), far.accepted()), (10, 10, 0));
    channel.set_selection(Selection::default().prefer_zone("b")).unwrap();
    call(&client, 10).await;
    sleep(SECOND).await;
    let before = near.calls();
    call(&client, 10).await;
    assert_eq!((near.open(), near.calls() - before), (10, 0), "kept, as after a failover");
    assert_eq!((far.open(), far.accepted()), (5, 5));
    sleep(15 * 60 * SECOND).await;
    call(&client, 10).await;
    assert_eq!((near.open(), far.open(), far.accepted()), (0, 5, 5));
}

/// A zone that accepts connections and does not answer.
#[tokio::test(start_paused = true)]
async fn calls_go_on_in_the_other_zone_while_the_one_that_is_preferred_now_is_connected_to() {
    for set in [|selection| selection, Selection::strict_failover] {
        let (mut registry, net) = (Registry::new(), Net::new());
        let near = Frozen::on(&net, "a0:1");
        registry.put(in_zone("a0:1")).await;
        let far = Zone::start(&mut registry, &net, &B[..1]).await;
        let builder = channel(&registry, &net).selection(set(Selection::default().prefer_zone("b")));
        let channel = builder.connect().await.unwrap();
        let client = Client::new(&channel);
        call(&client, 1).await;
        channel.set_selection(set(Selection::default().prefer_zone("a"))).unwrap();
        until("the other zone was dialled", || !net.dials("a0:1").is_empty()).await;
        for _ in 0..30 {
            let answer = timeout(SECOND, client.name()).await.expect("calls wait").unwrap();
            assert_eq!((answer.as_str(), far.accepted()), ("b0:1", 1));
            sleep(SECOND).await;
        }
        let _near = near.thaw();
        sleep(60 * SECOND).await;
        assert_eq!(client.name().await.unwrap(), "a0:1");
        assert_eq!((far.open(), far.accepted()), (1, 1), "kept, as after a failover");
    }
}

/// Removed in bulk: the connections stay, and so does the order of the zones.
#[tokio::test(start_paused = true)]
async fn a_registry_that_loses_everything_blinds_no_channel() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let near = Zone::start(&mut registry, &net, &A).await;
    let far = Zone::start(&mut registry, &net, &B).await;
    let selection = Selection::default().prefer_zone("a").subset(3);
    let client = Client::new(&channel(&registry, &net).selection(selection).connect().await.unwrap());
    sleep(SECOND).await;
    registry.faults().wipe();
    sleep(10 * SECOND).await;
    call(&client, 100).await;
    assert_eq!((near.calls(), near.open(), near.accepted(), far.accepted()), (100, 3, 3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_drains_hands_over_without_a_failed_call() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let near = Zone::start(&mut registry, &net, &A).await;
    let far = Zone::start(&mut registry, &net, &B).await;
    let selection = Selection::default().prefer_zone("a");
    let client = Client::new(&channel(&registry, &net).selection(selection).connect().await.unwrap());
    sleep(SECOND).await;
    for address in A {
        registry.put(in_zone(address).with_state(InstanceState::Draining)).await;
        call(&client, 10).await;
        sleep(Duration::from_millis(500)).await;
    }
    let before = near.calls();
    call(&client, 100).await;
    assert_eq!((near.calls(), near.open(), far.open()), (before, 10, 5));
    // Everything drains: it is called nevertheless.
    for address in B {
        registry.put(in_zone(address).with_state(InstanceState::Draining)).await;
    }
    sleep(SECOND).await;
    call(&client, 100).await;
}

#[tokio::test(start_paused = true)]
async fn closures_that_panic_select_and_are_logged_once() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let zone = Zone::start(&mut registry, &net, &A).await;
    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("a bug of the program");
        }
    }
    let captured = PanicsWhenDropped;
    let selection = Selection::default().filter(|instance| panic!("no {}", instance.id())).tiers(move |_| {
        let _ = &captured;
        panic!("no tier")
    });
    let channel = channel(&registry, &net).selection(selection).connect().await.unwrap();
    sleep(SECOND).await;
    call(&Client::new(&channel), 10).await;
    channel.set_selection(Selection::default()).unwrap();
    sleep(SECOND).await;
    call(&Client::new(&channel), 10).await;
    assert_eq!((zone.open(), zone.accepted()), (10, 10));
    let lines: Vec<_> = log.take().into_iter().filter(|line| line.contains("panicked")).collect();
    assert_eq!(
        lines,
        [
            "ERROR selection panicked; instance selected step=\"filter\" instance=a0:1 cause=\"no a0:1\"",
            "ERROR selection panicked; instance selected step=\"tiers\" instance=a0:1 cause=\"no tier\"",
        ]
    );
}
