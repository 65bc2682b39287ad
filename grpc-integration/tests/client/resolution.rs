//! Which instances calls are sent to, and what happens to calls when none is ready.

use std::error::Error as _;
use std::time::Duration;

use hither_core::{Discovery, Instance, Registries, StaticRegistry};
use hither_memory::MemoryRegistry;
use hither_tonic::{CalledInstance, ChannelBuilder, DiscoveryChannel, ErrorKind, RoundRobin, WaitForReady};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request};

use crate::support::peers::Frozen;
use crate::support::{Client, Net, Registry, SERVICE, SOON, Server, until};
use crate::{SECOND, channel};

#[tokio::test]
async fn a_service_is_called_by_its_name() {
    let mut registry = Registry::new();
    let server = Server::start().await;
    registry.up(&server.address).await;
    let channel = DiscoveryChannel::builder(registry.discovery(), SERVICE).connect().await.unwrap();
    assert_eq!(Client::new(&channel).name().await.unwrap(), server.address);
    assert_eq!(channel.service().as_str(), SERVICE);
}

#[cfg(unix)]
#[tokio::test]
async fn a_server_on_a_unix_socket_is_called() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::on_socket(&directory.path().join("greeter.sock"));
    let mut registry = Registry::new();
    registry.up(&server.address).await;
    let channel = DiscoveryChannel::builder(registry.discovery(), SERVICE).connect().await.unwrap();
    assert_eq!(Client::new(&channel).name().await.unwrap(), server.address);
}

#[tokio::test]
async fn a_client_that_starts_while_the_registry_is_down_calls_the_servers_cached_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut registry = Registry::new();
    let server = Server::start().await;
    registry.up(&server.address).await;
    let discovery =
        || Discovery::builder(MemoryRegistry::clone(&registry)).cache_dir(directory.path()).build();
    let before = DiscoveryChannel::builder(discovery(), SERVICE).connect().await.unwrap();
    Client::new(&before).name().await.unwrap();
    let is_written = || {
        std::fs::read_dir(directory.path())
            .unwrap()
            .any(|file| file.unwrap().file_name().to_string_lossy().ends_with(".json"))
    };
    until("a file is written", is_written).await;
    drop(before);

    registry.faults().stop();
    let channel = DiscoveryChannel::builder(discovery(), SERVICE).connect().await.unwrap();
    assert_eq!(Client::new(&channel).name().await.unwrap(), server.address);
}

#[tokio::test(start_paused = true)]
async fn an_address_where_no_server_listens_is_never_picked() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "live:1");
    registry.up("dead:1").await;
    registry.up(&server.address).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    for _ in 0..100 {
        assert_eq!(client.name().await.unwrap(), "live:1");
        sleep(SECOND / 10).await;
    }
    assert!(net.dials("dead:1").len() > 1, "it is tried all the while");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_accepts_and_sends_nothing_is_not_picked_and_delays_no_call() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _frozen = Frozen::on(&net, "frozen:1");
    let server = Server::on(&net, "live:1");
    registry.up("frozen:1").await;
    registry.up(&server.address).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(client.name().await.unwrap(), "live:1");
    }
    assert!(began.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn calls_fail_once_the_only_peer_has_not_answered_in_time() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _frozen = Frozen::on(&net, "frozen:1");
    registry.up("frozen:1").await;
    let client = Client::new(&channel(&registry, &net).connect_timeout(5 * SECOND).connect_lazy().unwrap());
    let began = Instant::now();
    let status = client.name().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(
        status.message(),
        "0 of 1 instances of greeter ready; last error: no HTTP/2 within 5s at frozen:1"
    );
    assert_eq!(began.elapsed().as_secs(), 5, "the first attempt was waited for");
    let began = Instant::now();
    client.name().await.unwrap_err();
    assert!(began.elapsed() < SECOND, "what is known is not waited for again");
}

