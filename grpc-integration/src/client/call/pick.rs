//! Waiting for an instance with capacity.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use hither_core::{HasId, SortedById};
use tokio::sync::watch;
use tonic::{Code, Status};

use super::any_other::{Found, any_other, awaits_weight};
use super::attempt::Attempt;
use super::progress::Progress;
use crate::client::balance::{CallInfo, Outcome, Pick, PolicyPicker};
use crate::client::capacity::{CapacityWaiters, Head};
use crate::client::pool::{Ready, State, StateReader, closed};
use crate::client::ready_instance::{InFlight, InstanceGroup, Picked, ReadyInstance};
use crate::client::transport::Slot;

/// How often the picker is asked while it picks instances without capacity.
const TRIES: usize = 3;

/// A stream that was reserved for an attempt, which is to [begin](Self::begin). It is smaller than that, for what hands it on.
#[derive(Debug)]
#[must_use = "the policy is told of the end of what has begun"]
pub(super) struct Reserved {
    in_flight: InFlight,
    slot: Slot,
    picker: Arc<PolicyPicker>,
}

impl Reserved {
    /// Begins the attempt.
    #[inline(always)]
    pub(super) fn begin(self) -> (Attempt, Slot) {
        let Self { in_flight, slot, picker } = self;
        (Attempt::new(in_flight, Arc::clone(slot.connection()), picker), slot)
    }
}

/// Why there is no attempt.
#[derive(Debug)]
pub(super) enum Unpicked {
    /// No instance is ready, or the policy has failed the call: a retry policy may try again.
    Failed(Status),
    /// The policy has dropped the call, or the channel is closed: it is never retried.
    Dropped(Status),
}

impl Unpicked {
    pub(super) fn into_status(self) -> Status {
        match self {
            Self::Failed(status) | Self::Dropped(status) => status,
        }
    }
}

/// The outcome of one look at the state.
enum Look {
    Done(Result<Reserved, Unpicked>),
    /// No connection has capacity, or calls wait for it in this line.
    Full(Arc<CapacityWaiters>),
    /// The call is queued until the state changes.
    Queued,
}

/// Picks for one call.
pub(super) struct Picking<'a> {
    pub(super) state: &'a StateReader,
    pub(super) info: CallInfo<'a>,
    pub(super) wait_for_ready: bool,
    /// The instances to which the call was sent before: others are preferred.
    pub(super) tried: &'a [ReadyInstance],
}

