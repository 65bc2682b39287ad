//! What stands in the registry, as a plain state machine: no clock, no lock, no task.
//!
//! The rules are etcd's as hither uses it: one lease for each registration, a record is its owner's as long as
//! it stands on the owner's lease, and a lease that nobody renews takes its record along.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{
    Claim, Error, ErrorKind, Instance, InstanceId, Registration, Result, Revision, ServiceName, Snapshot,
};
use tokio::time::Instant;

/// Nothing is granted for longer, so that no deadline lies beyond what a clock can say.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// One process that registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RegistrarId(pub(crate) u64);

/// A lease; an id is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseId(u64);

#[derive(Debug, Default)]
pub(crate) struct State {
    services: BTreeMap<ServiceName, Service>,
    leases: BTreeMap<LeaseId, LeaseEntry>,
    /// The leases by when they lapse, the next one first.
    deadlines: BTreeSet<(Instant, LeaseId)>,
    /// Counts every change, and never backwards, not even when all is wiped.
    revision: u64,
    last_lease: u64,
    last_registrar: u64,
    skipped: u64,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Service {
    records: BTreeMap<InstanceId, Record>,
    changed_at: u64,
    /// What the records amount to, until they change.
    snapshot: Option<Snapshot>,
}

#[derive(Debug)]
struct Record {
    content: Content,
    /// Without a lease it stands for ever.
    lease: Option<LeaseId>,
}

#[derive(Debug)]
enum Content {
    Instance(Arc<Instance>),
    /// What no decoder understands.
    Garbage {
        logged: bool,
    },
}

#[derive(Debug)]
struct LeaseEntry {
    registrar: RegistrarId,
    service: ServiceName,
    id: InstanceId,
    ttl: Duration,
    deadline: Instant,
}

/// Who stands behind a record, as its would-be owner sees it.
enum Holder {
    Nobody,
    ThisLease,
    /// A lease that has not lapsed.
    Lease(RegistrarId),
    /// No lease, but the very address that the would-be owner has: put there for it by a tool.
    Address,
    /// No lease, and something else.
    Unknown,
}

/// What any number of processes do.
impl State {
    pub(crate) fn new_registrar(&mut self) -> RegistrarId {
        self.last_registrar += 1;
        RegistrarId(self.last_registrar)
    }

    /// Puts the record onto a new lease; says which, and for how long.
    pub(crate) fn register(
        &mut self,
        registrar: RegistrarId,
        registration: &Registration,
        claim: Claim,
        now: Instant,
    ) -> Result<(LeaseId, Duration)> {
        registration.validate()?;
        let (service, instance) = (registration.service(), registration.instance());
        match self.holder(service, instance, None) {
            Holder::Lease(other) if claim == Claim::IfVacant && other != registrar => {
                return Err(superseded(service, instance.id()));
            }
            Holder::Unknown if claim == Claim::IfVacant => return Err(superseded(service, instance.id())),
            _ => {}
        }
        let ttl = registration.ttl().min(MAX_TTL);
        let lease = self.grant(registrar, service, instance.id(), ttl, now);
        self.put(service, instance.id(), Content::Instance(Arc::new(instance.clone())), Some(lease));
        Ok((lease, ttl))
    }

    /// Keeps the lease, and sees to it that the record stands on it and says `instance`.
    pub(crate) fn renew(&mut self, lease: LeaseId, instance: &Arc<Instance>, now: Instant) -> Result<()> {
        self.restate(lease, instance)?;
        self.prolong(lease, now);
        Ok(())
    }

    /// Lets the record say `instance`. The lease lapses when it would have.
    pub(crate) fn restate(&mut self, lease: LeaseId, instance: &Arc<Instance>) -> Result<()> {
        let Some(entry) = self.leases.get(&lease) else {
            return Err(Error::new(
                ErrorKind::LeaseExpired,
                format!("the lease of instance {} is gone", instance.id()),
            ));
        };
        let service = entry.service.clone();
        match self.holder(&service, instance, Some(lease)) {
            Holder::ThisLease if self.says(&service, instance) => {}
            Holder::Nobody | Holder::ThisLease | Holder::Address => {
                self.put(&service, instance.id(), Content::Instance(Arc::clone(instance)), Some(lease));
            }
            Holder::Lease(_) | Holder::Unknown => return Err(superseded(&service, instance.id())),
        }
        Ok(())
    }

