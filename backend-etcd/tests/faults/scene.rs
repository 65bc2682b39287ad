//! One fault: a registration and a watcher that live through it, and the verdict on both.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use futures_util::StreamExt;
use hither_core::{
    Freshness, Instance, Registration, RegistrationConfig, RegistrationHandle, RegistrationStatus,
    ServiceName, Snapshot, Update, keep_registered,
};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::history::{Content, History, content};
use crate::recorded::{Confirmed, Recorder, Recording};
use crate::report::Row;
use crate::support::{LONG, Raw, created, get, instance, put, unique_service};

/// Short, so that a fault need not last long to outlast it; etcd needs about a second to elect a leader.
pub(crate) const TTL: Duration = Duration::from_secs(5);

/// Within this everything is right again after a fault: the longest backoff of a watcher, and the deadlines of one
/// attempt.
const SOON: Duration = Duration::from_secs(16);

const OURS: &str = "10.0.0.1:80";

/// What becomes of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lease {
    /// etcd kept it, and so do we: the record was never away.
    Kept,
    /// The same, but the record was taken from it, and is back.
    PutBack,
    /// etcd lost it, and there is a new one.
    New,
    /// Both are right (a race). But where etcd has kept it, so have we.
    Either,
}

/// A registration and a watcher, each over a registry of its own, and two neighbours that another client has put.
pub(crate) struct Scene {
    fault: &'static str,
    service: ServiceName,
    ttl: Duration,
    truth: Truth,
    pub(crate) handle: RegistrationHandle,
    confirmed: watch::Receiver<Vec<Instant>>,
    before: Raw,
    created: Option<i64>,
    history: History,
    recorder: Recorder,
    over: Instant,
    /// The instances that are lost for good, and held at the end; `None` where that is a race.
    lost: Option<&'static [&'static str]>,
}

impl Scene {
    /// Both connect as in `config`; `truth` is a way around the fault.
    pub(crate) async fn new(fault: &'static str, config: EtcdConfig, truth: Truth) -> Self {
        Self::with_ttl(fault, TTL, config, truth).await
    }

    /// The same with another TTL.
    pub(crate) async fn with_ttl(
        fault: &'static str,
        ttl: Duration,
        config: EtcdConfig,
        truth: Truth,
    ) -> Self {
        let service = unique_service();
        let acting = Acting::begin(&service, ttl, config.clone(), config);
        Self::stage(fault, service, acting, truth).await
    }

    /// The same in a service of a certain name, and with config of its own for the server and for the client.
    pub(crate) async fn in_service(
        fault: &'static str,
        service: ServiceName,
        server: EtcdConfig,
        client: EtcdConfig,
        truth: Truth,
    ) -> Self {
        let acting = Acting::begin(&service, TTL, server, client);
        Self::stage(fault, service, acting, truth).await
    }

    async fn stage(fault: &'static str, service: ServiceName, acting: Acting, truth: Truth) -> Self {
        let raw = truth.client().await;
        for neighbour in ["10.0.0.2:80", "10.0.0.3:80"] {
            join(&raw, &service, neighbour).await;
        }
        let Acting { ttl, handle, confirmed, recorder } = acting;
        timeout(LONG, handle.registered()).await.unwrap().unwrap();
        let key = format!("{service}/{OURS}");
        let (before, created) = (get(&raw, &key).await.unwrap(), created(&raw, &key).await);
        let history = History::new(&service);
        let over = Instant::now();
        let mut scene = Self {
            fault,
            service,
            ttl,
            truth,
            handle,
            confirmed,
            before,
            created,
            history,
            recorder,
            over,
            lost: Some(&[]),
        };
        scene.view_is_right().await;
        scene
    }

    pub(crate) fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The key of our record.
    pub(crate) fn key(&self) -> String {
        format!("{}/{OURS}", self.service)
    }

    /// The lease that our record was on before the fault.
    pub(crate) fn lease(&self) -> i64 {
        self.before.lease
    }

    /// Another way around the fault.
    pub(crate) fn set_truth(&mut self, truth: Truth) {
        self.truth = truth;
    }

