//! The content of the registry, as a plain state machine: no clock, no lock, no task.
//!
//! The rules are those of etcd as hither uses it: one lease for each registration, a record belongs to an owner
//! as long as it is bound to the owner's lease, and a lease that is not renewed expires and removes its record.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{
    Claim, Error, ErrorKind, Instance, InstanceId, Registration, Result, Revision, ServiceName, Snapshot,
    SortedById,
};
use tokio::time::Instant;

/// The id of one process that registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RegistrarId(pub(crate) u64);

/// The id of a lease; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LeaseId(u64);

#[derive(Debug, Default)]
pub(crate) struct State {
    services: BTreeMap<ServiceName, Service>,
    leases: BTreeMap<LeaseId, LeaseEntry>,
    /// The leases by the time at which they expire, the next one first.
    deadlines: BTreeSet<(Instant, LeaseId)>,
    /// Incremented by every change; never decreases, not even when everything is wiped.
    revision: u64,
    last_lease: u64,
    last_registrar: u64,
    skipped: u64,
    stopped: bool,
}

#[derive(Debug, Default)]
struct Service {
    records: BTreeMap<InstanceId, Record>,
    /// The instances among the records. A snapshot shares them.
    instances: SortedById<Arc<Instance>>,
    /// The records that cannot be decoded, and were not logged yet.
    unlogged: BTreeSet<InstanceId>,
    changed_at: u64,
}

#[derive(Debug)]
struct Record {
    content: Content,
    /// A record without a lease never expires.
    lease: Option<LeaseId>,
}

#[derive(Debug)]
enum Content {
    Instance(Arc<Instance>),
    /// A value that cannot be decoded.
    Garbage,
}

#[derive(Debug)]
struct LeaseEntry {
    registrar: RegistrarId,
    service: ServiceName,
    id: InstanceId,
    ttl: Duration,
    deadline: Instant,
}

/// The holder of an id, from the point of view of one that wants to write it.
enum Holder {
    None,
    ThisLease,
    /// Another lease that has not expired.
    Lease(RegistrarId),
    /// A record without a lease, with the writer's own address: put there by a tool.
    Address,
    /// A record without a lease, and with other content.
    Unknown,
}

/// What processes do.
impl State {
    pub(crate) fn new_registrar(&mut self) -> RegistrarId {
        self.last_registrar += 1;
        RegistrarId(self.last_registrar)
    }

    /// Binds the record to a new lease. Returns the lease and the granted TTL.
    pub(crate) fn register(
        &mut self,
        registrar: RegistrarId,
        registration: &Registration,
        claim: Claim,
        now: Instant,
    ) -> Result<(LeaseId, Duration)> {
        let (service, instance) = (registration.service(), registration.instance());
        match self.holder(service, instance, None) {
            Holder::Lease(other) if claim == Claim::IfVacant && other != registrar => {
                return Err(superseded(service, instance.id()));
            }
            Holder::Unknown if claim == Claim::IfVacant => return Err(superseded(service, instance.id())),
            _ => {}
        }
        let ttl = registration.ttl();
        let lease = self.grant(registrar, service, instance.id(), ttl, now);
        self.put(service, instance.id(), Content::Instance(Arc::new(instance.clone())), Some(lease));
        Ok((lease, ttl))
    }

    /// Renews the lease, and restores the record if it is missing or has other content than `instance`.
    pub(crate) fn renew(&mut self, lease: LeaseId, instance: &Arc<Instance>, now: Instant) -> Result<()> {
        self.update(lease, instance)?;
        self.prolong(lease, now);
        Ok(())
    }

    /// Writes `instance` as the record's content. Does not prolong the lease.
    pub(crate) fn update(&mut self, lease: LeaseId, instance: &Arc<Instance>) -> Result<()> {
        let Some(entry) = self.leases.get(&lease) else {
            return Err(Error::new(
                ErrorKind::LeaseExpired,
                format!("instance {} has no live lease", instance.id()),
            ));
        };
        let service = entry.service.clone();
        match self.holder(&service, instance, Some(lease)) {
            Holder::ThisLease if self.has(&service, instance) => {}
            Holder::None | Holder::ThisLease | Holder::Address => {
                self.put(&service, instance.id(), Content::Instance(Arc::clone(instance)), Some(lease));
            }
            Holder::Lease(_) | Holder::Unknown => return Err(superseded(&service, instance.id())),
        }
        Ok(())
    }

    /// Removes the lease and its record. Idempotent.
    pub(crate) fn revoke(&mut self, lease: LeaseId) {
        let Some(entry) = self.leases.remove(&lease) else { return };
        self.deadlines.remove(&(entry.deadline, lease));
        if self.record(&entry.service, &entry.id).is_some_and(|record| record.lease == Some(lease)) {
            self.remove(&entry.service, &entry.id);
        }
    }