    /// Gives the lease up, and its record with it. Gone already is fine.
    pub(crate) fn revoke(&mut self, lease: LeaseId) {
        let Some(entry) = self.leases.remove(&lease) else { return };
        self.deadlines.remove(&(entry.deadline, lease));
        if self.record(&entry.service, &entry.id).is_some_and(|record| record.lease == Some(lease)) {
            self.remove(&entry.service, &entry.id);
        }
    }

    /// The instances of a service; the same snapshot as long as nothing changes.
    pub(crate) fn snapshot(&mut self, name: &ServiceName) -> Snapshot {
        let Some(service) = self.services.get_mut(name) else {
            return Snapshot::new(name.clone(), []).with_revision(revision(0));
        };
        if let Some(snapshot) = &service.snapshot {
            return snapshot.clone();
        }
        for (id, record) in &mut service.records {
            if let Content::Garbage { logged: logged @ false } = &mut record.content {
                *logged = true;
                self.skipped += 1;
                tracing::warn!(service = %name, %id, "skipping a record that cannot be decoded");
            }
        }
        let instances = service.records.values().filter_map(Record::instance).cloned();
        let snapshot = Snapshot::new(name.clone(), instances).with_revision(revision(service.changed_at));
        service.snapshot = Some(snapshot.clone());
        snapshot
    }

    /// Since which revision the service is as it is.
    pub(crate) fn changed_at(&self, service: &ServiceName) -> u64 {
        self.services.get(service).map_or(0, |service| service.changed_at)
    }

    /// The services that have an instance, sorted.
    pub(crate) fn services(&self, under: Option<&ServiceName>) -> Vec<ServiceName> {
        let has_instances = |service: &Service| service.records.values().any(|r| r.instance().is_some());
        let found = self.services.iter().filter(|(_, service)| has_instances(service)).map(|(name, _)| name);
        found.filter(|name| under.is_none_or(|parent| name.is_under(parent))).cloned().collect()
    }
}

/// Time, and what it takes along.
impl State {
    /// Counts every change.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Lets lapse what nobody has renewed.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((deadline, lease)) = self.deadlines.first().copied() {
            if self.stopped || deadline > now {
                return;
            }
            self.revoke(lease);
            // In any case it is not met again.
            self.deadlines.remove(&(deadline, lease));
        }
    }

    /// When the next lease lapses, unless it is renewed.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().filter(|_| !self.stopped).map(|(deadline, _)| *deadline)
    }

    /// A registry that does not run lets no lease lapse.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// As etcd does after a restart, each lease gets its whole TTL again.
    pub(crate) fn start(&mut self, now: Instant) {
        if std::mem::take(&mut self.stopped) {
            let leases: Vec<_> = self.leases.keys().copied().collect();
            leases.into_iter().for_each(|lease| self.prolong(lease, now));
        }
    }

    pub(crate) fn live_leases(&self) -> usize {
        self.leases.len()
    }

    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }
}

/// What happens behind the owners' backs.
impl State {
    /// Lets the lease under a record lapse now; whether there was one.
    pub(crate) fn expire_lease(&mut self, service: &ServiceName, id: &InstanceId) -> bool {
        let lease = self.record(service, id).and_then(|record| record.lease);
        lease.map(|lease| self.revoke(lease)).is_some()
    }

    /// Lets every lease lapse now.
    pub(crate) fn expire_all(&mut self) {
        let leases: Vec<_> = self.leases.keys().copied().collect();
        leases.into_iter().for_each(|lease| self.revoke(lease));
    }

    /// Removes a record, while its lease lives on; whether there was one.
    pub(crate) fn lose(&mut self, service: &ServiceName, id: &InstanceId) -> bool {
        self.remove(service, id)
    }

