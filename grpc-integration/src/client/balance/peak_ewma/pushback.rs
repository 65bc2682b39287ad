//! The pause that a server asks for.

use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Returns the pause that these trailers ask for. A pushback that is negative or no number is gRPC's "do not retry" (A6),
/// which asks for no time. A date in `retry-after` is ignored, for its clock is the server's.
pub(super) fn pushback(trailers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| trailers.get(name)?.to_str().ok()?.trim().parse::<u32>().ok();
    let asked = number(PUSHBACK).map(|milliseconds| Duration::from_millis(milliseconds.into()));
    asked.or_else(|| number(RETRY_AFTER.as_str()).map(|seconds| Duration::from_secs(seconds.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_of_a_time_asks_for_a_pause() {
        for (name, value, expected) in [
            (PUSHBACK, "1500", Some(1500)),
            (PUSHBACK, "0", Some(0)),
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
    }
}
