//! The deadline of a call.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use crate::deadline::{GRPC_TIMEOUT, parse};

/// The deadline of a call: for its attempts, its waiting, and its response's body to the end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    /// The timeout, counted from the beginning of the call.
    pub(super) within: Duration,
    /// Whether the request's headers state it as it is.
    stated: bool,
}

impl Deadline {
    /// Returns the deadline that the request asks for by `grpc-timeout`, capped by the channel's; `None` if there is
    /// neither.
    pub(super) fn of(asked: Option<&HeaderValue>, cap: Option<Duration>) -> Option<Self> {
        let asked = asked.and_then(parse);
        let within = match (asked, cap) {
            (Some(asked), Some(cap)) => asked.min(cap),
            (asked, cap) => asked.or(cap)?,
        };
        // Beyond the range of the clock there is no deadline.
        let at = Instant::now().checked_add(within)?;
        Some(Self { at, within, stated: asked == Some(within) })
    }

    pub(super) fn has_passed(&self) -> bool {
        self.at <= Instant::now()
    }

    /// Returns the status of a call that has exceeded it; `progress` is how far the call had come.
    pub(super) fn exceeded(&self, progress: impl fmt::Display) -> Status {
        Status::deadline_exceeded(format!("not done within {:?}: {progress}", self.within))
    }

    /// Writes the time that is left into the headers, for the server, unless they state it already. `late`: the call
    /// has waited.
    pub(super) fn write(&self, headers: &mut HeaderMap, late: bool) {
        if self.stated && !late {
            return;
        }
        let left = self.at.saturating_duration_since(Instant::now());
        headers.insert(HeaderName::from_static(GRPC_TIMEOUT), format(left));
    }
}

/// The timer of a deadline.
#[derive(Debug)]
pub(super) struct Timer {
    deadline: Deadline,
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    pub(super) fn new(deadline: Deadline) -> Self {
        Self { deadline, sleep: Box::pin(sleep_until(deadline.at)) }
    }

    pub(super) fn deadline(&self) -> &Deadline {
        &self.deadline
    }

    /// Ready when the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}

/// Formats `grpc-timeout` in the finest unit for which eight digits suffice, rounded up as by grpc-go: a server whose deadline came
/// before ours would cancel the call.
fn format(left: Duration) -> HeaderValue {
    const MAX: u128 = 99_999_999;
    let nanos = left.as_nanos();
    let units = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let counts = units.into_iter().map(|(unit, name)| (nanos.div_ceil(unit), name));
    let (count, unit) = counts.into_iter().find(|(count, _)| *count <= MAX).unwrap_or((MAX, 'H'));
    // Digits and a letter are always a header's value.
    HeaderValue::try_from(format!("{count}{unit}")).unwrap_or(HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_formatted_timeout_parses_to_the_same_time_and_never_to_a_shorter_one() {
        let mut random = fastrand::Rng::with_seed(5);
        for _ in 0..1000 {
            let left = Duration::from_nanos(random.u64(..) >> random.u32(..64));
            let read = parse(&format(left)).unwrap();
            assert!(read >= left && read - left <= left / 10_000, "{left:?} became {read:?}");
        }
        assert_eq!(format(Duration::MAX), "99999999H");
    }

    #[tokio::test(start_paused = true)]
    async fn the_timeout_of_the_channel_caps_the_one_of_the_request() {
        let within = |asked: &'static str, cap| {
            let asked = HeaderValue::from_static(asked);
            let asked = (!asked.is_empty()).then_some(&asked);
            Deadline::of(asked, cap).map(|deadline| deadline.within)
        };
        let second = Duration::from_secs(1);
        assert_eq!(within("", None), None);
        assert_eq!(within("", Some(second)), Some(second));
        assert_eq!(within("5S", Some(second)), Some(second));
        assert_eq!(within("5m", Some(second)), Some(Duration::from_millis(5)));
        assert_eq!(within("nonsense", None), None);
    }
}
