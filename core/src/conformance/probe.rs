//! What the behaviours are written with.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::failure::{Failure, ensure, expect_no_response, is_no_response};
use super::{Harness, HarnessConfig, Write};
use crate::{
    Catalog, Claim, Error, Instance, InstanceId, Lease, Registrar, Registration, Resolver, ServiceName,
    Snapshot, SnapshotStream,
};

/// A poll that takes longer has blocked its thread, and with it every other task there. So long, because this is real time: a
/// busy machine may keep a thread waiting for seconds, in the midst of a poll.
const BLOCKED: Duration = Duration::from_secs(10);

/// The access of one behaviour to the backend: its own service names, and a deadline on every call.
#[derive(Debug)]
pub(super) struct Probe {
    harness: Arc<dyn Harness>,
    resolver: Option<Arc<dyn Resolver>>,
    namespace: String,
}

impl Probe {
    pub(super) fn new(harness: Arc<dyn Harness>, behaviour: &str) -> Self {
        // A registry may outlive a run, and the kit may run twice on it.
        let namespace = format!("conformance/{behaviour}/{:08x}", fastrand::u32(..));
        Self { harness, resolver: None, namespace }
    }

    pub(super) fn harness(&self) -> &dyn Harness {
        &*self.harness
    }

    pub(super) fn service(&self, name: &str) -> Result<ServiceName, Failure> {
        Ok(ServiceName::new(format!("{}/{name}", self.namespace))?)
    }

    pub(super) fn ttl(&self) -> Duration {
        self.config().min_ttl()
    }

    /// The time after which a record of this TTL that is not renewed must be gone.
    pub(super) fn expiry(&self, ttl: Duration) -> Duration {
        ttl.saturating_add(self.config().granularity())
    }

    pub(super) fn settle(&self) -> Duration {
        self.config().settle()
    }

    pub(super) fn deadline(&self) -> Duration {
        self.config().deadline()
    }

    fn config(&self) -> HarnessConfig {
        self.harness.config()
    }

    pub(super) async fn registrar(&self) -> Owner {
        Owner { registrar: self.harness.registrar().await, ttl: self.ttl(), settle: self.settle() }
    }

    pub(super) async fn catalog(&self) -> Result<Arc<dyn Catalog>, Failure> {
        let catalog = self.harness.catalog().await;
        catalog.ok_or_else(|| cannot("has no catalog", "catalog"))
    }

    pub(super) async fn resolver(&mut self) -> Arc<dyn Resolver> {
        if self.resolver.is_none() {
            self.resolver = Some(self.harness.resolver().await);
        }
        match &self.resolver {
            Some(resolver) => Arc::clone(resolver),
            None => self.harness.resolver().await,
        }
    }

    pub(super) async fn resolve(&mut self, service: &ServiceName) -> Result<Snapshot, Failure> {
        let resolver = self.resolver().await;
        let snapshot = within(self.settle(), "resolve", resolver.resolve(service)).await??;
        is_of(&snapshot, service)?;
        Ok(snapshot)
    }