    /// A way to etcd around the fault.
    pub(crate) async fn client(&self) -> Client {
        self.truth.client().await
    }

    /// Another server registers.
    pub(crate) async fn joins(&self, neighbour: &str) {
        join(&self.client().await, &self.service, neighbour).await;
    }

    /// The same at certain endpoints.
    pub(crate) async fn joins_where(&self, neighbour: &str, endpoints: &[String]) {
        let client = Truth::at(endpoints.iter().cloned()).client().await;
        join(&client, &self.service, neighbour).await;
    }

    /// Waits for the next renewal: a fault that the lease outlives begins with nearly the whole TTL.
    pub(crate) async fn is_just_renewed(&self) {
        let mut confirmed = self.confirmed.clone();
        confirmed.mark_unchanged();
        let renewed = timeout(LONG, confirmed.changed()).await;
        assert!(matches!(renewed, Ok(Ok(()))), "{}: it is {:?}", self.fault, self.handle.status());
    }

    /// Reads etcd's history: before it is compacted, or lost.
    pub(crate) async fn note(&mut self) {
        let client = self.client().await;
        self.history.read(&client).await;
    }

    /// etcd has another past now, which has to be read too.
    pub(crate) fn another_past(&mut self) {
        self.history.begin_anew();
    }

    /// Sets the instances that will be lost for good without draining, and held at the end; `None` where that is a race.
    pub(crate) fn loses(&mut self, lost: Option<&'static [&'static str]>) {
        self.lost = lost;
    }

    /// Waits until the view shows it.
    pub(crate) async fn shows(&self, id: &str) {
        let shown = self.recorder.comes_to(|update| shown(update).contains_key(id));
        timeout(SOON, shown).await.unwrap_or_else(|_| panic!("{}: {id} is not shown", self.fault));
    }

    /// The fault has lasted long enough to be noticed: the view is stale, and shows the last state of etcd.
    pub(crate) async fn is_stale(&mut self) {
        let last = self.recorder.last();
        let stale = self.recorder.comes_to(|update| matches!(update.freshness, Freshness::Stale { .. }));
        let stale = timeout(SOON, stale).await.unwrap_or_else(|_| panic!("the watcher does not notice"));
        assert_eq!(stale.snapshot, last.snapshot, "the view goes on showing what etcd had last");
    }

    /// Waits until the view shows what etcd has.
    pub(crate) async fn is_fresh_and_right(&mut self) {
        self.over();
        self.view_is_right().await;
    }

    /// The fault is over: from here on the time is taken.
    pub(crate) fn over(&mut self) {
        self.over = Instant::now();
    }

    /// Waits until everything is right again, and judges how it came to that.
    pub(crate) async fn recovers(mut self, lease: Lease) -> Row {
        // A state that was right before would not show that the watch receives anything.
        self.joins("10.0.0.9:80").await;
        let (registered, after) = self.is_registered().await;
        let right = self.view_is_right().await;
        let kept = after.lease == self.before.lease;
        let stayed = created(&self.client().await, &self.key()).await == self.created;
        match lease {
            Lease::Kept => {
                assert!(kept && stayed, "{}: etcd had kept the lease: {kept}, {stayed}", self.fault);
            }
            Lease::PutBack => assert!(kept && !stayed, "{}: etcd had kept the lease", self.fault),
            Lease::New => assert!(!kept, "{}: etcd had lost the lease", self.fault),
            Lease::Either => {
                assert!(kept || self.lease_is_gone().await, "{}: etcd has kept the lease", self.fault);
            }
        }
        assert_eq!(after.value, self.before.value);
        self.is_renewed(&after).await;
        let fault = self.fault.to_owned();
        self.check(Row { fault, registered: Some(registered), right, kept: Some(kept) }).await
    }

    async fn lease_is_gone(&self) -> bool {
        let left = self.client().await.lease_time_to_live(self.before.lease, None).await.unwrap();
        left.ttl() <= 0
    }

    /// Waits until the view is right, where the registration has rightly ended.
    pub(crate) async fn yields(mut self) -> Row {
        self.joins("10.0.0.9:80").await;
        let yielded = self.has(|status| matches!(status, RegistrationStatus::Superseded)).await;
        let right = self.view_is_right().await;
        let theirs = get(&self.client().await, &self.key()).await.unwrap();
        // A renewal later it is still theirs.
        sleep(self.ttl / 2).await;
        assert_eq!(get(&self.client().await, &self.key()).await, Some(theirs), "two owners never fight");
        let fault = self.fault.to_owned();
        self.check(Row { fault, registered: Some(yielded), right, kept: None }).await
    }

    /// Checks all that was recorded. Only a fault in which the view was never wrong has a row.
    async fn check(mut self, row: Row) -> Row {
        self.note().await;
        let recording = self.recorder.recording();
        let checked =
            self.history.check(&recording.snapshots).and_then(|()| shows_what_was_received(&recording));
        let verdict = checked.and_then(|()| holds(recording.updates.last(), self.lost));
        if let Err(why) = verdict {
            panic!("{}: the view was wrong: {why}", self.fault);
        }
        row
    }

    /// Waits until etcd has our record and has confirmed it to us; how long that took, and the record.
    async fn is_registered(&mut self) -> (Duration, Raw) {
        let over = self.over;
        let first = |confirmed: &Vec<Instant>| confirmed.iter().copied().find(|at| *at >= over);
        let mut confirmed = self.confirmed.clone();
        let confirmed = timeout(LONG, confirmed.wait_for(|all| first(all).is_some())).await;
        let Some(at) = confirmed.ok().and_then(Result::ok).and_then(|all| first(&all)) else {
            panic!("{}: it is not registered again, but {:?}", self.fault, self.handle.status());
        };
        let took = at.duration_since(over);
        assert!(took < SOON, "{}: it was registered again only after {took:?}", self.fault);
        self.has(|status| matches!(status, RegistrationStatus::Registered)).await;
        let raw = get(&self.client().await, &self.key()).await;
        (took, raw.unwrap_or_else(|| panic!("{}: the record is not there", self.fault)))
    }

    /// Waits for a status of the registration; how long after the fault it came.
    pub(crate) async fn has(&self, is_so: impl Fn(&RegistrationStatus) -> bool) -> Duration {
        let mut statuses = Box::pin(self.handle.statuses());
        let wanted = async {
            while let Some(status) = statuses.next().await {
                if is_so(&status) {
                    return;
                }
            }
            panic!("{}: it stays {:?}", self.fault, self.handle.status());
        };
        timeout(LONG, wanted)
            .await
            .unwrap_or_else(|_| panic!("{}: it is {:?}", self.fault, self.handle.status()));
        self.over.elapsed()
    }

    /// Waits until the view is fresh and equal to what etcd has now; how long after the fault that was.
    async fn view_is_right(&mut self) -> Duration {
        loop {
            self.note().await;
            let present = self.history.present();
            let right = |update: &Update| update.freshness.is_fresh() && shown(update) == present;
            // What etcd has may change meanwhile: then once more.
            if timeout(Duration::from_millis(500), self.recorder.comes_to(right)).await.is_ok() {
                return self.recorder.since().saturating_duration_since(self.over);
            }
            self.in_time("the view is not right");
        }
    }

    fn in_time(&self, what: &str) {
        assert!(
            self.over.elapsed() < SOON,
            "{}: {what} after {:?}: {:?}, {:?}, etcd has {:?}",
            self.fault,
            self.over.elapsed(),
            self.handle.status(),
            self.recorder.last(),
            self.history.present(),
        );
    }

    /// Only a lease that is renewed outlives its TTL.
    async fn is_renewed(&self, record: &Raw) {
        sleep(self.ttl + Duration::from_secs(1)).await;
        assert_eq!(get(&self.client().await, &self.key()).await.as_ref(), Some(record), "{}", self.fault);
    }
}

