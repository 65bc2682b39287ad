//! Durations from outside: as text, and as deadlines.

use std::time::Duration;

use tokio::time::Instant;

use crate::{Error, ErrorKind, Result};

/// Thirty years, as tokio's own far future: no clock overflows.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// The moment `delay` after `now`. A delay beyond what a clock can represent becomes one of thirty years.
pub(crate) fn after(now: Instant, delay: Duration) -> Instant {
    now.checked_add(delay).unwrap_or_else(|| now + FAR)
}

/// Parses a duration as Go and etcdctl write it: `500ms`, `1.5s`, `1m30s`, `2h45m`, `0`.
///
/// The units are `ns`, `us` (or `µs`), `ms`, `s`, `m` and `h`. There is no sign: all durations of hither are waits.
///
/// ```
/// use std::time::Duration;
/// use hither_core::parse_duration;
///
/// assert_eq!(parse_duration("1m30s")?, Duration::from_secs(90));
/// assert_eq!(parse_duration("1.5s")?, Duration::from_millis(1500));
/// assert!(parse_duration("90").is_err());
/// # Ok::<(), hither_core::Error>(())
/// ```
///
/// # Errors
/// `InvalidArgument` when the text is not of that form, or longer than a [`Duration`] can be.
pub fn parse_duration(text: &str) -> Result<Duration> {
    let invalid = |why: &str| {
        let message = format!("duration {text:?} {why} (expected for example 500ms, 1.5s or 1m30s)");
        Error::new(ErrorKind::InvalidArgument, message)
    };
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(invalid("is empty"));
    }
    let (mut rest, mut nanos) = (text, 0_u128);
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, behind) = rest.split_at(number_end);
        let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, next) = behind.split_at(unit_end);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            "" => return Err(invalid("has a number without a unit")),
            _ => return Err(invalid("has an unknown unit")),
        };
        let part = scaled(number, unit).ok_or_else(|| invalid("has no valid number"))?;
        nanos = nanos.checked_add(part).ok_or_else(|| invalid("is too long"))?;
        rest = next;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| invalid("is too long"))?;
    let subsecond = u32::try_from(nanos % 1_000_000_000).map_err(|_| invalid("is too long"))?;
    Ok(Duration::new(seconds, subsecond))
}

/// `number` times `unit`, in integers: what is beyond a nanosecond is cut off, as in Go.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanos = whole.checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars().map_while(|digit| digit.to_digit(10)) {
        place /= 10;
        nanos = nanos.checked_add(place.checked_mul(u128::from(digit))?)?;
    }
    Some(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_parsed_as_go_writes_them() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("1ns", 1),
            ("500us", 500_000),
            ("500µs", 500_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("1m30s", 90_000_000_000),
            ("2h45m", 9_900_000_000_000),
            ("1h0m0.001s", 3_600_001_000_000),
            ("0.100000000000000000000h", 360_000_000_000),
            ("1m0.5s", 60_500_000_000),
        ] {
            assert_eq!(parse_duration(text).unwrap().as_nanos(), nanos, "{text}");
        }
    }

    #[test]
    fn an_invalid_duration_is_named_in_the_error() {
        for text in [
            "",
            "1",
            "s",
            "-1s",
            "+1s",
            "1 s",
            "1.5.5s",
            ".s",
            "1d",
            "1e3s",
            "1s ",
            "½s",
            "1S",
            "99999999999999999999h",
            "340282366920938463463374607431768211455h",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
            assert!(error.to_string().contains(&format!("{text:?}")), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_never_overflows() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::from_secs(1)), now + Duration::from_secs(1));
        assert!(after(now, Duration::MAX) > now + Duration::from_secs(3600));
    }
}
