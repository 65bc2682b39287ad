//! The little of HTTP/2 that is parsed here and not by h2: frame headers, and header blocks as far as one field
//! needs it.

pub(crate) mod frame;
#[cfg(feature = "server")]
pub(crate) mod hpack;