    /// Removes everything, leases too.
    pub(crate) fn wipe(&mut self) {
        self.leases.clear();
        self.deadlines.clear();
        self.revision += 1;
        for service in self.services.values_mut().filter(|service| !service.records.is_empty()) {
            service.records.clear();
            service.changed(self.revision);
        }
    }

    /// Changes what a record says, under whatever lease it stands on; whether there was one.
    pub(crate) fn rewrite(&mut self, service: &ServiceName, instance: Instance) -> bool {
        let Some(record) = self.record(service, instance.id()) else { return false };
        let lease = record.lease;
        self.put(service, &instance.id().clone(), Content::Instance(Arc::new(instance)), lease);
        true
    }

    /// Puts a record that stands on no lease.
    pub(crate) fn put_without_lease(&mut self, service: &ServiceName, instance: Instance) {
        self.put(service, &instance.id().clone(), Content::Instance(Arc::new(instance)), None);
    }

    /// Puts a record that nobody can decode.
    pub(crate) fn put_garbage(&mut self, service: &ServiceName, id: &InstanceId) {
        self.put(service, id, Content::Garbage { logged: false }, None);
    }
}

impl State {
    fn record(&self, service: &ServiceName, id: &InstanceId) -> Option<&Record> {
        self.services.get(service)?.records.get(id)
    }

    fn holder(&self, service: &ServiceName, wanted: &Instance, lease: Option<LeaseId>) -> Holder {
        let Some(record) = self.record(service, wanted.id()) else { return Holder::Nobody };
        match record.lease {
            Some(holding) if Some(holding) == lease => Holder::ThisLease,
            Some(holding) => match self.leases.get(&holding) {
                Some(entry) => Holder::Lease(entry.registrar),
                None => Holder::Nobody,
            },
            None if record.instance().is_some_and(|found| found.address() == wanted.address()) => {
                Holder::Address
            }
            None => Holder::Unknown,
        }
    }

    fn says(&self, service: &ServiceName, instance: &Arc<Instance>) -> bool {
        self.record(service, instance.id()).and_then(Record::instance) == Some(instance)
    }

    fn grant(
        &mut self,
        registrar: RegistrarId,
        service: &ServiceName,
        id: &InstanceId,
        ttl: Duration,
        now: Instant,
    ) -> LeaseId {
        self.last_lease += 1;
        let (lease, deadline) = (LeaseId(self.last_lease), now + ttl);
        self.leases
            .insert(lease, LeaseEntry { registrar, service: service.clone(), id: id.clone(), ttl, deadline });
        self.deadlines.insert((deadline, lease));
        lease
    }

    fn prolong(&mut self, lease: LeaseId, now: Instant) {
        let Some(entry) = self.leases.get_mut(&lease) else { return };
        self.deadlines.remove(&(entry.deadline, lease));
        entry.deadline = now + entry.ttl;
        self.deadlines.insert((entry.deadline, lease));
    }

    fn put(&mut self, service: &ServiceName, id: &InstanceId, content: Content, lease: Option<LeaseId>) {
        self.revision += 1;
        let service = self.services.entry(service.clone()).or_default();
        let content = match (content, service.records.get(id).and_then(Record::instance)) {
            // What says the same is the same, for all who compare pointers.
            (Content::Instance(new), Some(old)) if new == *old => Content::Instance(Arc::clone(old)),
            (content, _) => content,
        };
        service.records.insert(id.clone(), Record { content, lease });
        service.changed(self.revision);
    }

    fn remove(&mut self, service: &ServiceName, id: &InstanceId) -> bool {
        let Some(service) = self.services.get_mut(service) else { return false };
        let removed = service.records.remove(id).is_some();
        if removed {
            self.revision += 1;
            service.changed(self.revision);
        }
        removed
    }
}

impl Service {
    fn changed(&mut self, revision: u64) {
        self.changed_at = revision;
        self.snapshot = None;
    }
}

impl Record {
    fn instance(&self) -> Option<&Arc<Instance>> {
        match &self.content {
            Content::Instance(instance) => Some(instance),
            Content::Garbage { .. } => None,
        }
    }
}

