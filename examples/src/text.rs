//! Status codes and strings as gRPC in Go prints them.

use tonic::Code;

/// Returns the name of a status code as in the gRPC specification: `DEADLINE_EXCEEDED`, which Rust writes `DeadlineExceeded`.
pub fn code_name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// Quotes a string as Go's `prototext` does: with `\"`, `\\`, `\n`, `\r`, `\t`, and `\x1b` for other
/// control characters.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_is_quoted_as_in_go() {
        assert_eq!(quoted("request content from 8001 => DDDD"), r#""request content from 8001 => DDDD""#);
        assert_eq!(quoted("a\"b\\c\nd\te\u{1b}ü"), r#""a\"b\\c\nd\te\x1bü""#);
    }

    #[test]
    fn each_code_has_its_name_in_the_specification() {
        let names: Vec<_> = (0..17).map(|code| code_name(Code::from_i32(code))).collect();
        assert_eq!(
            names.join(" "),
            "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED \
             RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE \
             DATA_LOSS UNAUTHENTICATED"
        );
    }
}