    /// Returns the instances of a service, as of its last change.
    pub(crate) fn snapshot(&mut self, name: &ServiceName) -> Snapshot {
        let Some(service) = self.services.get_mut(name) else {
            return Snapshot::new(name.clone(), []).with_revision(revision(0));
        };
        for id in std::mem::take(&mut service.unlogged) {
            self.skipped += 1;
            tracing::warn!(service = %name, %id, "undecodable record skipped");
        }
        Snapshot::of(name.clone(), service.instances.clone()).with_revision(revision(service.changed_at))
    }

    /// Returns the revision of the last change of a service.
    pub(crate) fn changed_at(&self, service: &ServiceName) -> u64 {
        self.services.get(service).map_or(0, |service| service.changed_at)
    }

    /// Returns the names of the services with at least one instance, sorted.
    pub(crate) fn services(&self, under: Option<&ServiceName>) -> Vec<ServiceName> {
        let found = self.services.iter().filter(|(_, service)| !service.instances.is_empty());
        let found = found.map(|(name, _)| name);
        found.filter(|name| under.is_none_or(|parent| name.is_under(parent))).cloned().collect()
    }
}

/// Time.
impl State {
    /// Returns the number of changes so far.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Removes the leases that have expired by now, with their records, `most` of them at most. Returns whether that were
    /// all.
    pub(crate) fn expire(&mut self, now: Instant, most: usize) -> bool {
        for _ in 0..most {
            let Some((deadline, lease)) = self.deadlines.first().copied() else { return true };
            if self.stopped || deadline > now {
                return true;
            }
            self.revoke(lease);
            // Also if there was no such lease, so that this ends.
            self.deadlines.remove(&(deadline, lease));
        }
        false
    }

    /// Returns when the next lease expires unless it is renewed.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().filter(|_| !self.stopped).map(|(deadline, _)| *deadline)
    }

    /// Stops time: no lease expires while the registry is down.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
    }

    /// Starts time: each lease gets its whole TTL again, as after a restart of etcd.
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

/// Injected faults, which the owners do not see.
impl State {
    /// Expires the lease of a record now. Returns whether there was one.
    pub(crate) fn expire_lease(&mut self, service: &ServiceName, id: &InstanceId) -> bool {
        let lease = self.record(service, id).and_then(|record| record.lease);
        lease.map(|lease| self.revoke(lease)).is_some()
    }

    /// Expires all leases now.
    pub(crate) fn expire_all(&mut self) {
        let leases: Vec<_> = self.leases.keys().copied().collect();
        leases.into_iter().for_each(|lease| self.revoke(lease));
    }

    /// Deletes a record and keeps its lease. Returns whether there was one.
    pub(crate) fn delete_record(&mut self, service: &ServiceName, id: &InstanceId) -> bool {
        self.remove(service, id)
    }

    /// Removes all records and all leases.
    pub(crate) fn wipe(&mut self) {
        self.leases.clear();
        self.deadlines.clear();
        self.revision += 1;
        for service in self.services.values_mut().filter(|service| !service.records.is_empty()) {
            *service = Service { changed_at: self.revision, ..Service::default() };
        }
    }

    /// Replaces the content of a record and keeps its lease. Returns whether there was one.
    pub(crate) fn change_record(&mut self, service: &ServiceName, instance: Instance) -> bool {
        let Some(record) = self.record(service, instance.id()) else { return false };
        let lease = record.lease;
        self.put(service, &instance.id().clone(), Content::Instance(Arc::new(instance)), lease);
        true
    }

    /// Puts a record without a lease.
    pub(crate) fn put_without_lease(&mut self, service: &ServiceName, instance: Instance) {
        self.put(service, &instance.id().clone(), Content::Instance(Arc::new(instance)), None);
    }

    /// Puts a record that cannot be decoded.
    pub(crate) fn put_garbage(&mut self, service: &ServiceName, id: &InstanceId) {
        self.put(service, id, Content::Garbage, None);
    }
}

impl State {
    fn record(&self, service: &ServiceName, id: &InstanceId) -> Option<&Record> {
        self.services.get(service)?.records.get(id)
    }

    fn holder(&self, service: &ServiceName, wanted: &Instance, lease: Option<LeaseId>) -> Holder {
        let Some(record) = self.record(service, wanted.id()) else { return Holder::None };
        match record.lease {
            Some(holding) if Some(holding) == lease => Holder::ThisLease,
            Some(holding) => match self.leases.get(&holding) {
                Some(entry) => Holder::Lease(entry.registrar),
                None => Holder::None,
            },
            None if record.instance().is_some_and(|found| found.address() == wanted.address()) => {
                Holder::Address
            }
            None => Holder::Unknown,
        }
    }