/// The server's part and the client's, which run independently.
struct Acting {
    ttl: Duration,
    handle: RegistrationHandle,
    confirmed: watch::Receiver<Vec<Instant>>,
    recorder: Recorder,
}

impl Acting {
    fn begin(service: &ServiceName, ttl: Duration, server: EtcdConfig, client: EtcdConfig) -> Self {
        let registration =
            Registration::new(service.clone(), instance(OURS).with_weight(3)).unwrap().with_ttl(ttl).unwrap();
        let (server, confirmed) = Confirmed::by(EtcdRegistry::connect(server).unwrap());
        let handle = keep_registered(server, registration, RegistrationConfig::default());
        let recorder = Recorder::through(EtcdRegistry::connect(client).unwrap(), service);
        Self { ttl, handle, confirmed, recorder }
    }
}

/// A way to etcd around the fault.
#[derive(Clone)]
pub(crate) struct Truth {
    endpoints: Vec<String>,
    connect: Option<ConnectOptions>,
}

impl Truth {
    pub(crate) fn at(endpoints: impl IntoIterator<Item = String>) -> Self {
        Self { endpoints: endpoints.into_iter().collect(), connect: None }
    }

    #[must_use]
    pub(crate) fn with(mut self, connect: ConnectOptions) -> Self {
        self.connect = Some(connect);
        self
    }

