//! Responses that are not gRPC's: of proxies, load balancers and web servers.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::response::Parts;
use http_body::Body as _;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::response_body::ResponseBody;

/// How much of the text is shown.
const SHOWN: usize = 256;
/// How much of the body is read for it, and for how long: it may be endless.
const READ: usize = 4 * 1024;
const WAIT: Duration = Duration::from_secs(1);

/// Returns the status for a response that is not gRPC's, with the first of its text.
pub(crate) async fn status_of(head: &Parts, body: ResponseBody) -> Status {
    let kind = match head.headers.get(CONTENT_TYPE) {
        Some(kind) => String::from_utf8_lossy(kind.as_bytes()).into_owned(),
        None => "no content type".to_owned(),
    };
    let mut text = Vec::new();
    // What was read until then is shown.
    let _ = timeout(WAIT, read(body, &mut text)).await;
    let text = shown(&text);
    let mut message = format!("HTTP {} instead of a gRPC response ({kind})", head.status);
    if let Some(location) = head.headers.get(http::header::LOCATION) {
        message += &format!(" to {}", String::from_utf8_lossy(location.as_bytes()));
    }
    if !text.is_empty() {
        message += ": ";
        message += &text;
    }
    Status::new(code_of(head.status), message)
}

/// gRPC's table, http-grpc-status-mapping.
fn code_of(status: StatusCode) -> Code {
    match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502..=504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

async fn read(mut body: ResponseBody, text: &mut Vec<u8>) {
    while text.len() < READ {
        match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            Some(Err(_)) | None => return,
        }
    }
}

/// Makes one line of text: white space and control characters become single spaces.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text.get(..READ).unwrap_or(text));
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        if line.chars().count() > SHOWN {
            return line.chars().take(SHOWN).chain("…".chars()).collect();
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_in_one_line_and_bounded() {
        assert_eq!(
            shown(b"<html>\r\n<head>\x1b[31m\t502  Bad\x00Gateway"),
            "<html> <head> [31m 502 Bad Gateway"
        );
        assert_eq!(shown(b""), "");
        let long = shown(&b"x ".repeat(4000));
        assert!(long.chars().count() == SHOWN + 1 && long.ends_with('…'));
        assert!(shown(&[0xff; 10_000]).chars().count() <= SHOWN + 1);
    }
}
