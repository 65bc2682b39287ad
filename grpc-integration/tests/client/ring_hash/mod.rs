//! Ring hash, end to end.

mod connecting;

use hither_tonic::{DiscoveryChannel, ErrorKind, HashKey, MethodConfig, RetryPolicy, RingHash, SlowStart};
use http::HeaderName;
use tokio::time::sleep;
use tonic::Request;

use crate::support::{Client, Net, Registry, SERVICE, Server};
use crate::{SECOND, channel};

/// The servers that the users' calls go to.
async fn homes(client: &Client) -> Vec<String> {
    let mut homes = Vec::new();
    for user in 0..200 {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("x-user", format!("user {user}").parse().unwrap());
        homes.push(client.call("Name", request).await.unwrap().into_inner());
    }
    homes
}

#[tokio::test(start_paused = true)]
async fn a_users_calls_go_to_one_server_and_only_those_of_one_that_is_lost_to_others_until_it_is_back() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1", "d:1"] {
        servers.push(Server::on(&net, address));
        registry.up(address).await;
    }
    let policy = || RingHash::header(HeaderName::from_static("x-user"));
    let client = Client::new(&channel(&registry, &net).policy(policy()).connect().await.unwrap());
    let other = Client::new(&channel(&registry, &net).policy(policy()).connect().await.unwrap());
    sleep(SECOND).await;
    let before = homes(&client).await;
    assert_eq!(homes(&client).await, before);
    assert_eq!(homes(&other).await, before, "another client sends them to the same ones");
    assert!(servers.iter().all(|server| before.iter().filter(|home| **home == server.address).count() > 20));
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(HashKey::of("user 7"));
    assert_eq!(client.call("Name", request).await.unwrap().into_inner(), before[7]);

    registry.leave("d:1").await;
    drop(servers.pop());
    sleep(SECOND).await;
    for (home, before) in homes(&client).await.iter().zip(&before) {
        assert!(home == before || before == "d:1");
    }
    let _back = Server::on(&net, "d:1");
    registry.up("d:1").await;
    sleep(SECOND).await;
    assert_eq!(homes(&client).await, before);
}

#[tokio::test(start_paused = true)]
async fn the_bound_counts_calls_that_a_full_server_has_left_to_others() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1"] {
        servers.push(Server::described(&net, address, |server| server.max_concurrent_streams(4)));
        registry.up(address).await;
    }
    let policy = RingHash::header(HeaderName::from_static("x-user")).with_balance_factor(300);
    let client = channel(&registry, &net).policy(policy).max_connections(1).connect().await.unwrap();
    let client = Client::new(&client);
    sleep(SECOND).await;
    let users = homes(&client).await;
    let of = |user: usize| {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("x-user", format!("user {user}").parse().unwrap());
        request
    };
    // 300 % of the mean of three servers are all calls. So the bound leaves them at home, and its streams are the limit.
    let mut streams = Vec::new();
    for _ in 0..12 {
        let before: Vec<_> = servers.iter().map(Server::calls).collect();
        let stream = client.stream("Stream", of(0)).await.unwrap();
        let at = servers.iter().zip(before).find(|(server, before)| server.calls() > *before).unwrap().0;
        streams.push((at.address.clone(), stream));
    }
    streams.retain(|(at, _)| *at != users[0]);
    assert_eq!(streams.len(), 8);
    let (other, _) = streams.pop().unwrap();
    sleep(SECOND).await;
    // Of seven calls three are there, and it has room for eight.
    let user = users.iter().position(|home| *home == other).unwrap();
    assert_eq!(client.call("Name", of(user)).await.unwrap().into_inner(), other);
}

#[tokio::test(start_paused = true)]
async fn a_key_with_too_many_calls_for_one_server_spreads_and_comes_back_when_they_have_ended() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1", "d:1"] {
        servers.push(Server::on(&net, address));
        registry.up(address).await;
    }
    let policy = RingHash::header(HeaderName::from_static("x-user")).with_balance_factor(200);
    let client = Client::new(&channel(&registry, &net).policy(policy).connect().await.unwrap());
    sleep(SECOND).await;
    let hot = || {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("x-user", "hot".parse().unwrap());
        request
    };
    let home = client.call("Name", hot()).await.unwrap().into_inner();
    let calls = || servers.iter().map(Server::calls).collect::<Vec<_>>();
    let before = calls();
    let mut streams = Vec::new();
    for _ in 0..16 {
        streams.push(client.stream("Stream", hot()).await.unwrap());
    }
    let mut shares: Vec<_> = calls().iter().zip(before).map(|(now, before)| now - before).collect();
    shares.sort_unstable();
    // 200 % of the mean of 16 calls on four servers are eight.
    assert_eq!(shares, [0, 0, 8, 8]);
    drop(streams);
    sleep(SECOND).await;
    for _ in 0..20 {
        assert_eq!(client.call("Name", hot()).await.unwrap().into_inner(), home);
    }
}

#[tokio::test]
async fn a_balance_factor_below_100_is_an_error() {
    let policy = RingHash::default().with_balance_factor(99);
    let error = channel(&Registry::new(), &Net::new()).policy(policy).connect_lazy().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(error.to_string(), "the balance_factor of RingHash is 99 %, which is below 100");
}

/// One has seen an instance join, and for the other all are new.
#[tokio::test(start_paused = true)]
async fn slow_start_makes_no_difference_between_clients() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let discovery = registry.discovery();
    let connect = || async {
        let policy = RingHash::header(HeaderName::from_static("x-user"));
        let builder = DiscoveryChannel::builder(&discovery, SERVICE).connector(net.clone()).policy(policy);
        let channel = builder.slow_start(SlowStart::new(100 * SECOND)).connect().await;
        sleep(7 * SECOND).await;
        Client::new(&channel.unwrap())
    };
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1"] {
        servers.push(Server::on(&net, address));
        registry.up(address).await;
    }
    let old = connect().await;
    sleep(200 * SECOND).await;
    servers.push(Server::on(&net, "d:1"));
    registry.up("d:1").await;
    let new = connect().await;
    let homes_of_new = homes(&new).await;
    assert!(homes_of_new.iter().filter(|home| *home == "d:1").count() > 20);
    assert_eq!(homes(&old).await, homes_of_new);
}

/// All three attempts went to the one server with the fewest calls.
#[tokio::test(start_paused = true)]
async fn where_the_keys_server_is_full_each_retry_goes_to_one_that_was_not_tried() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let mut servers = Vec::new();
    for address in ["a:1", "b:1", "c:1", "d:1"] {
        servers.push(Server::described(&net, address, |server| server.max_concurrent_streams(1)));
        registry.up(address).await;
    }
    let policy = RingHash::header(HeaderName::from_static("x-user"));
    let retried = MethodConfig::default().with_retry(RetryPolicy::default());
    let builder = channel(&registry, &net).policy(policy).max_connections(1).method("", retried);
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    let call = || {
        let mut request = Request::new(String::new());
        request.metadata_mut().insert("x-user", "user".parse().unwrap());
        request
    };
    let home = client.call("Name", call()).await.unwrap().into_inner();
    let _full = client.stream("Stream", call()).await.unwrap();
    let others: Vec<_> = servers.iter().filter(|server| server.address != home).collect();
    // Two of the three others fail each call.
    for failing in [[0, 1], [1, 2], [2, 0]] {
        failing.iter().for_each(|server| others[*server].open_gate());
        client.call("Faulty", call()).await.expect("the third is well");
        failing.iter().for_each(|server| others[*server].close_gate());
        sleep(SECOND).await;
    }
}
