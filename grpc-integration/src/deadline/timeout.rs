//! The header `grpc-timeout`.

use std::time::Duration;

use http::HeaderValue;

pub(crate) const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Parses `grpc-timeout`: at most eight digits, and a unit.
pub(crate) fn parse(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        parse(&HeaderValue::from_str(text).unwrap())
    }

    #[test]
    fn timeouts_are_parsed_as_grpc_formats_them() {
        assert_eq!(parsed("3H"), Some(Duration::from_secs(10_800)));
        assert_eq!(parsed("2M"), Some(Duration::from_secs(120)));
        assert_eq!(parsed("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(parsed("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parsed("0u"), Some(Duration::ZERO));
        assert_eq!(parsed("7n"), Some(Duration::from_nanos(7)));
        for nonsense in ["", "1", "S", "-1S", "+1S", "1s", "999999999S", "1.5S", "1 S"] {
            assert_eq!(parsed(nonsense), None, "{nonsense:?}");
        }
    }
}