    /// Resolves until the snapshot is as expected.
    pub(super) async fn resolves_to(
        &mut self,
        service: &ServiceName,
        what: &str,
        is_expected: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Failure> {
        let limit = self.settle();
        self.resolves_within(service, limit, what, is_expected).await
    }

    pub(super) async fn resolves_within(
        &mut self,
        service: &ServiceName,
        limit: Duration,
        what: &str,
        is_expected: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Failure> {
        let deadline = Instant::now() + limit;
        loop {
            let snapshot = self.resolve(service).await?;
            if is_expected(&snapshot) {
                return Ok(snapshot);
            }
            ensure(Instant::now() < deadline, || {
                format!(
                    "resolving {service} did not return {what} within {limit:?}, but {:?}",
                    ids(&snapshot)
                )
            })?;
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) async fn watch(&mut self, service: &ServiceName) -> Result<Watch, Failure> {
        let resolver = self.resolver().await;
        let snapshots = within(self.settle(), "opening a watch", resolver.watch(service)).await??;
        Ok(Watch { snapshots, service: service.clone(), settle: self.settle() })
    }

    /// Resolves until the snapshot is as expected, on a connection that may have to be made again.
    pub(super) async fn resolves_after(
        &mut self,
        retry: &Retry,
        service: &ServiceName,
        what: &str,
        is_expected: impl Fn(&Snapshot) -> bool,
    ) -> Result<(), Failure> {
        let resolver = self.resolver().await;
        while let Err(error) = within(self.deadline(), "resolve", resolver.resolve(service)).await? {
            retry.after(error).await?;
        }
        self.resolves_to(service, what, is_expected).await.map(drop)
    }

    /// Loses the response of the next write, until [`Harness::restore`].
    pub(super) async fn lose_next_response(
        &self,
        write: Write,
        service: &ServiceName,
        id: &InstanceId,
    ) -> Result<(), Failure> {
        let can = self.harness.lose_next_response(write, service, id).await;
        if can { Ok(()) } else { Err(cannot("cannot lose a response", "lost_response")) }
    }

    /// A limit for retries after a disturbance.
    pub(super) fn retry(&self, what: &'static str) -> Retry {
        Retry { what, deadline: Instant::now() + self.settle() + self.deadline() }
    }
}

/// The failure of a behaviour whose hook the harness does not have.
pub(super) fn cannot(what: &str, group: &str) -> Failure {
    Failure::new(format!("the harness {what}: implement the hook, or `ignore {group} = \"the reason\"`"))
}

/// One process that registers.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    registrar: Arc<dyn Registrar>,
    ttl: Duration,
    settle: Duration,
}

impl Owner {
    /// Registers for the smallest TTL, taking over.
    pub(super) async fn register(
        &self,
        service: &ServiceName,
        instance: &Instance,
    ) -> Result<Box<dyn Lease>, Failure> {
        self.register_for(service, instance, self.ttl).await
    }

    /// Registers for longer than a behaviour takes.
    pub(super) async fn settle_in(
        &self,
        service: &ServiceName,
        instance: &Instance,
    ) -> Result<Box<dyn Lease>, Failure> {
        self.register_for(service, instance, self.long_ttl()).await
    }

    /// A TTL that does not pass during a behaviour.
    pub(super) fn long_ttl(&self) -> Duration {
        (20 * self.ttl).max(Duration::from_secs(60))
    }

    pub(super) async fn register_for(
        &self,
        service: &ServiceName,
        instance: &Instance,
        ttl: Duration,
    ) -> Result<Box<dyn Lease>, Failure> {
        let registration = registration(service, instance)?.with_ttl(ttl)?;
        Ok(self.attempt(&registration, Claim::TakeOver).await??)
    }

    /// Returns the result of the registrar, which must come in time.
    pub(super) async fn attempt(
        &self,
        registration: &Registration,
        claim: Claim,
    ) -> Result<crate::Result<Box<dyn Lease>>, Failure> {
        self.attempt_within(self.settle, registration, claim).await
    }

    pub(super) async fn attempt_within(
        &self,
        limit: Duration,
        registration: &Registration,
        claim: Claim,
    ) -> Result<crate::Result<Box<dyn Lease>>, Failure> {
        within(limit, "register", self.registrar.register(registration, claim)).await
    }
}

/// An open watch; every wait for it has a limit.
pub(super) struct Watch {
    snapshots: SnapshotStream,
    service: ServiceName,
    settle: Duration,
}

impl Watch {
    pub(super) async fn next(&mut self) -> Result<Snapshot, Failure> {
        match within(self.settle, "the next snapshot", self.snapshots.next()).await? {
            Some(snapshot) => self.checked(snapshot?),
            None => Err(Failure::new("the watch ended")),
        }
    }

    /// Reads until the snapshot is as expected.
    pub(super) async fn comes_to(
        &mut self,
        what: &str,
        is_expected: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Failure> {
        let limit = self.settle;
        self.comes_within(limit, what, is_expected).await
    }

    pub(super) async fn comes_within(
        &mut self,
        limit: Duration,
        what: &str,
        is_expected: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Failure> {
        let deadline = Instant::now() + limit;
        let mut last = None;
        loop {
            let Ok(next) = timeout_at(deadline, self.snapshots.next()).await else {
                let last = last.as_ref().map(ids);
                return Err(Failure::new(format!(
                    "the watch did not send {what} within {limit:?}; last: {last:?}"
                )));
            };
            let snapshot = next.ok_or_else(|| Failure::new(format!("the watch ended before {what}")))??;
            let snapshot = self.checked(snapshot)?;
            if is_expected(&snapshot) {
                return Ok(snapshot);
            }
            last = Some(snapshot);
        }
    }

    /// Reads until the watch ends: within `limit`, with the error of a lost registry or with none. Every snapshot on the
    /// way must satisfy `still_true`, and nothing may follow the error.
    pub(super) async fn ends(
        &mut self,
        limit: Duration,
        still_true: impl Fn(&Snapshot) -> bool,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + limit;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            match within(remaining, "the end of the watch", self.snapshots.next()).await? {
                Some(Ok(snapshot)) => ensure(still_true(&snapshot), || {
                    format!("the watch of a lost registry sent {:?}", ids(&snapshot))
                })?,
                Some(Err(error)) => {
                    expect_no_response(Err::<(), _>(error), "the watch of a lost registry")?;
                    break;
                }
                None => return Ok(()),
            }
        }
        match within(self.settle, "the end of the watch after its error", self.snapshots.next()).await? {
            None => Ok(()),
            Some(next) => Err(Failure::new(format!("after its error the watch sent {next:?}"))),
        }
    }

    fn checked(&self, snapshot: Snapshot) -> Result<Snapshot, Failure> {
        is_of(&snapshot, &self.service)?;
        Ok(snapshot)
    }
}

/// Repeats a call after a disturbance: a backend makes one attempt, and the first may meet a dead connection.
pub(super) struct Retry {
    what: &'static str,
    deadline: Instant,
}

impl Retry {
    /// Waits before the next attempt; fails if this error is not retryable, or time is up.
    pub(super) async fn after(&self, error: Error) -> Result<(), Failure> {
        ensure(is_no_response(&error) && Instant::now() < self.deadline, || {
            format!("{} still returns {}", self.what, error.report())
        })?;
        sleep(Duration::from_millis(50)).await;
        Ok(())
    }
}

/// An instance for a behaviour: `a` and so on, each with its own address.
pub(super) fn instance(name: &str) -> Result<Instance, Failure> {
    Ok(Instance::new(format!("{name}.example:80").parse()?))
}

pub(super) fn registration(service: &ServiceName, instance: &Instance) -> Result<Registration, Failure> {
    Ok(Registration::new(service.clone(), instance.clone())?)
}

pub(super) fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.iter().map(|instance| instance.id().as_str()).collect()
}

pub(super) fn has(snapshot: &Snapshot, instance: &Instance) -> bool {
    snapshot.get(instance.id()).is_some_and(|found| **found == *instance)
}

/// Whether exactly these instances are in the snapshot, with exactly this content.
pub(super) fn is_exactly(snapshot: &Snapshot, instances: &[&Instance]) -> bool {
    snapshot.len() == instances.len() && instances.iter().all(|instance| has(snapshot, instance))
}

fn is_of(snapshot: &Snapshot, service: &ServiceName) -> Result<(), Failure> {
    ensure(snapshot.service() == service, || {
        format!("a snapshot of {service} is labelled {}", snapshot.service())
    })
}

/// Awaits a call, which must end within `limit` and must not block its thread.
#[allow(
    clippy::disallowed_types,
    reason = "a blocked thread takes real time, which a paused clock does not show"
)]
pub(super) async fn within<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = T>,
) -> Result<T, Failure> {
    let mut call = pin!(call);
    let mut longest = Duration::ZERO;
    let timed = poll_fn(|context| {
        let start = std::time::Instant::now();
        let poll = call.as_mut().poll(context);
        longest = longest.max(start.elapsed());
        poll
    });
    let ended = timeout(limit, timed).await;
    ensure(longest < BLOCKED, || format!("{what} blocked its thread for {longest:?}"))?;
    ended.map_err(|_| Failure::new(format!("{what} did not end within {limit:?}")))
}

/// Polls a call up to `polls` times and then drops it.
pub(super) async fn cancelled(polls: u32, call: impl Future) {
    let mut call = pin!(call);
    for _ in 0..polls {
        let done = poll_fn(|context| Poll::Ready(call.as_mut().poll(context).is_ready())).await;
        if done {
            return;
        }
        tokio::task::yield_now().await;
    }
}