impl Picking<'_> {
    /// Picks an instance with capacity if there is one now: nearly always, and without a lock.
    #[inline(always)]
    pub(super) fn now(&self, progress: &mut Progress) -> Option<Result<Reserved, Unpicked>> {
        // Those who wait come first.
        if self.state.capacity().any() {
            return None;
        }
        let state = self.state.load();
        // What nearly every call takes: the first pick has capacity, and is not bound to a group.
        let first = match &**state {
            State::Ready(ready) if self.tried.is_empty() => match ready.picker.pick(&self.info) {
                Pick::Instance(picked) if !picked.has_group() && !ready.leaves_out(picked.instance()) => {
                    match reserve(ready, picked) {
                        Ok(reserved) => return Some(Ok(reserved)),
                        Err(picked) => Some(Pick::Instance(picked)),
                    }
                }
                pick => Some(pick),
            },
            _ => None,
        };
        match self.look_at(&state, progress, None, true, first) {
            Look::Done(picked) => Some(picked),
            Look::Full(_) | Look::Queued => None,
        }
    }

    /// Picks an instance that was not tried before and has capacity, if there is one now.
    pub(super) fn elsewhere(&self) -> Option<Reserved> {
        if self.state.capacity().any() {
            return None;
        }
        let state = self.state.load();
        let State::Ready(ready) = &**state else { return None };
        let mut among = Among::all(ready);
        for _ in 0..TRIES {
            let Pick::Instance(mut picked) = ready.picker.pick(&self.info) else { return None };
            among = Among::instead_of(ready, &mut picked);
            let was_tried = self.tried.contains(picked.instance());
            let drawn = Drawn::of(ready, picked);
            if among.awaited(None).is_some() && among.has(drawn.instance()) {
                return None;
            }
            if !was_tried && let Some(reserved) = drawn.reserve() {
                return Some(reserved);
            }
        }
        if among.awaited(None).is_some() { None } else { self.untried(&among) }
    }

    /// Takes any instance that was not tried before and has capacity, from a random one on: the policy goes on picking
    /// those that were. One of weight 0 only if all are.
    fn untried(&self, among: &Among<'_>) -> Option<Reserved> {
        let instances = among.instances();
        let count = instances.len();
        let first = fastrand::usize(..count.max(1));
        let untried = |has_weight: bool| {
            let instances = (first..count).chain(0..first).filter_map(|index| instances.at(index));
            let mut untried = instances.filter(|instance| {
                (instance.weight() > 0.0) == has_weight
                    && !self.tried.contains(instance)
                    && instance.has_capacity()
            });
            untried.find_map(|instance| among.take(instance))
        };
        let are_weightless = || instances.iter().all(|instance| instance.weight() <= 0.0);
        untried(true).or_else(|| are_weightless().then(|| untried(false)).flatten())
    }

    /// Waits for an instance with capacity.
    pub(super) async fn wait(&self, progress: &mut Progress) -> Result<Reserved, Unpicked> {
        let mut line = Arc::clone(self.state.capacity());
        // When there are no more changes, the pool has published `Closed`.
        let mut changes = self.state.changes();
        loop {
            if !line.any() {
                match self.look(progress, None) {
                    Look::Done(picked) => return picked,
                    Look::Full(full) => line = full,
                    Look::Queued => {
                        let _ = changes.changed().await;
                        continue;
                    }
                }
            }
            *progress = Progress::Full;
            match self.wait_in(&line, &mut changes, progress).await {
                Look::Done(picked) => return picked,
                Look::Full(other) => line = other,
                Look::Queued => {
                    let _ = changes.changed().await;
                }
            }
        }
    }

    /// Waits in a line, until the call is served or waits for something else.
    async fn wait_in(
        &self,
        line: &Arc<CapacityWaiters>,
        changes: &mut watch::Receiver<u64>,
        progress: &mut Progress,
    ) -> Look {
        let mut join = pin!(line.join());
        // The line of the channel is left by its head alone: all calls in it may go to any instance.
        let is_of_group = !Arc::ptr_eq(line, self.state.capacity());
        let head = loop {
            tokio::select! {
                biased;
                head = &mut join => break head,
                // The call may be of another group by now, which those before it are not.
                _ = changes.changed(), if is_of_group => match self.look(progress, None) {
                    Look::Full(full) if Arc::ptr_eq(&full, line) => {}
                    other => return other,
                },
            }
        };
        loop {
            let mut freed = pin!(head.freed());
            freed.as_mut().enable();
            changes.mark_unchanged();
            match self.look(progress, Some(&head)) {
                Look::Full(full) if head.is_of(&full) => tokio::select! {
                    _ = changes.changed() => {}
                    () = freed => {}
                },
                other => return other,
            }
        }
    }

    fn look(&self, progress: &mut Progress, head: Option<&Head<'_>>) -> Look {
        // Before the state is loaded: other instances that are published from now on are looked at the next time.
        let at_all = head.is_none_or(Head::begin);
        let look = self.look_at(&self.state.load(), progress, head, at_all, None);
        if at_all
            && let Some(head) = head
            && !matches!(&look, Look::Full(full) if head.is_of(full))
        {
            head.not_full();
        }
        look
    }

    /// `first`: what the policy has picked already.
    fn look_at(
        &self,
        state: &State,
        progress: &mut Progress,
        head: Option<&Head<'_>>,
        at_all: bool,
        first: Option<Pick>,
    ) -> Look {
        match state {
            State::Ready(ready) => self.pick_among(ready, progress, head, at_all, first),
            State::Failing(reason) if !self.wait_for_ready => {
                Look::Done(Err(Unpicked::Failed(reason.error().into())))
            }
            State::Failing(reason) | State::Connecting(reason) => {
                *progress = Progress::Waiting(reason.to_string());
                Look::Queued
            }
            State::Closed => Look::Done(Err(Unpicked::Dropped(closed().into()))),
        }
    }

    /// `at_all`: whether all instances are looked at, or only those whose capacity has grown since they were.
    fn pick_among(
        &self,
        ready: &Ready,
        progress: &mut Progress,
        head: Option<&Head<'_>>,
        at_all: bool,
        mut first: Option<Pick>,
    ) -> Look {
        let mut again = None;
        let mut among = Among::all(ready);
        for _ in 0..TRIES {
            let pick = first.take().unwrap_or_else(|| ready.picker.pick(&self.info));
            let mut picked = match pick {
                Pick::Instance(picked) => picked,
                Pick::Queue => return Look::Queued,
                Pick::Wait(reason) => {
                    *progress = Progress::Waiting(reason.into_owned());
                    return Look::Queued;
                }
                Pick::Fail(status) if self.wait_for_ready => {
                    *progress = Progress::Waiting(status.message().to_owned());
                    return Look::Queued;
                }
                Pick::Fail(status) => return Look::Done(Err(Unpicked::Failed(status))),
                Pick::Drop(status) => return Look::Done(Err(Unpicked::Dropped(status))),
            };
            among = Among::instead_of(ready, &mut picked);
            let was_tried = self.tried.contains(picked.instance());
            let drawn = Drawn::of(ready, picked);
            // Those who wait come first.
            if let Some(waiters) = among.awaited(head)
                && among.has(drawn.instance())
            {
                return Look::Full(Arc::clone(waiters));
            }
            if was_tried {
                again = Some(drawn);
            } else if let Some(reserved) = drawn.reserve() {
                return Look::Done(Ok(reserved));
            }
        }
        if let Some(waiters) = among.awaited(head) {
            return Look::Full(Arc::clone(waiters));
        }
        // Also where what the policy picks is full: the one that takes the call instead may have failed it before.
        if !self.tried.is_empty()
            && (again.is_some() || at_all)
            && let Some(reserved) = self.untried(&among).or_else(|| again.and_then(Drawn::reserve))
        {
            return Look::Done(Ok(reserved));
        }
        let line = among.group.as_ref().map_or(self.state.capacity(), |group| group.waiters());
        // The head of another line has looked at nothing here.
        let (other, head) = match head {
            Some(head) if head.is_of(line) => (false, Some(head)),
            head => (head.is_some(), None),
        };
        let is_new = |head: &Head<'_>| among.group.as_ref().is_some_and(|group| head.is_new(group.version()));
        let at_all = head.is_some_and(is_new) || other || at_all;
        let found = |done: Look| {
            // There may be more, for the next one.
            if let Some(head) = head.filter(|_| at_all) {
                head.not_full();
            }
            done
        };
        if let Some(head) = head {
            while let Some(listed) = head.next_listed() {
                // Passed over if it is not among those that are ready, or is listed under another id by now.
                let instance = listed.id().and_then(|id| among.instances().get(&id));
                let instance = instance.filter(|instance| instance.capacity().is(&listed));
                if instance.is_some_and(|instance| instance.weight() <= 0.0)
                    && awaits_weight(among.instances(), ReadyInstance::is_disconnected)
                {
                    head.not_full();
                    continue;
                }
                if let Some(instance) = instance
                    && let Some(reserved) = among.take(instance)
                {
                    head.list_again(&listed);
                    return found(Look::Done(Ok(reserved)));
                }
            }
        }
        if at_all {
            let instances = among.instances();
            let (has_capacity, is_disconnected) =
                (ReadyInstance::has_capacity, ReadyInstance::is_disconnected);
            match any_other(instances, has_capacity, is_disconnected, |one| among.take(one)) {
                Found::Taken(reserved) => return found(Look::Done(Ok(reserved))),
                Found::Full => {}
                // The next look is at all of them, too.
                Found::Declined => {
                    head.inspect(|head| head.not_full());
                }
            }
            if head.is_some() {
                among.instances().iter().for_each(ReadyInstance::ask);
            }
        }
        *progress = Progress::Full;
        Look::Full(Arc::clone(line))
    }
}