fn revision(number: u64) -> Revision {
    Revision::new(number.to_string())
}

fn superseded(service: &ServiceName, id: &impl Display) -> Error {
    Error::new(ErrorKind::Superseded, format!("instance {id} of {service} belongs to somebody else"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);

    fn service() -> ServiceName {
        "greeter".parse().unwrap()
    }

    fn instance() -> Arc<Instance> {
        Arc::new(Instance::new("a:80".parse().unwrap()))
    }

    fn register(state: &mut State, registrar: RegistrarId, claim: Claim, now: Instant) -> Result<LeaseId> {
        let registration = Registration::new(service(), Instance::clone(&instance())).with_ttl(TTL);
        state.register(registrar, &registration, claim, now).map(|(lease, _)| lease)
    }

    #[test]
    fn a_lease_lapses_when_its_ttl_has_passed_and_not_before() {
        let (mut state, start) = (State::default(), Instant::now());
        let owner = state.new_registrar();
        let lease = register(&mut state, owner, Claim::TakeOver, start).unwrap();
        state.renew(lease, &instance(), start + TTL / 2).unwrap();
        assert_eq!(state.next_deadline(), Some(start + TTL / 2 + TTL));
        state.expire(start + TTL + TTL / 2 - Duration::from_nanos(1));
        assert_eq!(state.snapshot(&service()).len(), 1);
        state.expire(start + TTL + TTL / 2);
        assert!(state.snapshot(&service()).is_empty());
        assert_eq!((state.live_leases(), state.next_deadline()), (0, None));
    }

    #[test]
    fn a_superseded_lease_touches_nothing_when_it_is_revoked_or_lapses() {
        let (mut state, start) = (State::default(), Instant::now());
        let (first, second) = (state.new_registrar(), state.new_registrar());
        let old = register(&mut state, first, Claim::TakeOver, start).unwrap();
        let later = register(&mut state, first, Claim::IfVacant, start).unwrap();
        let new = register(&mut state, second, Claim::TakeOver, start + TTL / 2).unwrap();
        let before = state.snapshot(&service());
        assert_eq!(state.restate(old, &instance()).unwrap_err().kind(), ErrorKind::Superseded);
        state.revoke(old);
        state.expire(start + TTL);
        assert_eq!(state.renew(later, &instance(), start + TTL).unwrap_err().kind(), ErrorKind::LeaseExpired);
        assert_eq!(state.snapshot(&service()), before);
        state.revoke(new);
        assert!(state.snapshot(&service()).is_empty());
    }

    #[test]
    fn an_old_lease_of_the_same_registrar_does_not_win_its_record_back() {
        let (mut state, start) = (State::default(), Instant::now());
        let owner = state.new_registrar();
        let old = register(&mut state, owner, Claim::TakeOver, start).unwrap();
        register(&mut state, owner, Claim::IfVacant, start).unwrap();
        assert_eq!(state.renew(old, &instance(), start).unwrap_err().kind(), ErrorKind::Superseded);
    }

    #[test]
    fn every_change_has_a_revision_of_its_own_also_through_a_wipe() {
        let (mut state, start) = (State::default(), Instant::now());
        let owner = state.new_registrar();
        let mut seen = vec![state.snapshot(&service()).revision().cloned()];
        for _ in 0..3 {
            register(&mut state, owner, Claim::TakeOver, start).unwrap();
            seen.push(state.snapshot(&service()).revision().cloned());
            state.wipe();
            seen.push(state.snapshot(&service()).revision().cloned());
        }
        let count = seen.len();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn a_ttl_is_granted_as_asked_up_to_a_year() {
        let (mut state, start) = (State::default(), Instant::now());
        let owner = state.new_registrar();
        let forever = Registration::new(service(), Instance::clone(&instance())).with_ttl(Duration::MAX);
        let (_, granted) = state.register(owner, &forever, Claim::TakeOver, start).unwrap();
        assert_eq!(granted, MAX_TTL);
    }
}