    /// A connection to whichever endpoint answers.
    pub(crate) async fn client(&self) -> Client {
        let begun = Instant::now();
        loop {
            // Without a user too: where authentication is disabled, a client with a user is refused.
            let ways =
                self.endpoints.iter().flat_map(|endpoint| [(endpoint, &self.connect), (endpoint, &None)]);
            for (endpoint, connect) in ways {
                let answers = async {
                    let mut client = Client::connect([endpoint], connect.clone()).await.ok()?;
                    client.get("any", None).await.ok().map(|_| client)
                };
                if let Ok(Some(client)) = timeout(Duration::from_secs(2), answers).await {
                    return client;
                }
            }
            assert!(begun.elapsed() < LONG, "no endpoint of {:?} answers", self.endpoints);
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn shown(update: &Update) -> Content {
    update.snapshot.as_ref().map(content).unwrap_or_default()
}

/// A view shows the newest state that was received, whether it is fresh or stale; a service that vanishes as a whole is held.
fn shows_what_was_received(recording: &Recording) -> Result<(), String> {
    let (mut ever, mut known) = (BTreeSet::new(), 0);
    let mut had: Vec<&Arc<Instance>> = Vec::new();
    for (received, update) in &recording.updates {
        // Also of what was coalesced, and never shown.
        let news = recording.snapshots[known..*received].iter().flat_map(Snapshot::iter);
        ever.extend(news.map(|instance| instance.id().clone()));
        known = *received;
        let received =
            received.checked_sub(1).map(|last| content(&recording.snapshots[last])).unwrap_or_default();
        if shown(update) != received {
            return Err(format!("what was received is {received:?}, and what is shown {:?}", shown(update)));
        }
        let has: Vec<_> = update.instances().collect();
        if has.is_empty() && had.iter().any(|had| !update.held.iter().any(|held| held.id() == had.id())) {
            return Err(format!("{had:?} vanished, and only {:?} is held", update.held));
        }
        if let Some(held) = update.held.iter().find(|held| received.contains_key(held.id().as_str())) {
            return Err(format!("{held:?} is held, and is there"));
        }
        if let Some(held) = update.held.iter().find(|held| !ever.contains(held.id())) {
            return Err(format!("{held:?} is held, and never was there"));
        }
        had = has;
    }
    Ok(())
}

/// Exactly the lost instances are held in the end.
fn holds(last: Option<&(usize, Update)>, lost: Option<&[&str]>) -> Result<(), String> {
    let Some(lost) = lost else { return Ok(()) };
    let held: Vec<_> =
        last.iter().flat_map(|(_, last)| last.held.iter()).map(|held| held.id().as_str()).collect();
    if held == lost { Ok(()) } else { Err(format!("{held:?} is held, and not {lost:?}")) }
}

/// Puts a record as a server does that outlives everything here.
pub(crate) async fn join(client: &Client, service: &ServiceName, address: &str) {
    let lease = client.clone().lease_grant(600, None).await.unwrap().id();
    let value = format!(r#"{{"Op":0,"Addr":"{address}","Metadata":null}}"#);
    put(client, &format!("{service}/{address}"), value, lease).await;
}
