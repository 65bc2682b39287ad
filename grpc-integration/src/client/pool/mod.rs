//! Who can be called: a task that follows the registry and keeps connections to what it finds.

mod connections;
mod dialer;
mod state;
mod subchannel;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hither_core::{Address, Discovery, Freshness, Instance, InstanceState, ServiceName, ServiceView, Update};
use tokio::sync::{Notify, watch};
use tracing::Instrument;

pub(crate) use dialer::Dialer;
pub(crate) use state::{NotReadyReason, Ready, State};
pub(crate) use subchannel::SubchannelConfig;
use subchannel::{Connectivity, Subchannel};

use super::balance::LoadBalancingPolicy;
use super::capacity::CapacityWaiters;
use super::ready_instance::ReadyInstance;
use crate::task::Task;

/// What the pool shares with the calls.
#[derive(Debug)]
pub(crate) struct StateReader {
    state: ArcSwap<State>,
    changes: watch::Receiver<()>,
    room: Arc<CapacityWaiters>,
}

impl StateReader {
    /// Whom calls may be sent to now. Takes no lock.
    pub(crate) fn state(&self) -> arc_swap::Guard<Arc<State>> {
        self.state.load()
    }

    /// Changes of the state from now on. The pool's end is its error.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        let mut changes = self.changes.clone();
        changes.mark_unchanged();
        changes
    }

    pub(crate) fn room(&self) -> &CapacityWaiters {
        &self.room
    }
}

/// How one instance is to be treated; the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    /// Takes calls.
    Up,
    /// About to leave: takes calls only if nobody else does.
    Draining,
    /// Vanished from the registry without a word: takes calls over a connection that is open, and is never
    /// dialled.
    Held,
}

/// Instances that have the same addresses are the same server. Which of the addresses is named first makes no
/// difference.
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
    /// What the registry says; `None` before it was heard for the first time.
    update: Option<Update>,
    changed: Arc<Notify>,
    /// Whom calls could be sent to when there last was somebody.
    last: Option<Ready>,
    published: Published,
}

impl Pool {
    /// Starts to follow `service`, for as long as the task is kept.
    pub(crate) fn start(
        discovery: Discovery,
        service: ServiceName,
        policy: Arc<dyn LoadBalancingPolicy>,
        config: SubchannelConfig,
    ) -> (Arc<StateReader>, Task) {
        let (tell, changes) = watch::channel(());
        let view = discovery.service(&service);
        let span = tracing::debug_span!("pool", %service);
        let state = State::Connecting(NotReadyReason::unresolved(service.clone()));
        let shared =
            Arc::new(StateReader { state: ArcSwap::from_pointee(state), changes, room: Arc::default() });
        let mut pool = Self {
            service,
            view,
            discovery,
            policy,
            config,
            subchannels: BTreeMap::new(),
            update: None,
            changed: Arc::default(),
            last: None,
            published: Published { shared: Arc::clone(&shared), tell },
        };
        let task = Task::spawn(async move { pool.run().await }.instrument(span));
        (shared, task)
    }

    async fn run(&mut self) {
        loop {
            tokio::select! {
                biased;
                update = self.view.changed() => match update {
                    Ok(update) => self.follow(update),
                    // The runtime that somebody else began this watch on is gone. Ours is not.
                    Err(_) => self.view = self.discovery.service(&self.service),
                },
                () = self.changed.notified() => {}
            }
            self.publish();
        }
    }

