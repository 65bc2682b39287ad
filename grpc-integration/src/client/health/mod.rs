//! Health checks (gRFC A17): a stream on which a server reports whether it is to be called.

mod message;
mod stream;
mod watch;

pub(crate) use watch::{Health, HealthCheck};