/// The instances that a call may go to instead of those that were picked.
struct Among<'a> {
    ready: &'a Ready,
    /// `None`: all of them.
    group: Option<Arc<InstanceGroup>>,
    /// Where the policy counts the call, wherever it goes.
    total: Option<Arc<AtomicUsize>>,
}

impl<'a> Among<'a> {
    fn all(ready: &'a Ready) -> Self {
        Self { ready, group: None, total: None }
    }

    fn instead_of(ready: &'a Ready, picked: &mut Picked) -> Self {
        // An old one may have none of those that are ready now, whose calls wait in other lines.
        let group = picked.take_group().filter(|_| !ready.is_picker_old);
        Self { ready, group, total: picked.total().cloned() }
    }

    /// The line of the group, if calls wait in it and this is not its head.
    fn awaited(&self, head: Option<&Head<'_>>) -> Option<&Arc<CapacityWaiters>> {
        let waiters = self.group.as_ref()?.waiters();
        (!head.is_some_and(|head| head.is_of(waiters)) && waiters.any()).then_some(waiters)
    }

    /// Whether the group has it: the policy may pick outside of what the call goes to instead.
    fn has(&self, instance: Option<&ReadyInstance>) -> bool {
        instance.is_some_and(|instance| self.instances().get(instance.id()).is_some())
    }