    fn has(&self, service: &ServiceName, instance: &Arc<Instance>) -> bool {
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
            // Equal content keeps its `Arc`, so that comparing two snapshots is mostly comparing pointers.
            (Content::Instance(new), Some(old)) if new == *old => Content::Instance(Arc::clone(old)),
            (content, _) => content,
        };
        match &content {
            Content::Instance(instance) => {
                service.unlogged.remove(id);
                service.instances.insert(Arc::clone(instance));
            }
            Content::Garbage => {
                service.instances.remove(id);
                service.unlogged.insert(id.clone());
            }
        }
        service.records.insert(id.clone(), Record { content, lease });
        service.changed_at = self.revision;
    }

    fn remove(&mut self, service: &ServiceName, id: &InstanceId) -> bool {
        let Some(service) = self.services.get_mut(service) else { return false };
        let removed = service.records.remove(id).is_some();
        if removed {
            service.instances.remove(id);
            service.unlogged.remove(id);
            self.revision += 1;
            service.changed_at = self.revision;
        }
        removed
    }
}

impl Record {
    fn instance(&self) -> Option<&Arc<Instance>> {
        match &self.content {
            Content::Instance(instance) => Some(instance),
            Content::Garbage => None,
        }
    }
}

fn revision(number: u64) -> Revision {
    Revision::new(number.to_string())
}

fn superseded(service: &ServiceName, id: &impl Display) -> Error {
    Error::new(ErrorKind::Superseded, format!("instance {id} of {service} has another owner"))
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
        let registration =
            Registration::new(service(), Instance::clone(&instance())).unwrap().with_ttl(TTL).unwrap();
        state.register(registrar, &registration, claim, now).map(|(lease, _)| lease)
    }

    #[test]
    fn a_lease_expires_when_its_ttl_has_passed_and_not_before() {
        let (mut state, start) = (State::default(), Instant::now());
        let owner = state.new_registrar();
        let lease = register(&mut state, owner, Claim::TakeOver, start).unwrap();
        state.renew(lease, &instance(), start + TTL / 2).unwrap();
        assert_eq!(state.next_deadline(), Some(start + TTL / 2 + TTL));
        state.expire(start + TTL + TTL / 2 - Duration::from_nanos(1), usize::MAX);
        assert_eq!(state.snapshot(&service()).len(), 1);
        state.expire(start + TTL + TTL / 2, usize::MAX);
        assert!(state.snapshot(&service()).is_empty());
        assert_eq!((state.live_leases(), state.next_deadline()), (0, None));
    }

    #[test]
    fn a_superseded_lease_touches_nothing_when_it_is_revoked_or_expires() {
        let (mut state, start) = (State::default(), Instant::now());
        let (first, second) = (state.new_registrar(), state.new_registrar());
        let old = register(&mut state, first, Claim::TakeOver, start).unwrap();
        let later = register(&mut state, first, Claim::IfVacant, start).unwrap();
        let new = register(&mut state, second, Claim::TakeOver, start + TTL / 2).unwrap();
        let before = state.snapshot(&service());
        assert_eq!(state.update(old, &instance()).unwrap_err().kind(), ErrorKind::Superseded);
        state.revoke(old);
        state.expire(start + TTL, usize::MAX);
        assert_eq!(state.renew(later, &instance(), start + TTL).unwrap_err().kind(), ErrorKind::LeaseExpired);
        assert_eq!(state.snapshot(&service()), before);
        state.revoke(new);
        assert!(state.snapshot(&service()).is_empty());
    }

    #[test]
    fn an_old_lease_of_the_same_registrar_cannot_reclaim_its_record() {
        let (mut state, start) = (State::default(), Instant::now());
        let owner = state.new_registrar();
        let old = register(&mut state, owner, Claim::TakeOver, start).unwrap();
        register(&mut state, owner, Claim::IfVacant, start).unwrap();
        assert_eq!(state.renew(old, &instance(), start).unwrap_err().kind(), ErrorKind::Superseded);
    }

    #[test]
    fn every_change_has_its_own_revision_even_across_a_wipe() {
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
    fn a_ttl_is_granted_as_requested() {
        let (mut state, start) = (State::default(), Instant::now());
        let owner = state.new_registrar();
        for ttl in [Duration::from_nanos(1), Registration::MAX_TTL] {
            let registration = Registration::new(service(), Instance::clone(&instance())).unwrap();
            let registration = registration.with_ttl(ttl).unwrap();
            let (_, granted) = state.register(owner, &registration, Claim::TakeOver, start).unwrap();
            assert_eq!(granted, ttl);
        }
    }
}
