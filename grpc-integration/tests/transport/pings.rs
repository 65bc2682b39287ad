//! Keep-alive pings, as servers count them: none finds too many.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::keepalive::{MINUTE, channel_within};
use super::raw::{ACK, Conn, DATA, ENHANCE_YOUR_CALM, HEADERS, PING, Peer, message};
use super::support::{Client, Net};
use super::{SECOND, within};

/// The rules of servers, as they are by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rules {
    /// grpc-go, `internal/transport/http2_server.go`, `handlePing`.
    Go,
    /// grpc-java, `KeepAliveEnforcer`.
    Java,
}

/// What a server allows: 5 minutes between pings, and none without a call, more exactly: after 2 hours.
struct Enforcer {
    rules: Rules,
    last: Option<Instant>,
    /// Headers or data were sent since the last ping.
    reset: bool,
    strikes: u32,
}

impl Enforcer {
    fn new(rules: Rules) -> Self {
        Self { rules, last: None, reset: false, strikes: 0 }
    }

    /// Returns whether this ping is one too many.
    fn on_ping(&mut self, streams: usize) -> bool {
        let now = Instant::now();
        if std::mem::take(&mut self.reset) {
            self.strikes = 0;
            self.last = Some(now);
            // grpc-go returns here; grpc-java starts anew, which comes to the same.
            return false;
        }
        let least = if streams > 0 { 5 * MINUTE } else { 120 * MINUTE };
        let early = match (self.last, self.rules) {
            (None, _) => false,
            (Some(last), Rules::Go) => last + least > now,
            (Some(last), Rules::Java) => now.duration_since(last) < least,
        };
        match early {
            true => self.strikes += 1,
            // grpc-java counts from the last ping that was in order.
            false => self.last = Some(now),
        }
        if self.rules == Rules::Go {
            self.last = Some(now);
        }
        self.strikes > 2
    }
}

/// What a peer with such rules does with its one call.
#[derive(Debug, Clone, Copy)]
enum Life {
    /// Nothing for hours.
    Silent,
    /// A message each so often.
    Talking(Duration),
}

async fn enforcing(mut conn: Conn, rules: Rules, life: Life) -> io::Result<()> {
    conn.greet(&[]).await?;
    let mut enforcer = Enforcer::new(rules);
    let mut open = Vec::new();
    loop {
        let next = match life {
            Life::Talking(pause) => sleep(pause),
            Life::Silent => sleep(1000 * MINUTE),
        };
        let frame = tokio::select! {
            frame = conn.raw_frame() => frame?,
            () = next => {
                for stream in &open {
                    conn.send(DATA, 0, *stream, message("tick")).await?;
                    enforcer.reset = true;
                }
                continue;
            }
        };
        if frame.is(PING) && !frame.has(ACK) {
            if enforcer.on_ping(open.len()) {
                conn.goaway(conn.highest, ENHANCE_YOUR_CALM, "too_many_pings").await?;
                return conn.close().await;
            }
            conn.send(PING, ACK, 0, frame.payload).await?;
        } else if frame.is(super::raw::SETTINGS) && !frame.has(ACK) {
            conn.send(super::raw::SETTINGS, ACK, 0, []).await?;
        } else if frame.is(HEADERS) {
            open.push(frame.stream);
        } else if frame.is(super::raw::RST_STREAM) {
            open.retain(|stream| *stream != frame.stream);
        }
        // A call with a message is answered at once; one without stays open.
        while let Some(stream) = conn.next_request() {
            enforcer.reset = true;
            if conn.seen.data() > 6 {
                open.retain(|open| *open != stream);
                conn.answer(stream, "a").await?;
            } else {
                conn.accept(stream).await?;
            }
        }
    }
}

/// Hours with one stream that is open, under each server's rules and at the defaults of both sides.
#[tokio::test(start_paused = true)]
async fn no_server_finds_too_many_pings_at_the_defaults() {
    let lives = [Life::Silent, Life::Talking(SECOND), Life::Talking(11 * SECOND), Life::Talking(MINUTE)];
    let longer = [Life::Talking(4 * MINUTE), Life::Talking(6 * MINUTE), Life::Talking(29 * MINUTE)];
    for rules in [Rules::Go, Rules::Java] {
        for life in lives.into_iter().chain(longer) {
            let net = Net::new();
            let peer = Peer::within(&net, "a:1", move |conn: Conn| enforcing(conn, rules, life));
            let (_registry, builder) = channel_within(&net, &["a:1"]).await;
            let client = Client::new(&builder.connect().await.unwrap());
            let mut stream = client.stream("Stream", String::new()).await.unwrap();
            let reader =
                tokio::spawn(async move { while let Some(_text) = stream.message().await.unwrap() {} });
            sleep(180 * MINUTE).await;
            assert_eq!(peer.seen.accepted(), 1, "{rules:?}, {life:?}: {} pings", peer.seen.pings());
            assert!(!reader.is_finished());
            reader.abort();
            assert!(peer.seen.pings() > 0 || matches!(life, Life::Talking(SECOND)), "{rules:?}, {life:?}");
        }
    }
}

/// ... and with calls now and then, and nothing in between.
#[tokio::test(start_paused = true)]
async fn no_server_finds_too_many_pings_between_calls() {
    for rules in [Rules::Go, Rules::Java] {
        for pause in [SECOND / 10, 9 * SECOND, 11 * SECOND, 25 * SECOND, 3 * MINUTE, 7 * MINUTE] {
            let net = Net::new();
            let peer = Peer::within(&net, "a:1", move |conn: Conn| enforcing(conn, rules, Life::Silent));
            let (_registry, builder) = channel_within(&net, &["a:1"]).await;
            let client = Client::new(&builder.connect().await.unwrap());
            let began = Instant::now();
            for _ in 0..500 {
                let mut request = within(SECOND);
                *request.get_mut() = "answer at once".to_owned();
                client.call("Name", request).await.unwrap();
                sleep(pause).await;
                if began.elapsed() > 180 * MINUTE {
                    break;
                }
            }
            assert_eq!(peer.seen.accepted(), 1, "{rules:?}, {pause:?}: {} pings", peer.seen.pings());
        }
    }
}

/// The rules above do find too many, where the settings ask for it; and then the interval is doubled until they do not.
#[tokio::test(start_paused = true)]
async fn the_interval_is_doubled_on_too_many_pings() {
    let net = Net::new();
    let peer = Peer::within(&net, "a:1", |conn: Conn| enforcing(conn, Rules::Go, Life::Silent));
    let (_registry, builder) = channel_within(&net, &["a:1"]).await;
    let builder = builder.keepalive_interval(Some(MINUTE)).keepalive_while_idle(true);
    let channel = builder.connect().await.unwrap();
    let mut lost = Vec::new();
    let began = Instant::now();
    for _ in 0..5 {
        let accepted = peer.seen.accepted();
        while peer.seen.accepted() == accepted {
            sleep(SECOND).await;
            assert!(began.elapsed() < 3000 * MINUTE, "{} pings", peer.seen.pings());
        }
        lost.push(began.elapsed().as_secs());
    }
    let lives: Vec<_> =
        std::iter::once(lost[0]).chain(lost.windows(2).map(|pair| pair[1] - pair[0])).collect();
    for pair in lives.windows(2) {
        assert!(pair[1] * 10 > pair[0] * 18, "each lives twice as long as the one before: {lives:?}");
    }
    drop(channel);
}
