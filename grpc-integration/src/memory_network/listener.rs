//! The stream of accepted connections.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::mpsc::UnboundedReceiver;

use super::host::MemoryHost;
use super::stream::MemoryStream;

/// The connections that are opened to one address of a [`MemoryNetwork`](crate::MemoryNetwork): for tonic's
/// `serve_with_incoming_shutdown`, for [`LifecycleBuilder::listen`](crate::LifecycleBuilder::listen), or for a server of
/// another kind.
///
/// Dropping it closes the address: further attempts to connect are refused, and connections that were accepted go on.
#[derive(Debug)]
pub struct MemoryListener {
    host: MemoryHost,
    number: u64,
    incoming: UnboundedReceiver<MemoryStream>,
}

impl MemoryListener {
    /// Listens at an address.
    pub(super) fn bind(host: &MemoryHost) -> io::Result<Self> {
        let (number, incoming) = host.listen()?;
        Ok(Self { host: host.clone(), number, incoming })
    }

    /// Returns its number among those of its address.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Completes with the next connection.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<MemoryStream> {
        match self.incoming.poll_recv(cx) {
            Poll::Ready(Some(stream)) => Poll::Ready(stream),
            // It was killed, and nothing is going to come.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Returns the address that it listens on.
    pub fn host(&self) -> &MemoryHost {
        &self.host
    }
}

impl Stream for MemoryListener {
    type Item = io::Result<MemoryStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.incoming.poll_recv(cx).map(|stream| stream.map(Ok))
    }
}
