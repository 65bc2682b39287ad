//! HTTP/2 keep-alive (gRFC A8): a peer that does not answer any more is detected.

use std::io;
use std::time::Duration;

use hither_tonic::{ChannelBuilder, DiscoveryChannel, RoundRobin};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tonic::Code;

use super::raw::{Conn, Peer};
use super::support::{Client, Net, Registry, SERVICE, ready};
use super::{SECOND, channel, soon, within};

pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// A channel to these addresses of `net`, for paused time.
pub(super) async fn channel_within(net: &Net, addresses: &[&str]) -> (Registry, ChannelBuilder) {
    let mut registry = Registry::new();
    for address in addresses {
        registry.up(address).await;
    }
    let builder = DiscoveryChannel::builder(registry.discovery(), SERVICE)
        .connector(net.clone())
        .policy(RoundRobin::default());
    (registry, builder)
}

/// Serves until it is frozen, and then neither reads nor closes.
fn freezing(frozen: &watch::Sender<bool>) -> impl super::raw::Script {
    let frozen = frozen.clone();
    move |mut conn: Conn| {
        let mut frozen = frozen.subscribe();
        async move {
            let serve = async {
                conn.greet(&[]).await?;
                conn.serve("freezing").await
            };
            tokio::select! {
                biased;
                _ = frozen.wait_for(|frozen| *frozen) => {}
                served = serve => return served,
            }
            std::future::pending::<()>().await;
            drop(conn);
            Ok(())
        }
    }
}

async fn serving(mut conn: Conn) -> io::Result<()> {
    conn.greet(&[]).await?;
    conn.serve("fine").await
}

