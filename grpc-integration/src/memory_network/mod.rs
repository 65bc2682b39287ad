//! A network in memory, for tests: servers and channels without sockets.
//!
//! Arrows: stream <- host <- listener <- network <- server.

mod host;
mod listener;
mod mortal;
mod network;
mod server;
mod stream;

pub use host::MemoryHost;
pub use listener::MemoryListener;
pub use network::MemoryNetwork;
pub use server::MemoryServer;
pub use stream::MemoryStream;