    fn instances(&self) -> &SortedById<ReadyInstance> {
        self.group.as_ref().map_or(&self.ready.instances, |group| group.instances())
    }

    /// Takes an instance that the policy has not picked.
    fn take(&self, instance: &ReadyInstance) -> Option<Reserved> {
        let mut picked = Picked::from(instance.clone());
        if let Some(total) = &self.total {
            picked = picked.counted_in(total);
        }
        reserve(self.ready, picked).ok()
    }
}

/// A pick of the policy's. If it is dropped, it has come to nothing, and the policy is told.
struct Drawn<'a> {
    ready: &'a Ready,
    picked: Option<Picked>,
}

impl<'a> Drawn<'a> {
    fn of(ready: &'a Ready, picked: Picked) -> Self {
        Self { ready, picked: Some(picked) }
    }

    fn instance(&self) -> Option<&ReadyInstance> {
        self.picked.as_ref().map(Picked::instance)
    }

    #[inline(always)]
    fn reserve(mut self) -> Option<Reserved> {
        let picked = self.picked.take_if(|picked| !self.ready.leaves_out(picked.instance()))?;
        reserve(self.ready, picked).map_err(|picked| self.picked = Some(picked)).ok()
    }
}

impl Drop for Drawn<'_> {
    fn drop(&mut self) {
        if let Some(picked) = &self.picked {
            let nothing = Outcome::new(Code::Cancelled, Duration::ZERO).unsent();
            self.ready.picker.done(picked, &nothing);
        }
    }
}

