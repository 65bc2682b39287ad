//! The pool: a task that follows the registry, and keeps connections to the instances that it finds.

mod connections;
mod desired;
mod dialer;
mod outage_log;
mod pace;
mod state;
mod subchannel;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use hither_core::{Address, Discovery, Freshness, Instance, InstanceState, ServiceName, ServiceView, Update};
use tokio::sync::Notify;
use tokio::time::sleep_until;
use tracing::Instrument;

pub(crate) use dialer::Dialer;
pub(crate) use state::{NotReadyReason, Ready, State, StateReader, closed};
pub(crate) use subchannel::SubchannelConfig;

use super::balance::LoadBalancingPolicy;
use super::ready_instance::ReadyInstance;
use crate::task::Task;
use outage_log::OutageLog;
use state::StatePublisher;
use subchannel::{Connectivity, Subchannel};

/// How an instance is to be treated; the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Takes calls.
    Up,
    /// About to shut down: takes calls only if no instance is up.
    Draining,
    /// Removed from the registry in bulk, and held: takes calls over a connection that is open, and is never
    /// connected to.
    Held,
}

/// Instances that have the same addresses are the same server, in whatever order they are listed.
type Key = Vec<Address>;

fn key(instance: &Instance) -> Key {
    let mut addresses = instance.addresses().to_vec();
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Follows one service.
#[derive(Debug)]
pub(crate) struct Pool {
    service: ServiceName,
    discovery: Discovery,
    view: ServiceView,
    policy: Arc<dyn LoadBalancingPolicy>,
    config: SubchannelConfig,
    subchannels: BTreeMap<Key, (Role, Subchannel)>,
    /// The latest update of the registry; `None` before the first.
    update: Option<Update>,
    /// Notified when the connectivity of a subchannel has changed.
    changed: Arc<Notify>,
    outages: Arc<OutageLog>,
    /// The last picker, and the instances that it was made for.
    last: Option<Ready>,
    publisher: StatePublisher,
}

impl Pool {
    /// Starts to follow `service`. The pool ends when the task is dropped.
    pub(crate) fn start(
        discovery: Discovery,
        service: ServiceName,
        policy: Arc<dyn LoadBalancingPolicy>,
        config: SubchannelConfig,
    ) -> (Arc<StateReader>, Task) {
        let span = tracing::debug_span!("channel", %service);
        let publisher = StatePublisher::new(
            State::Connecting(NotReadyReason::unresolved(service.clone())),
            Arc::clone(config.dialer.capacity()),
        );
        let reader = Arc::clone(publisher.reader());
        let mut pool = Self {
            view: discovery.service(&service),
            outages: Arc::new(OutageLog::new(service.clone())),
            service,
            discovery,
            policy,
            config,
            subchannels: BTreeMap::new(),
            update: None,
            changed: Arc::default(),
            last: None,
            publisher,
        };
        (reader, Task::spawn(async move { pool.run().await }.instrument(span)))
    }

    async fn run(&mut self) {
        loop {
            let summary = self.outages.due();
            tokio::select! {
                biased;
                update = self.view.changed() => match update {
                    Ok(update) => self.on_update(update),
                    // The runtime that another channel started this watch on is gone. Ours is not.
                    Err(_) => self.view = self.discovery.service(&self.service),
                },
                () = self.changed.notified() => {}
                () = async {
                    match summary {
                        Some(due) => sleep_until(due).await,
                        None => std::future::pending().await,
                    }
                } => {
                    self.outages.summarize();
                    continue;
                }
            }
            self.publish();
        }
    }

    /// Brings the subchannels in line with the registry.
    fn on_update(&mut self, update: Update) {
        let wanted = servers(&update);
        self.subchannels.retain(|key, _| wanted.contains_key(key));
        let any_up = wanted.values().any(|(role, _)| *role == Role::Up);
        for (key, (role, instance)) in wanted {
            let connect = match role {
                Role::Up => true,
                Role::Draining => !any_up,
                Role::Held => false,
            };
            match self.subchannels.entry(key) {
                Entry::Occupied(mut entry) => {
                    let (present, subchannel) = entry.get_mut();
                    *present = role;
                    subchannel.describe(instance);
                    subchannel.set_connect(connect);
                }
                Entry::Vacant(entry) if connect => {
                    let ready_instance = ReadyInstance::in_pool(instance, self.publisher.reader().capacity());
                    let (changed, outages) = (Arc::clone(&self.changed), Arc::clone(&self.outages));
                    let config = self.config.fork();
                    let subchannel = Subchannel::start(ready_instance, config, changed, outages);
                    entry.insert((role, subchannel));
                }
                Entry::Vacant(_) => {}
            }
        }
        self.update = Some(update);
    }

    fn publish(&mut self) {
        let ready = self.ready();
        let state = if ready.is_empty() { self.not_ready() } else { State::Ready(self.picker_over(ready)) };
        self.publisher.publish(state);
    }

    /// Returns the instances that can be called, sorted by id.
    fn ready(&self) -> Vec<ReadyInstance> {
        let among = |wanted: fn(Role) -> bool| {
            let mut ready: Vec<_> = self
                .subchannels
                .values()
                .filter(|(role, subchannel)| {
                    wanted(*role) && subchannel.connectivity() == Connectivity::Ready
                })
                .map(|(_, subchannel)| subchannel.ready_instance().clone())
                .collect();
            ready.sort_by(|a, b| a.instance().id().cmp(b.instance().id()));
            ready
        };
        let ready = among(|role| role != Role::Draining);
        if ready.is_empty() { among(|role| role == Role::Draining) } else { ready }
    }

    fn picker_over(&mut self, ready: Vec<ReadyInstance>) -> Ready {
        if let Some(last) = &self.last
            && same(&last.instances, &ready)
        {
            return last.clone();
        }
        let picker = self.policy.picker(&ready, self.last.as_ref().map(|last| &last.picker));
        let ready = Ready { picker, instances: ready.into() };
        self.last = Some(ready.clone());
        ready
    }

    fn not_ready(&self) -> State {
        let Some(update) = &self.update else {
            return State::Connecting(NotReadyReason::unresolved(self.service.clone()));
        };
        let stale = match &update.freshness {
            Freshness::Stale { since, cause, .. } => Some((*since, cause.clone())),
            _ => None,
        };
        let mut connecting = false;
        let mut last_error = None;
        for (_, subchannel) in self.subchannels.values() {
            match subchannel.connectivity() {
                Connectivity::Connecting | Connectivity::Ready => connecting = true,
                Connectivity::TransientFailure(error) => last_error = Some(error),
                Connectivity::Idle => connecting |= subchannel.connects(),
            }
        }
        let registered = update.snapshot.as_ref().map(|snapshot| snapshot.len());
        let reason = NotReadyReason { service: self.service.clone(), registered, last_error, stale };
        if connecting { State::Connecting(reason) } else { State::Failing(reason) }
    }
}

/// Returns the servers behind the records, and how they are to be treated. Of several records of one server the
/// best role counts, and of equal ones the first by id.
fn servers(update: &Update) -> BTreeMap<Key, (Role, Arc<Instance>)> {
    let mut servers = BTreeMap::new();
    let registered = update.instances().map(|instance| match instance.state() {
        InstanceState::Draining => (Role::Draining, instance),
        _ => (Role::Up, instance),
    });
    for (role, instance) in registered.chain(update.held.iter().map(|instance| (Role::Held, instance))) {
        match servers.entry(key(instance)) {
            Entry::Vacant(entry) => {
                entry.insert((role, Arc::clone(instance)));
            }
            Entry::Occupied(mut entry) if role < entry.get().0 => {
                entry.insert((role, Arc::clone(instance)));
            }
            Entry::Occupied(_) => {}
        }
    }
    servers
}

/// Whether these are the same instances with the same descriptions.
fn same(a: &[ReadyInstance], b: &[ReadyInstance]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b && Arc::ptr_eq(a.instance(), b.instance()))
}
