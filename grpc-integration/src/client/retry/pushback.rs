//! What a server asks of those who would call it again.

use std::time::Duration;

use http::HeaderMap;

const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A server that asks for a longer delay is not called again: without a deadline a call would wait for up to 24 days.
const LONGEST: Duration = Duration::from_secs(120);

/// What the header `grpc-retry-pushback-ms` asks for (gRFC A6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// The next attempt after this time.
    After(Duration),
    /// No other attempt.
    Stop,
}

impl Pushback {
    /// Returns what these trailers ask of retries; `None`: nothing. A longer delay than two minutes is as good as no other
    /// attempt.
    pub(crate) fn of_retries(trailers: &HeaderMap) -> Option<Self> {
        Self::of(trailers).map(|asked| match asked {
            Self::After(delay) if delay > LONGEST => Self::Stop,
            asked => asked,
        })
    }

    /// Returns what these trailers ask for; `None`: nothing. What cannot be parsed asks for no other attempt, as do several
    /// values.
    pub(crate) fn of(trailers: &HeaderMap) -> Option<Self> {
        let mut values = trailers.get_all(PUSHBACK).iter();
        let value = values.next()?;
        let millis = value.to_str().ok().and_then(|value| value.parse::<i32>().ok());
        let delay = millis.and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis);
        Some(match (delay, values.next()) {
            (Some(delay), None) => Self::After(delay),
            _ => Self::Stop,
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_number_of_milliseconds_within_two_minutes_asks_for_another_attempt() {
        let after = |millis| Some(Pushback::After(Duration::from_millis(millis)));
        for (values, expected) in [
            (&[][..], None),
            (&["0"], after(0)),
            (&["1000"], after(1000)),
            (&["120000"], after(120_000)),
            (&["120001"], Some(Pushback::Stop)),
            (&["2147483648"], Some(Pushback::Stop)),
            (&["99999999999999999999"], Some(Pushback::Stop)),
            (&["-1"], Some(Pushback::Stop)),
            (&["1.5"], Some(Pushback::Stop)),
            (&["1000ms"], Some(Pushback::Stop)),
            (&[""], Some(Pushback::Stop)),
            (&["10", "10"], Some(Pushback::Stop)),
            (&["\u{e4}"], Some(Pushback::Stop)),
        ] {
            let mut trailers = HeaderMap::new();
            for value in values {
                trailers.append(PUSHBACK, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            assert_eq!(Pushback::of_retries(&trailers), expected, "{values:?}");
        }
        let of = |value| {
            Pushback::of(&HeaderMap::from_iter([(
                PUSHBACK.parse().unwrap(),
                HeaderValue::from_static(value),
            )]))
        };
        assert_eq!(of("120001"), after(120_001), "who does not wait is not bounded");
        assert_eq!(of("2147483647"), after(2_147_483_647));
        assert_eq!(of("2147483648"), Some(Pushback::Stop), "it is an i32");
    }
}
