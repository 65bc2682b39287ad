//! The failures of an instance, as load.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// One call, in the unit of the load.
const CALL: u64 = 1024;
const MAX_LOAD: u64 = (1 << 24) - 1;
/// What is less than this counts as nothing, so that the state soon is 0 again.
const LEAST: u64 = 64;
/// A rate of one.
const ONE: u64 = 1 << 15;
/// The rate is an exponential moving average: a call has one part in so many.
const WINDOW: u64 = 16;
const TICK: Duration = Duration::from_millis(125);
/// The ticks in which the load halves.
const HALF_LIFE: u64 = 24;
/// A tick takes one in so many away, which in all those ticks is half.
const DECAY: u64 = 35;

/// The failures of an instance: a call that has failed goes on counting as load, which halves every three seconds.
///
/// A server that fails at once has nothing in flight, so it would attract nearly all calls. Where what has failed lingers,
/// its share is that of a server which needs some four seconds for a call, however many callers there are; what fails
/// everywhere lingers everywhere alike. A failure counts as much as the share of failures among the calls before, so a rare
/// one is of no account.
#[derive(Debug)]
pub(crate) struct Failures {
    began: Instant,
    /// The load (24 bits), the rate (16) and the tick of both (24). 0 without failures: then no clock is read.
    state: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct State {
    load: u64,
    rate: u64,
    tick: u64,
}

impl Failures {
    /// Records a call that the server has answered or failed.
    pub(crate) fn record(&self, is_failure: bool) {
        if !is_failure && self.state.load(Ordering::Relaxed) == 0 {
            return;
        }
        let _ = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| {
            // Read after the state: a tick before the state's would count as one that is 24 days later.
            Some(State::unpack(state).at(self.tick()).after(is_failure).pack())
        });
    }

    /// Returns the load, in whole calls.
    pub(crate) fn load(&self) -> usize {
        let state = self.state.load(Ordering::Relaxed);
        if state == 0 {
            return 0;
        }
        usize::try_from(State::unpack(state).at(self.tick()).load / CALL).unwrap_or(usize::MAX)
    }

    /// Returns the share of failures among the latest calls: from 0 to 1.
    pub(crate) fn rate(&self) -> f64 {
        State::unpack(self.state.load(Ordering::Relaxed)).rate as f64 / ONE as f64
    }

    fn tick(&self) -> u64 {
        let ticks = self.began.elapsed().as_millis() / TICK.as_millis();
        u64::try_from(ticks).unwrap_or_default() & 0xff_ffff
    }
}

impl Default for Failures {
    fn default() -> Self {
        Self { began: Instant::now(), state: AtomicU64::new(0) }
    }
}

impl State {
    fn unpack(state: u64) -> Self {
        Self { load: state >> 40, rate: state >> 24 & 0xffff, tick: state & 0xff_ffff }
    }

    fn pack(self) -> u64 {
        if self.load == 0 && self.rate == 0 { 0 } else { self.load << 40 | self.rate << 24 | self.tick }
    }

    fn at(self, tick: u64) -> Self {
        let passed = tick.wrapping_sub(self.tick) & 0xff_ffff;
        let halved = self.load >> (passed / HALF_LIFE).min(63);
        let load = (0..passed % HALF_LIFE).fold(halved, |load, _| load - load / DECAY);
        Self { load: if load < LEAST { 0 } else { load }, tick, ..self }
    }

    fn after(self, is_failure: bool) -> Self {
        if is_failure {
            let load = (self.load + CALL * self.rate / ONE).min(MAX_LOAD);
            return Self { load, rate: self.rate + (ONE - self.rate) / WINDOW, ..self };
        }
        // Less than a percent is none.
        let rate = self.rate - self.rate / WINDOW;
        Self { rate: if rate < ONE / 128 { 0 } else { rate }, ..self }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_always_fails_lingers_and_halves_every_three_seconds() {
        let failures = Failures::default();
        (0..1000).for_each(|_| failures.record(true));
        let load = failures.load();
        assert!((950..1000).contains(&load), "{load}");
        advance(Duration::from_secs(3)).await;
        assert_eq!(failures.load(), load / 2);
        advance(Duration::from_secs(60)).await;
        assert_eq!(failures.load(), 0);
        (0..100).for_each(|_| failures.record(false));
        assert_eq!(failures.state.load(Ordering::Relaxed), 0, "nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_recorded_often_decays_all_the_same() {
        let failures = Failures::default();
        (0..1000).for_each(|_| failures.record(true));
        for _ in 0..3000 {
            advance(Duration::from_millis(2)).await;
            failures.record(false);
        }
        assert!((200..300).contains(&failures.load()), "{}", failures.load());
    }

    #[test]
    fn one_failure_among_thousands_is_of_no_account() {
        let failures = Failures::default();
        for _ in 0..10 {
            (0..1000).for_each(|_| failures.record(false));
            failures.record(true);
            assert_eq!(failures.load(), 0);
        }
    }

    #[test]
    fn the_load_is_bounded() {
        let failures = Failures::default();
        (0..100_000).for_each(|_| failures.record(true));
        assert_eq!(failures.load(), 16_383);
    }
}