#[tokio::test(start_paused = true)]
async fn calls_to_a_service_without_instances_fail_fast_with_that_reason() {
    let (registry, net) = (Registry::new(), Net::new());
    let client = Client::new(&channel(&registry, &net).connect_lazy().unwrap());
    let began = Instant::now();
    let status = client.name().await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "no instance of greeter is registered")
    );
    assert!(began.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn calls_fail_fast_with_the_reason_if_no_instance_can_be_reached() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("a:1").await;
    registry.up("b:1").await;
    registry.up("c:1").await;
    let client = Client::new(&channel(&registry, &net).connect_lazy().unwrap());
    let began = Instant::now();
    let status = client.name().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let expected = "0 of 3 instances of greeter ready; last error: connection refused at ";
    assert!(status.message().starts_with(expected), "{status}");
    assert!(began.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_while_an_instance_is_connecting_for_the_first_time() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("dead:1").await;
    registry.up("slow:1").await;
    let slow = Frozen::on(&net, "slow:1");
    let client = Client::new(&channel(&registry, &net).connect_lazy().unwrap());
    let call = tokio::spawn(async move { client.name().await });
    sleep(3 * SECOND).await;
    assert!(!call.is_finished());
    let _server = slow.thaw();
    assert_eq!(call.await.unwrap().unwrap(), "slow:1");
}

#[tokio::test(start_paused = true)]
async fn an_old_failure_to_connect_never_fails_a_later_call() {
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("a:1").await;
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    let client = Client::new(&channel);
    for _ in 0..5 {
        client.name().await.unwrap_err();
        sleep(SECOND).await;
    }
    let _server = Server::on(&net, "a:1");
    channel.wait_ready(60 * SECOND).await.unwrap();
    for _ in 0..10 {
        client.name().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_ready_call_waits_for_the_first_instance() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let client = Client::new(&channel(&registry, &net).wait_for_ready(true).connect_lazy().unwrap());
    let call = tokio::spawn(async move { client.name().await });
    sleep(100 * SECOND).await;
    assert!(!call.is_finished());
    let server = Server::on(&net, "late:1");
    registry.up(&server.address).await;
    assert_eq!(call.await.unwrap().unwrap(), "late:1");
}

#[tokio::test(start_paused = true)]
async fn a_wait_for_ready_call_ends_at_its_deadline() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let client = Client::new(&channel(&registry, &net).connect_lazy().unwrap());
    for expected in
        ["no instance of greeter is registered", "0 of 1 instances of greeter ready; last error: connection"]
    {
        let began = Instant::now();
        let mut request = Request::new(String::new());
        request.extensions_mut().insert(WaitForReady(true));
        request.set_timeout(3 * SECOND);
        let status = client.call("Name", request).await.unwrap_err();
        assert_eq!(began.elapsed().as_secs(), 3);
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().starts_with(&format!("not done within 3s: {expected}")), "{status}");
        registry.up("dead:1").await;
        sleep(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_call_can_opt_out_of_waiting_for_ready() {
    let (registry, net) = (Registry::new(), Net::new());
    let client = Client::new(&channel(&registry, &net).wait_for_ready(true).connect_lazy().unwrap());
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(WaitForReady(false));
    let status = client.call("Name", request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn calls_go_on_with_the_last_known_instances_while_the_registry_is_down() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    registry.faults().stop();
    for _ in 0..60 {
        client.name().await.unwrap();
        sleep(60 * SECOND).await;
    }
    server.break_connections();
    until("it has connected again", || server.accepted() == 2).await;
    client.name().await.unwrap();
    drop(server);
    sleep(SECOND).await;

    let status = client.name().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let stale = "; registry stale for 3601 s: ";
    assert!(status.message().starts_with("0 of 1 instances of greeter ready; last error: "), "{status}");
    assert!(status.message().contains(stale), "{status}");
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_first_resolution_and_then_fail_fast() {
    let (registry, net) = (Registry::new(), Net::new());
    registry.faults().freeze();
    let client = Client::new(&channel(&registry, &net).connect_lazy().unwrap());
    let began = Instant::now();
    let status = client.name().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().starts_with("greeter cannot be resolved: "), "{status}");
    assert_eq!(began.elapsed().as_secs(), 5, "as long as the registry takes to time out");
    let began = Instant::now();
    client.name().await.unwrap_err();
    assert!(began.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_called_at_the_first_of_its_addresses_that_answers() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let instance = |addresses: [&str; 3]| {
        let [first, second, third] = addresses.map(|address| address.parse().unwrap());
        Instance::new(first).with_address(second).with_address(third)
    };
    let _frozen = Frozen::on(&net, "frozen:1");
    let server = Server::on(&net, "c:1");
    registry.put(instance(["dead:1", "frozen:1", "c:1"])).await;
    let began = Instant::now();
    let client = Client::new(&channel(&registry, &net).connect().await.unwrap());
    assert!(began.elapsed() < SECOND, "the frozen one has a head start of a quarter of a second");
    assert_eq!(client.name().await.unwrap(), "c:1");

    // In another order it is still the same server.
    registry.put(instance(["dead:1", "c:1", "frozen:1"])).await;
    sleep(SECOND).await;
    client.name().await.unwrap();
    assert_eq!(server.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn connect_waits_for_the_first_ready_instance_up_to_its_timeout() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let began = Instant::now();
    let error = channel(&registry, &net).ready_timeout(3 * SECOND).connect().await.unwrap_err();
    assert_eq!(began.elapsed().as_secs(), 3);
    assert_eq!(error.kind(), ErrorKind::NotReady);
    assert!(error.is_retryable());
    assert_eq!(error.service().map(|service| service.as_str()), Some(SERVICE));
    let expected = "no instance of greeter was ready within 3s: no instance of greeter is registered";
    assert_eq!(error.to_string(), expected);

    let connecting = tokio::spawn(channel(&registry, &net).connect());
    sleep(3 * SECOND).await;
    assert!(!connecting.is_finished());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    connecting.await.unwrap().unwrap();
}

#[tokio::test]
async fn invalid_settings_are_errors_of_connect() {
    let builder = |service: &str| DiscoveryChannel::builder(Discovery::new(StaticRegistry::new([])), service);
    for (error, expected) in [
        (builder("a//b").connect_lazy().unwrap_err(), "\"a//b\""),
        (builder("").connect().await.unwrap_err(), "is empty"),
        (builder("a").authority("a b").connect_lazy().unwrap_err(), "the authority is invalid: "),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.report().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_setting_of_zero_is_an_error_that_names_it() {
    type Set = fn(ChannelBuilder) -> ChannelBuilder;
    let settings: [(&str, Set); 6] = [
        ("default_timeout", |builder| builder.default_timeout(Duration::ZERO)),
        ("connect_timeout", |builder| builder.connect_timeout(Duration::ZERO)),
        ("ready_timeout", |builder| builder.ready_timeout(Duration::ZERO)),
        ("keepalive_interval", |builder| builder.keepalive_interval(Some(Duration::ZERO))),
        ("keepalive_timeout", |builder| builder.keepalive_timeout(Duration::ZERO)),
        ("max_connections", |builder| builder.max_connections(0)),
    ];
    for (name, set) in settings {
        let builder = || DiscoveryChannel::builder(Discovery::new(StaticRegistry::new([])), "a");
        for error in [set(builder()).connect_lazy().unwrap_err(), set(builder()).connect().await.unwrap_err()]
        {
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert_eq!(error.to_string(), format!("{name} is zero"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_invalid_target_is_one_error_that_names_it() {
    let registries = Registries::new().with("memory", Registry::new().discovery());
    for target in ["greeter", "etcd:///greeter", "memory:///", "memory:////greeter", "memory://other/greeter"]
    {
        let error = DiscoveryChannel::dial(target, &registries).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{target}");
        assert!(error.to_string().contains(&format!("{target:?}")), "{error}");
    }
}

#[tokio::test]
async fn a_target_is_resolved_and_called() {
    let mut registry = Registry::new();
    let server = Server::start().await;
    registry.up(&server.address).await;
    let registries = Registries::new().with("memory", registry.discovery());
    for target in ["memory:///greeter".to_owned(), format!("static:///{}", server.address)] {
        let channel = DiscoveryChannel::dial(&target, &registries).await.unwrap();
        assert_eq!(Client::new(&channel).name().await.unwrap(), server.address);
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_gives_a_builder_with_all_options() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let registries = Registries::new().with("memory", registry.discovery());
    let builder = DiscoveryChannel::for_target("memory:///greeter", &registries).unwrap();
    let channel = builder.connector(net.clone()).authority("greeter.internal").connect().await.unwrap();
    let authority = Client::new(&channel).call("Authority", String::new()).await.unwrap();
    assert_eq!(authority.get_ref(), "greeter.internal");
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_static_list_carries_the_address_that_it_is_sent_to() {
    let net = Net::new();
    let servers = [Server::on(&net, "a:1"), Server::on(&net, "b:1")];
    let target = "static:///a:1,b:1";
    let builder = || DiscoveryChannel::for_target(target, &Registries::new()).unwrap().connector(net.clone());
    let channel = builder().policy(RoundRobin::default()).connect().await.unwrap();
    sleep(SECOND).await;
    let client = Client::new(&channel);
    for _ in 0..4 {
        let called = CalledInstance::default();
        let mut request = Request::new(String::new());
        request.extensions_mut().insert(called.clone());
        let response = client.call("Authority", request).await.unwrap();
        let instance = called.get().unwrap().instance().clone();
        assert_eq!(*response.get_ref(), instance.address().to_string());
    }
    assert_eq!(servers.each_ref().map(Server::calls), [2, 2]);

    let named = builder().authority("greeter.internal").connect().await.unwrap();
    let authority = Client::new(&named).call("Authority", String::new()).await.unwrap();
    assert_eq!(authority.get_ref(), "greeter.internal", "unless one was set");
}

#[cfg(unix)]
#[tokio::test]
async fn a_call_to_a_static_unix_socket_carries_localhost() {
    let directory = tempfile::tempdir().unwrap();
    let server = Server::on_socket(&directory.path().join("greeter.sock"));
    let target = format!("static:///{}", server.address);
    let channel = DiscoveryChannel::dial(target, &Registries::new()).await.unwrap();
    let authority = Client::new(&channel).call("Authority", String::new()).await.unwrap();
    assert_eq!(authority.get_ref(), "localhost");
}

#[tokio::test(start_paused = true)]
async fn channels_over_one_discovery_share_one_watch() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up(&server.address).await;
    let one = channel(&registry, &net).connect().await.unwrap();
    let other = channel(&registry, &net).connect().await.unwrap();
    for channel in [&one, &other] {
        Client::new(channel).name().await.unwrap();
    }
    assert_eq!(registry.faults().open_watches(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_call_without_an_instance_holds_the_error() {
    let (registry, net) = (Registry::new(), Net::new());
    let client = Client::new(&channel(&registry, &net).connect_lazy().unwrap());
    let status = client.name().await.unwrap_err();
    let error = status.source().and_then(|source| source.downcast_ref::<hither_tonic::Error>()).unwrap();
    assert_eq!((error.kind(), error.kind().code()), (ErrorKind::NotReady, status.code()));
    assert_eq!(error.service().map(|service| service.as_str()), Some(SERVICE));
}

#[test]
fn a_channel_made_outside_a_runtime_is_an_error() {
    let error = DiscoveryChannel::builder(Discovery::new(StaticRegistry::new([])), SERVICE)
        .connect_lazy()
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unexpected);
    assert_eq!(error.to_string(), "a channel can only be made inside a Tokio runtime");
}

#[test]
fn calls_on_a_channel_whose_runtime_is_gone_fail_with_that_reason() {
    let runtime =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let gone = runtime();
    let channel = gone.block_on(async {
        DiscoveryChannel::builder(Discovery::new(StaticRegistry::new([])), SERVICE)
            .wait_for_ready(true)
            .connect_lazy()
            .unwrap()
    });
    drop(gone);
    runtime().block_on(async {
        let call =
            timeout(SOON, async { Client::new(&channel).name().await }).await.expect("it should not wait");
        let status = call.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains("the Tokio runtime that it was made on is gone"), "{status}");
        assert_eq!(channel.wait_ready(SOON).await.unwrap_err().kind(), ErrorKind::Closed);
    });
}