    /// Brings the subchannels in line with what the registry says.
    fn follow(&mut self, update: Update) {
        let wanted = servers(&update);
        self.subchannels.retain(|key, _| wanted.contains_key(key));
        let anybody_up = wanted.values().any(|(role, _)| *role == Role::Up);
        for (key, (role, instance)) in wanted {
            let dial = match role {
                Role::Up => true,
                Role::Draining => !anybody_up,
                Role::Held => false,
            };
            match self.subchannels.entry(key) {
                Entry::Occupied(mut entry) => {
                    let (present, subchannel) = entry.get_mut();
                    *present = role;
                    if !Arc::ptr_eq(subchannel.endpoint().instance(), &instance) {
                        let endpoint = subchannel.endpoint().described_as(instance);
                        *subchannel.endpoint_mut() = endpoint;
                    }
                    subchannel.dial(dial);
                }
                Entry::Vacant(entry) if dial => {
                    let addresses = instance.addresses().to_vec();
                    let endpoint = ReadyInstance::in_pool(instance, &self.published.shared.room);
                    let changed = Arc::clone(&self.changed);
                    let subchannel = Subchannel::start(endpoint, addresses, self.config.clone(), changed);
                    entry.insert((role, subchannel));
                }
                Entry::Vacant(_) => {}
            }
        }
        self.update = Some(update);
    }

    /// Tells the calls what has become of it.
    fn publish(&mut self) {
        let ready = self.ready();
        let state = if ready.is_empty() { self.nobody() } else { State::Ready(self.picker_over(ready)) };
        self.published.publish(state);
    }

    /// Whoever can be called, sorted by id.
    fn ready(&self) -> Vec<ReadyInstance> {
        let among = |wanted: fn(Role) -> bool| {
            let mut ready: Vec<_> = self
                .subchannels
                .values()
                .filter(|(role, subchannel)| {
                    wanted(*role) && subchannel.connectivity() == Connectivity::Ready
                })
                .map(|(_, subchannel)| subchannel.endpoint().clone())
                .collect();
            ready.sort_by(|a, b| a.instance().id().cmp(b.instance().id()));
            ready
        };
        let ready = among(|role| role != Role::Draining);
        if ready.is_empty() { among(|role| role == Role::Draining) } else { ready }
    }

    fn picker_over(&mut self, ready: Vec<ReadyInstance>) -> Ready {
        if let Some(last) = &self.last
            && same(&last.endpoints, &ready)
        {
            return last.clone();
        }
        let picker = self.policy.picker(&ready, self.last.as_ref().map(|last| &last.picker));
        let ready = Ready { picker, endpoints: ready.into() };
        self.last = Some(ready.clone());
        ready
    }

    fn nobody(&self) -> State {
        let Some(update) = &self.update else {
            return State::Connecting(NotReadyReason::unresolved(self.service.clone()));
        };
        let stale = match &update.freshness {
            Freshness::Fresh => None,
            Freshness::Stale { since, cause, .. } => Some((*since, cause.clone())),
        };
        let mut connecting = false;
        let mut last_error = None;
        for (_, subchannel) in self.subchannels.values() {
            match subchannel.connectivity() {
                Connectivity::Connecting | Connectivity::Ready => connecting = true,
                Connectivity::TransientFailure(error) => last_error = Some(error),
                Connectivity::Idle => connecting |= subchannel.dials(),
            }
        }
        let registered = update.snapshot.as_ref().map(|snapshot| snapshot.len());
        let why = NotReadyReason { service: self.service.clone(), registered, last_error, stale };
        if connecting { State::Connecting(why) } else { State::Failing(why) }
    }
}

/// The servers behind the records, and how they are to be treated. Of several records of one server the best
/// counts, and of equals the first by id.
fn servers(update: &Update) -> BTreeMap<Key, (Role, Arc<Instance>)> {
    let mut servers = BTreeMap::new();
    let registered = update.instances().iter().map(|instance| match instance.state() {
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

/// Whether these are the same endpoints with the same descriptions.
fn same(a: &[ReadyInstance], b: &[ReadyInstance]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b && Arc::ptr_eq(a.instance(), b.instance()))
}

/// The pool's end of what it shares: when it is dropped, calls fail instead of waiting for ever.
#[derive(Debug)]
struct Published {
    shared: Arc<StateReader>,
    tell: watch::Sender<()>,
}

impl Published {
    fn publish(&self, state: State) {
        self.shared.state.store(Arc::new(state));
        self.tell.send_replace(());
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.publish(State::Closed);
    }
}
