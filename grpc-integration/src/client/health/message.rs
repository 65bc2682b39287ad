//! The two messages of `grpc.health.v1.Health/Watch`, which are so small that no code need be generated for them.

use std::fmt;

use bytes::Bytes;

/// The longest message that is read. A response has two bytes.
const LONGEST: usize = 1024;
/// The flag of compression, and the length.
const PREFIX: usize = 5;

/// The health that a server reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ServingStatus(u64);

impl ServingStatus {
    pub(super) const SERVING: Self = Self(1);
}

impl fmt::Display for ServingStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("UNKNOWN"),
            1 => f.write_str("SERVING"),
            2 => f.write_str("NOT_SERVING"),
            3 => f.write_str("SERVICE_UNKNOWN"),
            other => write!(f, "{other}"),
        }
    }
}

/// Returns a `HealthCheckRequest { string service = 1 }`, framed.
pub(super) fn request(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.push(1 << 3 | 2);
        let mut length = service.len();
        while length > 0x7f {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[0][..], &length, &message].concat().into()
}

/// Splits what arrives into messages.
#[derive(Debug, Default)]
pub(super) struct Responses(Vec<u8>);

impl Responses {
    pub(super) fn push(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
    }

    /// Returns the next message, if all of it has arrived: a `HealthCheckResponse { ServingStatus status = 1 }`.
    ///
    /// # Errors
    /// In words, if there is none that can be read.
    pub(super) fn next(&mut self) -> Result<Option<ServingStatus>, String> {
        let Some((&[flag, a, b, c, d], rest)) = self.0.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        match flag {
            0 => {}
            1 => return Err("a compressed health message".to_owned()),
            _ => return Err("no gRPC message".to_owned()),
        }
        if length > LONGEST {
            return Err(format!("a health message of {length} bytes"));
        }
        let Some(message) = rest.get(..length) else { return Ok(None) };
        let status = status(message).ok_or("a health message that is no protobuf")?;
        self.0.drain(..PREFIX + length);
        Ok(Some(status))
    }
}

/// Reads the status; what else there is, is skipped.
fn status(mut message: &[u8]) -> Option<ServingStatus> {
    let mut status = 0;
    while !message.is_empty() {
        let key = varint(&mut message)?;
        match (key >> 3, key & 7) {
            (0, _) => return None,
            (1, 0) => status = varint(&mut message)?,
            (_, 0) => drop(varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(ServingStatus(status))
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (index, byte) in message.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if *byte < 0x80 {
            *message = &message[index + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tonic_health::pb::health_check_response::ServingStatus as Status;

    use super::*;

    fn read(data: &[u8]) -> Result<Option<ServingStatus>, String> {
        let mut responses = Responses::default();
        responses.push(data);
        responses.next()
    }

    #[test]
    fn the_status_is_read_and_what_is_not_known_is_skipped() {
        for (message, expected) in [
            (&[][..], "UNKNOWN"),
            (&[8, 1], "SERVING"),
            (&[8, 2], "NOT_SERVING"),
            (&[8, 3], "SERVICE_UNKNOWN"),
            (&[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "18446744073709551615"),
            // Fields of a later version, of each type; and the last value counts.
            (&[8, 2, 16, 200, 1, 25, 1, 2, 3, 4, 5, 6, 7, 8, 34, 2, 9, 9, 45, 1, 2, 3, 4, 8, 1], "SERVING"),
        ] {
            let framed = [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..], message].concat();
            assert_eq!(read(&framed).unwrap().unwrap().to_string(), expected);
            // Byte by byte, and another message behind it.
            let mut responses = Responses::default();
            for byte in &framed[..framed.len() - 1] {
                responses.push(&[*byte]);
                assert_eq!(responses.next(), Ok(None));
            }
            responses.push(&[*framed.last().unwrap(), 0, 0, 0, 0, 2, 8, 1]);
            assert_eq!(responses.next().unwrap().unwrap().to_string(), expected);
            assert_eq!(responses.next(), Ok(Some(ServingStatus::SERVING)));
            assert_eq!(responses.next(), Ok(None));
        }
        // The longest, most of which is of a later version.
        let longest = [&[0, 0, 0, 4, 0, 8, 1, 18, 251, 7][..], &[0; 1019]].concat();
        assert_eq!(read(&longest), Ok(Some(ServingStatus::SERVING)));
        for status in [Status::Unknown, Status::Serving, Status::NotServing, Status::ServiceUnknown] {
            assert_eq!(ServingStatus(status as u64).to_string(), status.as_str_name());
        }
    }

    #[test]
    fn what_is_no_message_is_an_error_and_nothing_long_is_kept() {
        for (data, expected) in [
            (&[1, 0, 0, 0, 2, 8, 1][..], "a compressed health message"),
            (b"HTTP/1.1", "no gRPC message"),
            (&[0, 0, 0, 4, 1], "a health message of 1025 bytes"),
            (&[0, 0xff, 0xff, 0xff, 0xff], "a health message of 4294967295 bytes"),
            (&[0, 0, 0, 0, 1, 8], "a health message that is no protobuf"),
            (&[0, 0, 0, 0, 2, 0, 1], "a health message that is no protobuf"),
            (&[0, 0, 0, 0, 2, 15, 1], "a health message that is no protobuf"),
            (&[0, 0, 0, 0, 3, 18, 0xff, 1], "a health message that is no protobuf"),
            (
                &[0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
                "a health message that is no protobuf",
            ),
        ] {
            assert_eq!(read(data), Err(expected.to_owned()));
        }
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..100_000 {
            let mut data = vec![0, 0, 0, 0, random.u8(..12)];
            data.extend((0..12).map(|_| random.u8(..)));
            let _ = read(&data);
        }
    }

    #[test]
    fn requests_are_those_of_prost() {
        for service in [
            String::new(),
            "helloworld.Greeter".to_owned(),
            "a".repeat(127),
            "é".repeat(200),
            "b".repeat(20_000),
        ] {
            let framed = request(&service);
            let message = &framed[5..];
            assert_eq!(
                framed[..5],
                [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat()
            );
            let mut rest = message;
            if service.is_empty() {
                assert_eq!(rest, b"");
                continue;
            }
            assert_eq!(varint(&mut rest), Some(10));
            assert_eq!(varint(&mut rest), Some(service.len() as u64));
            assert_eq!(rest, service.as_bytes());
        }
    }
}
