//! HTTP/2 keep-alive (gRFC A8): a peer that is silent while it owes answers is pinged.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong, client};
use tokio::time::{Instant, Sleep, sleep_until};

use super::config::KeepaliveConfig;
use super::shared::Shared;
use super::wire::Wire;

/// How many pings are sent in a row to a peer that sends neither headers nor data. grpc-java closes a connection that is
/// younger than five minutes at the third (too_many_pings), and grpc-go any at the fourth.
const IN_A_ROW: u32 = 2;
/// After how long one more is always allowed: five minutes by default in grpc-go and grpc-java, and a margin.
const PERMITTED: Duration = Duration::from_secs(310);
/// The longest interval, so that it can be added to any instant.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Pings the peer of one connection.
pub(super) struct Keepalive {
    silence: Option<Silence>,
    pings: Option<PingPong>,
    /// `None` while there is nothing to wait for.
    tick: Option<Pin<Box<Sleep>>>,
    /// Whether the tick was polled.
    armed: bool,
    /// How many bytes had been read at the last tick.
    read: u64,
}

impl Keepalive {
    pub(super) fn new(config: KeepaliveConfig, factor: u32) -> Self {
        let silence = config.interval.map(|interval| Silence {
            interval: interval.saturating_mul(factor).min(LONGEST),
            timeout: config.timeout.min(LONGEST),
            while_idle: config.while_idle,
            state: State::Listening { quiet: false },
            in_a_row: 0,
            last_ping: None,
        });
        Self { silence, pings: None, tick: None, armed: false, read: 0 }
    }

    /// Pings when it is time to; ready with the reason when the peer has not answered.
    #[inline]
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        h2: &mut client::Connection<Wire, Bytes>,
        shared: &Shared,
    ) -> Poll<String> {
        // Polled once, it wakes the task when it fires; to poll it each time would cost more than all the rest here.
        if self.armed && self.tick.as_ref().is_some_and(|tick| !tick.is_elapsed()) {
            return Poll::Pending;
        }
        self.poll_tick(cx, h2, shared)
    }

    fn poll_tick(
        &mut self,
        cx: &mut Context<'_>,
        h2: &mut client::Connection<Wire, Bytes>,
        shared: &Shared,
    ) -> Poll<String> {
        let Some(silence) = &mut self.silence else { return Poll::Pending };
        if self.tick.is_none() && !silence.concerns(shared.reserved() > 0) {
            return Poll::Pending;
        }
        let tick = self.tick.get_or_insert_with(|| {
            self.read = shared.wire.read();
            Box::pin(sleep_until(silence.begin(Instant::now())))
        });
        self.armed = true;
        while tick.as_mut().poll(cx).is_ready() {
            let read = shared.wire.read();
            let heard = std::mem::replace(&mut self.read, read) != read;
            let now = Instant::now();
            match silence.step(now, heard, shared.peer.take_active(), shared.reserved() > 0) {
                Step::Wait(until) => tick.as_mut().reset(until),
                Step::Ping(until) => {
                    tick.as_mut().reset(until);
                    // Taken only now: h2 does more for each frame once it was.
                    if self.pings.is_none() {
                        self.pings = h2.ping_pong();
                    }
                    if let Some(pings) = &mut self.pings {
                        // Makes room for the next ping, if the answer to the last one has arrived.
                        let _ = pings.poll_pong(cx);
                        let _ = pings.send_ping(Ping::opaque());
                        // h2 sends it when it is polled.
                        cx.waker().wake_by_ref();
                    }
                }
                Step::Rest => {
                    (self.tick, self.armed) = (None, false);
                    return Poll::Pending;
                }
                Step::Dead => {
                    let timeout = silence.timeout;
                    return Poll::Ready(format!("no answer to a keep-alive ping within {timeout:?}"));
                }
            }
        }
        Poll::Pending
    }
}

/// When to ping, as a pure state machine. It is asked twice in an interval, and not for each byte that arrives.
#[derive(Debug)]
struct Silence {
    interval: Duration,
    timeout: Duration,
    while_idle: bool,
    state: State,
    in_a_row: u32,
    last_ping: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No ping is under way. Whether nothing was read in the last half of an interval.
    Listening { quiet: bool },
    /// A ping is under way since then.
    Pinged(Instant),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Wait(Instant),
    Ping(Instant),
    /// There is nothing to watch until the next call.
    Rest,
    Dead,
}

impl Silence {
    /// Returns whether a connection with or without calls is watched.
    fn concerns(&self, calls: bool) -> bool {
        calls || self.while_idle
    }

    /// Begins to watch; returns when to ask for the first step.
    fn begin(&mut self, now: Instant) -> Instant {
        self.state = State::Listening { quiet: false };
        now + self.interval / 2
    }

