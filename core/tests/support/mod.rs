//! A registry that the test scripts, call by call.
#![allow(unreachable_pub, reason = "it is a module of each test file")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use hither_core::{
    Error, ErrorKind, Instance, InstanceState, Resolver, Result, Revision, ServiceName, Snapshot,
    SnapshotStream,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub const SECOND: Duration = Duration::from_secs(1);

/// Waits in paused time for what must come: a minute of it is an instant.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(60 * SECOND, future).await.expect("it comes within a minute of paused time")
}

pub fn service() -> ServiceName {
    "svc".parse().unwrap()
}

/// `a` is up, `a*` is draining.
pub fn instance(text: &str) -> Arc<Instance> {
    let (name, state) = match text.strip_suffix('*') {
        Some(name) => (name, InstanceState::Draining),
        None => (text, InstanceState::Up),
    };
    Arc::new(Instance::new(format!("{name}:1").parse().unwrap()).with_state(state))
}

pub fn snapshot(instances: &[&str]) -> Snapshot {
    Snapshot::new(service(), instances.iter().map(|text| instance(text))).with_revision(Revision::new("1"))
}

pub fn names<'a>(instances: impl IntoIterator<Item = &'a Arc<Instance>>) -> Vec<String> {
    instances.into_iter().map(|instance| instance.id().as_str().trim_end_matches(":1").to_owned()).collect()
}

pub fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "as scripted")
}

/// Hands each call of `watch` to the test.
pub struct ScriptedResolver {
    calls: mpsc::UnboundedSender<WatchCall>,
}

impl std::fmt::Debug for ScriptedResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScriptedResolver")
    }
}

/// The test's side.
pub struct Script {
    calls: mpsc::UnboundedReceiver<WatchCall>,
}

/// One call of `watch`, to be answered. Dropped, it hangs no longer, but fails.
pub struct WatchCall {
    answer: oneshot::Sender<Result<SnapshotStream>>,
}

/// An open watch. Dropped, it ends.
#[derive(Debug)]
pub struct OpenWatch(mpsc::UnboundedSender<Result<Snapshot>>);

pub fn scripted() -> (ScriptedResolver, Script) {
    let (sender, calls) = mpsc::unbounded_channel();
    (ScriptedResolver { calls: sender }, Script { calls })
}

impl Script {
    pub async fn watch(&mut self) -> WatchCall {
        soon(self.calls.recv()).await.expect("the resolver is in use")
    }

    /// Whether `watch` was called since.
    pub fn is_called(&mut self) -> bool {
        self.calls.try_recv().is_ok()
    }

    /// Waits until the resolver was dropped.
    pub async fn is_dropped(&mut self) {
        while soon(self.calls.recv()).await.is_some() {}
    }
}

impl WatchCall {
    pub fn fail(self, kind: ErrorKind) {
        let _ = self.answer.send(Err(error(kind)));
    }

    pub fn open(self, first: &[&str]) -> OpenWatch {
        let open = self.open_silent();
        open.send(first);
        open
    }

    pub fn open_silent(self) -> OpenWatch {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let stream = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        let _ = self.answer.send(Ok(stream.boxed()));
        OpenWatch(sender)
    }
}

impl OpenWatch {
    pub fn send(&self, instances: &[&str]) {
        let _ = self.0.send(Ok(snapshot(instances)));
    }

    pub fn fail(self, kind: ErrorKind) {
        let _ = self.0.send(Err(error(kind)));
    }

    /// Waits until it was dropped.
    pub async fn is_dropped(&self) {
        soon(self.0.closed()).await;
    }
}

#[async_trait]
impl Resolver for ScriptedResolver {
    async fn resolve(&self, _service: &ServiceName) -> Result<Snapshot> {
        Err(error(ErrorKind::Unsupported))
    }

    async fn watch(&self, _service: &ServiceName) -> Result<SnapshotStream> {
        let (answer, answered) = oneshot::channel();
        let _ = self.calls.send(WatchCall { answer });
        answered.await.unwrap_or_else(|_| Err(error(ErrorKind::Unavailable)))
    }
}
