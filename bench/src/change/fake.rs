//! A registry whose content the benchmark changes, connections to servers that do not exist, and a policy that tells when
//! it is asked for a picker.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use futures_util::stream;
use hither_core::{Resolver, ServiceName, Snapshot, SnapshotStream, SortedById};
use hither_tonic::{
    Connected, Connector, Destination, LoadBalancingPolicy, Picker, ReadyInstance, RoundRobin,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// A registry with one service, whose snapshots come from a channel.
#[derive(Debug)]
pub(super) struct Feed(pub(super) watch::Receiver<Snapshot>);

#[async_trait]
impl Resolver for Feed {
    async fn resolve(&self, _: &ServiceName) -> hither_core::Result<Snapshot> {
        Ok(self.0.borrow().clone())
    }

    async fn watch(&self, _: &ServiceName) -> hither_core::Result<SnapshotStream> {
        let mut snapshots = self.0.clone();
        snapshots.mark_changed();
        Ok(Box::pin(stream::unfold(snapshots, |mut snapshots| async move {
            snapshots.changed().await.ok()?;
            let snapshot = snapshots.borrow_and_update().clone();
            Some((Ok(snapshot), snapshots))
        })))
    }
}

/// Connects to a server that sends its SETTINGS, and then nothing: an HTTP/2 connection without a socket.
#[derive(Debug)]
pub(super) struct FakeConnector;

#[async_trait]
impl Connector for FakeConnector {
    async fn connect(&self, _: Destination<'_>) -> io::Result<Connected> {
        Ok(Connected::new(FakeStream { unread: &[0, 0, 0, 4, 0, 0, 0, 0, 0] }))
    }
}

struct FakeStream {
    unread: &'static [u8],
}

impl AsyncRead for FakeStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Poll::Pending;
        }
        let (now, later) = self.unread.split_at(self.unread.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.unread = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FakeStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Round robin, and the number of ready instances of each picker.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) policy: RoundRobin,
    pub(super) ready: watch::Sender<usize>,
}

impl LoadBalancingPolicy for Observed {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        let picker = self.policy.picker(ready);
        self.ready.send_replace(ready.len());
        picker
    }
}