#[inline(always)]
fn reserve(ready: &Ready, picked: Picked) -> Result<Reserved, Picked> {
    let (in_flight, slot) = picked.reserve()?;
    Ok(Reserved { in_flight, slot, picker: Arc::clone(&ready.picker) })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::Ordering;

    use async_trait::async_trait;
    use futures_util::FutureExt;
    use hither_core::Instance;
    use http::{Extensions, HeaderMap};
    use tokio::sync::mpsc;

    use super::*;
    use crate::client::balance::{LoadBalancingPolicy, Picker, Policy, RoundRobin};
    use crate::client::connector::{Connected, Connector, Destination};
    use crate::client::metrics::ChannelMetrics;
    use crate::client::pool::StatePublisher;
    use crate::client::transport::{Connection, TransportConfig};

    const INSTANCES: usize = 1000;

    /// Connects to servers that allow one stream.
    #[derive(Debug)]
    struct OneStream;

    #[async_trait]
    impl Connector for OneStream {
        async fn connect(&self, _destination: Destination<'_>) -> io::Result<Connected> {
            let (ours, theirs) = tokio::io::duplex(1000);
            tokio::spawn(async move {
                let mut server = h2::server::Builder::new();
                let mut connection =
                    server.max_concurrent_streams(1).handshake::<_, bytes::Bytes>(theirs).await?;
                while connection.accept().await.transpose()?.is_some() {}
                Ok::<_, h2::Error>(())
            });
            Ok(ours.into())
        }
    }

    /// Round robin, and how often it was asked.
    #[derive(Debug, Clone, Default)]
    struct Counting(Arc<AtomicUsize>);

    #[derive(Debug)]
    struct CountingPicker(Arc<dyn Picker>, Arc<AtomicUsize>);

    impl LoadBalancingPolicy for Counting {
        fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
            Arc::new(CountingPicker(RoundRobin::default().picker(ready), Arc::clone(&self.0)))
        }
    }

    impl Picker for CountingPicker {
        fn pick(&self, call: &CallInfo<'_>) -> Pick {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.pick(call)
        }
    }

    #[tokio::test]
    async fn a_freed_stream_costs_the_same_whatever_the_number_of_instances_and_of_waiting_calls() {
        let publisher = StatePublisher::new(State::Closed);
        let state = Arc::clone(publisher.reader());
        let mut instances = SortedById::new();
        for number in 0..INSTANCES {
            let instance = Arc::new(Instance::new(format!("h{number}:1").parse().unwrap()));
            let ready = ReadyInstance::in_pool(Arc::clone(&instance), state.capacity(), None);
            let config = TransportConfig::default().fork(ready.capacity());
            let destination = Destination::new(&instance, instance.address());
            let connection = Connection::open(&OneStream, destination, &config).await.unwrap();
            ready.set_connections(vec![Arc::new(connection)]);
            instances.insert(ready);
        }
        let policy = Counting::default();
        let picker = Arc::new(
            Policy::new(policy.clone()).picker(&instances, &ChannelMetrics::new("greeter")).unwrap(),
        );
        let ready = Ready { picker, instances: instances.clone(), is_picker_old: false };
        publisher.publish(State::Ready(ready), true);

        let (headers, extensions) = (HeaderMap::new(), Extensions::new());
        let info = CallInfo::new("/", &headers, &extensions);
        let picking = Picking { state: &state, info, wait_for_ready: false, tried: &[] };
        let mut calls = Vec::new();
        while let Some(picked) = picking.now(&mut Progress::Picking) {
            calls.push(picked.unwrap());
        }
        assert_eq!(calls.len(), INSTANCES);
        let (found, mut served) = mpsc::unbounded_channel();
        for number in 0..INSTANCES {
            let (state, found) = (Arc::clone(&state), found.clone());
            tokio::spawn(async move {
                let (headers, extensions) = (HeaderMap::new(), Extensions::new());
                let info = CallInfo::new("/", &headers, &extensions);
                let picking = Picking { state: &state, info, wait_for_ready: false, tried: &[] };
                found.send((number, picking.wait(&mut Progress::Picking).await.unwrap())).unwrap();
            });
        }
        // How many instances were asked for another connection since, each of which wakes its task.
        let asked =
            || instances.iter().filter(|instance| instance.no_capacity().now_or_never().is_some()).count();
        while asked() < INSTANCES {
            tokio::task::yield_now().await;
        }
        // So that all calls are in the line.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let (picks, mut wakes) = (policy.0.swap(0, Ordering::SeqCst), asked());
        assert!(picks < 2 * TRIES * INSTANCES, "{picks} picks");
        for turn in 0..INSTANCES {
            drop(calls.swap_remove(turn * 7919 % calls.len()));
            let (number, call) = served.recv().await.unwrap();
            assert_eq!(number, turn, "first come, first served");
            calls.push(call);
            wakes += asked();
        }
        // The call that is served looks once, and the next one once.
        let picks = policy.0.load(Ordering::SeqCst);
        assert!(picks <= 2 * TRIES * INSTANCES, "{picks} picks");
        assert!(wakes <= 2 * (TRIES + 1) * INSTANCES, "{wakes} wakes");
    }
}
