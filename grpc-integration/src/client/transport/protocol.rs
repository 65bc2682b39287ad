//! Which protocol a peer speaks that does not speak HTTP/2.

/// Describes the protocol by what the peer has sent first; `None` if it may be HTTP/2.
pub(super) fn not_http2(first: &[u8]) -> Option<String> {
    // HTTP/2 begins with SETTINGS: a length below 2^16, and the type 4.
    if first.is_empty() || matches!(first, [0, _, _, 4, ..]) || first.len() < 4 && first.starts_with(&[0]) {
        return None;
    }
    let text = String::from_utf8_lossy(first);
    Some(match first {
        [b'H', b'T', b'T', b'P', b'/', ..] if text.contains("HTTPS") => {
            "the server speaks TLS (it answers that it expects HTTPS): use .tls()".to_owned()
        }
        [b'H', b'T', b'T', b'P', b'/', ..] => {
            let version = text.split_whitespace().next().unwrap_or("HTTP/1.1");
            let status = text.lines().next().unwrap_or_default().trim_start_matches(version).trim();
            format!("the server speaks {version}, not HTTP/2 (it answered {status:?})")
        }
        // A record of the types alert and handshake.
        [0x15 | 0x16, 3, ..] => "the server speaks TLS, not plain HTTP/2: use .tls()".to_owned(),
        [b'S', b'S', b'H', b'-', ..] => "the server speaks SSH, not HTTP/2".to_owned(),
        _ => {
            let shown = |c: char| if c.is_control() || c == char::REPLACEMENT_CHARACTER { '.' } else { c };
            let sent: String = text.trim().chars().map(shown).collect();
            format!("the server does not speak HTTP/2: it sent {sent:?}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_named_by_their_first_bytes() {
        for (first, expected) in [
            (
                &b"HTTP/1.1 400 Bad Request\r\nServer: x"[..],
                Some("speaks HTTP/1.1, not HTTP/2 (it answered \"400 Bad Request\")"),
            ),
            (
                b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
                Some("speaks TLS"),
            ),
            (b"\x15\x03\x01\x00\x02\x02\x46", Some("use .tls()")),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Some("speaks SSH")),
            (b"220 mail ESMTP\r\n", Some("it sent \"220 mail ESMTP\"")),
            (b"J\x00\x00\x00\x0a8.0.36\x00", Some("it sent \"J....8.0.36")),
            (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00", None),
            (b"\x00\x00", None),
            (b"", None),
        ] {
            let described = not_http2(first);
            match expected {
                Some(expected) => {
                    assert!(described.as_ref().is_some_and(|text| text.contains(expected)), "{described:?}");
                }
                None => assert_eq!(described, None),
            }
        }
    }
}
