//! The size of headers, as HTTP/2 counts it (RFC 9113, section 6.5.2).

use http::{HeaderMap, Request};

/// What is added to the size of each header.
pub(crate) const HEADER_OVERHEAD: usize = 32;

/// Returns the size of headers or trailers, without pseudo-headers.
pub(super) fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD).sum()
}

/// Returns the size of a request's headers, with its pseudo-headers.
pub(super) fn request_size(request: &Request<()>) -> usize {
    let uri = request.uri();
    let pseudo = [
        (":method", Some(request.method().as_str())),
        (":scheme", uri.scheme_str()),
        (":authority", uri.authority().map(|authority| authority.as_str())),
        (":path", uri.path_and_query().map(|path| path.as_str())),
    ];
    let pseudo =
        pseudo.iter().filter_map(|(name, value)| Some(name.len() + (*value)?.len() + HEADER_OVERHEAD));
    pseudo.sum::<usize>() + size(request.headers())
}
