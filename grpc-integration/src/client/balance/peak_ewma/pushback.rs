//! The pause that a server asks for.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::client::retry::Pushback;

/// Returns the pause that these trailers ask for. gRPC's "do not retry" asks for no time. A date in `retry-after` is ignored,
/// for its clock is the server's.
pub(super) fn pushback(trailers: &HeaderMap) -> Option<Duration> {
    match Pushback::of(trailers) {
        Some(Pushback::After(pause)) => Some(pause),
        Some(Pushback::Stop) | None => {
            let seconds = trailers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse::<u32>().ok()?;
            Some(Duration::from_secs(seconds.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUSHBACK: &str = "grpc-retry-pushback-ms";

    #[test]
    fn only_a_number_of_a_time_asks_for_a_pause() {
        for (name, value, expected) in [
            (PUSHBACK, "1500", Some(1500)),
            (PUSHBACK, "0", Some(0)),
            (PUSHBACK, "600000", Some(600_000)),
            (PUSHBACK, "-1", None),
            (PUSHBACK, "soon", None),
            (PUSHBACK, "99999999999999999999", None),
            ("retry-after", "120", Some(120_000)),
            ("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT", None),
            ("grpc-message", "5", None),
        ] {
            let trailers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            assert_eq!(pushback(&trailers), expected.map(Duration::from_millis), "{name}: {value}");
        }
        let both = [(PUSHBACK, "5"), ("retry-after", "9")];
        let both = both.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        assert_eq!(pushback(&both.into_iter().collect()), Some(Duration::from_millis(5)));
    }
}