#[tokio::test(start_paused = true)]
async fn a_frozen_peer_is_detected_by_default_and_calls_go_elsewhere() {
    let net = Net::new();
    let frozen = watch::Sender::new(false);
    let _peers = (Peer::within(&net, "a:1", freezing(&frozen)), Peer::within(&net, "b:1", serving));
    let (_registry, builder) = channel_within(&net, &["a:1", "b:1"]).await;
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    for _ in 0..10 {
        client.name().await.unwrap();
    }
    frozen.send_replace(true);
    let began = Instant::now();
    let calls: Vec<_> = (0..10).map(|_| client.call("Name", within(10 * MINUTE))).collect();
    let calls = futures_util::future::join_all(calls).await;
    let took = began.elapsed();
    assert!(took < 31 * SECOND, "detected after {took:?}");
    let failed: Vec<_> = calls.into_iter().filter_map(Result::err).collect();
    assert_eq!(failed.len(), 5, "{failed:?}");
    for status in failed {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("ping") && status.message().contains("a:1"), "{status:?}");
    }
    for _ in 0..20 {
        assert_eq!(client.call("Name", within(SECOND)).await.unwrap().into_inner(), "fine");
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_of_detection_is_a_setting() {
    for (interval, timeout) in [(SECOND, SECOND), (2 * SECOND, 5 * SECOND), (40 * SECOND, 20 * SECOND)] {
        let net = Net::new();
        let frozen = watch::Sender::new(false);
        let _peer = Peer::within(&net, "a:1", freezing(&frozen));
        let (_registry, builder) = channel_within(&net, &["a:1"]).await;
        let builder = builder.keepalive_interval(Some(interval)).keepalive_timeout(timeout);
        let client = Client::new(&builder.connect().await.unwrap());
        client.name().await.unwrap();
        frozen.send_replace(true);
        let began = Instant::now();
        let status = client.call("Name", within(10 * MINUTE)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let took = began.elapsed();
        // The silence is measured to half of the interval.
        let expected = interval + timeout..=interval * 3 / 2 + timeout + SECOND / 10;
        assert!(expected.contains(&took), "{took:?} for {interval:?} and {timeout:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn keepalive_can_be_off() {
    let net = Net::new();
    let frozen = watch::Sender::new(false);
    let peer = Peer::within(&net, "a:1", freezing(&frozen));
    let (_registry, builder) = channel_within(&net, &["a:1"]).await;
    let client = Client::new(&builder.keepalive_interval(None).connect().await.unwrap());
    frozen.send_replace(true);
    let status = client.call("Name", within(30 * MINUTE)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(peer.seen.pings(), 0);
}

/// Without calls a frozen peer is found when it is pinged while idle.
#[tokio::test(start_paused = true)]
async fn a_frozen_peer_is_detected_while_idle_where_that_is_set() {
    for while_idle in [true, false] {
        let net = Net::new();
        let frozen = watch::Sender::new(false);
        let peer = Peer::within(&net, "a:1", freezing(&frozen));
        let (_registry, builder) = channel_within(&net, &["a:1"]).await;
        let channel = builder.keepalive_while_idle(while_idle).connect().await.unwrap();
        Client::new(&channel).name().await.unwrap();
        sleep(SECOND).await;
        frozen.send_replace(true);
        sleep(MINUTE).await;
        assert_eq!(peer.seen.accepted() > 1, while_idle);
    }
}

/// A peer that acknowledges pings is alive, however long a call takes.
#[tokio::test(start_paused = true)]
async fn a_long_silent_call_is_left_alone() {
    let net = Net::new();
    let peer = Peer::within(&net, "a:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        let stream = conn.request().await?;
        let until = Instant::now() + 60 * MINUTE;
        while tokio::time::timeout_at(until, conn.frame()).await.is_ok_and(|frame| frame.is_ok()) {}
        conn.answer(stream, "at last").await?;
        conn.drain().await
    });
    let (_registry, builder) = channel_within(&net, &["a:1"]).await;
    let client = Client::new(&builder.connect().await.unwrap());
    let answer = client.call("Name", within(120 * MINUTE)).await.unwrap();
    assert_eq!((answer.into_inner().as_str(), peer.seen.accepted()), ("at last", 1));
}

/// A server that hangs: its kernel goes on acknowledging. `tests/stopped` has one whose process is stopped.
#[tokio::test]
async fn a_server_that_hangs_is_detected() {
    let frozen = watch::Sender::new(false);
    let stopped = Peer::start(freezing(&frozen)).await;
    let fine = Peer::start(serving).await;
    let (_registry, builder) = channel(&[&stopped.address, &fine.address]).await;
    // Longer than the other one could take.
    let (interval, timeout) = (SECOND / 10, 2 * SECOND);
    let builder = builder.keepalive_interval(Some(interval)).keepalive_timeout(timeout);
    let channel = builder.connect().await.unwrap();
    ready(&channel, 2).await;
    let client = Client::new(&channel);
    frozen.send_replace(true);
    let calls =
        futures_util::future::join_all((0..10).map(|_| client.call("Name", within(8 * SECOND)))).await;
    let failed: Vec<_> = calls.into_iter().filter_map(Result::err).collect();
    assert_eq!(failed.len(), 5, "{failed:?}");
    assert!(failed.iter().all(|status| status.code() == Code::Unavailable), "{failed:?}");
    for _ in 0..20 {
        assert_eq!(soon("a call", client.name()).await.unwrap(), "fine");
    }
}

/// A proxy that accepts for a dead backend, and answers pings by itself, is beyond keep-alive: calls end at their
/// deadlines. One that does not answer pings is found.
#[tokio::test(start_paused = true)]
async fn a_silent_proxy_that_answers_no_ping_is_detected() {
    let net = Net::new();
    let peer = Peer::within(&net, "a:1", |mut conn: Conn| async move {
        conn.greet(&[]).await?;
        while conn.raw_frame().await.is_ok() {}
        Ok(())
    });
    let (_registry, builder) = channel_within(&net, &["a:1"]).await;
    let client = Client::new(&builder.connect().await.unwrap());
    let status = client.call("Name", within(10 * MINUTE)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(peer.seen.pings() >= 1);
}