    /// `heard`: whether anything was read since the last step; `active`: whether headers or data were.
    fn step(&mut self, now: Instant, heard: bool, active: bool, calls: bool) -> Step {
        if active {
            // What the peer had sent before it read the last ping does not excuse that one.
            self.in_a_row = u32::from(matches!(self.state, State::Pinged(_)));
        }
        let half = now + self.interval / 2;
        match self.state {
            State::Pinged(since) if !heard => {
                let end = since + self.timeout;
                return if now >= end { Step::Dead } else { Step::Wait(end.min(half)) };
            }
            _ if !self.concerns(calls) => return Step::Rest,
            State::Listening { quiet: true } if !heard && self.may_ping(now) => {
                self.state = State::Pinged(now);
                self.in_a_row = self.in_a_row.saturating_add(1);
                self.last_ping = Some(now);
                return Step::Ping((now + self.timeout).min(half));
            }
            State::Listening { .. } | State::Pinged(_) => self.state = State::Listening { quiet: !heard },
        }
        Step::Wait(half)
    }

    fn may_ping(&self, now: Instant) -> bool {
        self.while_idle
            || self.in_a_row < IN_A_ROW
            || self.last_ping.is_none_or(|last| now.duration_since(last) >= PERMITTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn silence() -> Silence {
        let (interval, timeout) = (10 * SECOND, 10 * SECOND);
        let state = State::Listening { quiet: false };
        Silence { interval, timeout, while_idle: false, state, in_a_row: 0, last_ping: None }
    }

    /// Steps until a ping or an end, with what `peer` reports at each step; returns after how long.
    fn run(
        silence: &mut Silence,
        now: &mut Instant,
        mut peer: impl FnMut(Instant) -> (bool, bool),
    ) -> (Step, Duration) {
        let from = *now;
        let mut at = silence.begin(*now);
        for _ in 0..1000 {
            *now = at;
            let (heard, active) = peer(*now);
            match silence.step(*now, heard, active, true) {
                Step::Wait(until) => at = until,
                step => return (step, *now - from),
            }
        }
        (Step::Rest, *now - from)
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_pinged_after_the_interval_and_dead_after_the_timeout() {
        let (mut silence, mut now) = (silence(), Instant::now());
        let mut at = silence.begin(now);
        let mut steps = Vec::new();
        for _ in 0..6 {
            now = at;
            let step = silence.step(now, false, false, true);
            steps.push(step);
            match step {
                Step::Wait(until) | Step::Ping(until) => at = until,
                Step::Rest | Step::Dead => break,
            }
        }
        let pinged = steps.iter().position(|step| matches!(step, Step::Ping(_)));
        assert_eq!(pinged, Some(1), "{steps:?}");
        assert_eq!(steps.last(), Some(&Step::Dead), "{steps:?}");
        assert_eq!(now, Instant::now() + 20 * SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_crosses_a_ping_does_not_excuse_it() {
        let (mut silence, mut now) = (silence(), Instant::now());
        assert!(matches!(run(&mut silence, &mut now, |_| (false, false)).0, Step::Ping(_)));
        now += SECOND;
        assert!(matches!(silence.step(now, true, true, true), Step::Wait(_)));
        let mut pings = 0;
        for _ in 0..20 {
            now += 5 * SECOND;
            // Pongs, and nothing else.
            let heard = matches!(silence.state, State::Pinged(_));
            pings += u32::from(matches!(silence.step(now, heard, false, true), Step::Ping(_)));
        }
        assert_eq!(pings, 1);
        // An answer that comes when no ping is under way excuses all.
        assert!(matches!(silence.step(now, true, true, true), Step::Wait(_)));
        assert_eq!(silence.in_a_row, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_anything_is_not_pinged() {
        let (mut silence, mut now) = (silence(), Instant::now());
        assert_eq!(run(&mut silence, &mut now, |_| (true, false)).0, Step::Rest);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_answers_pings_alone_gets_two_and_then_one_in_five_minutes() {
        let (mut silence, mut now) = (silence(), Instant::now());
        let mut pings = Vec::new();
        let mut at = silence.begin(now);
        let (begin, mut heard) = (now, false);
        while now < begin + 700 * SECOND {
            now = at;
            match silence.step(now, std::mem::take(&mut heard), false, true) {
                Step::Wait(until) => at = until,
                Step::Ping(until) => {
                    pings.push((now - begin).as_secs());
                    (at, heard) = (until, true);
                }
                step => panic!("{step:?} at {:?}", now - begin),
            }
        }
        assert_eq!(pings.len(), 4, "{pings:?}");
        assert!(pings[1] < 60 && pings[2] - pings[1] >= 310 && pings[3] - pings[2] >= 310, "{pings:?}");
        // An answer to a call allows two again.
        silence.step(now, true, true, true);
        assert_eq!(silence.in_a_row, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_calls_is_left_alone_unless_it_is_to_be_watched() {
        let (mut silence, now) = (silence(), Instant::now());
        assert!(!silence.concerns(false));
        assert_eq!(silence.step(now, false, false, false), Step::Rest);
        silence.while_idle = true;
        assert!(silence.concerns(false));
        for _ in 0..10 {
            silence.state = State::Listening { quiet: true };
            assert!(matches!(silence.step(now, false, false, false), Step::Ping(_)));
        }
    }
}
