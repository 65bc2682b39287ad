//! The connections of an instance: set by its subchannel, released by the pool, used by calls.

use std::pin::pin;
use std::sync::Arc;

use hither_core::{Instance, SortedById};
use loom::future::block_on;
use loom::thread;

use crate::capacity::CapacityWaiters;
use crate::model;
use crate::outcomes::{Admission, AllOutcomes, Outcomes, Standing};
use crate::ready_instance::{InFlight, InstanceGroup, Picked, ReadyInstance};
use crate::transport::{Connection, Slot};

fn instance(capacity: &Arc<CapacityWaiters>) -> ReadyInstance {
    ReadyInstance::in_pool(Arc::new(Instance::new("10.0.0.1:1".parse().unwrap())), capacity, None)
}

/// Reserves a stream as a call does (`client/call/pick.rs`), where this is the only instance.
async fn reserve(instance: &ReadyInstance, capacity: &CapacityWaiters) -> (InFlight, Slot) {
    let head = capacity.join().await;
    loop {
        let mut freed = pin!(head.freed());
        freed.as_mut().enable();
        if let Ok(reserved) = Picked::from(instance.clone()).reserve() {
            return reserved;
        }
        freed.await;
    }
}

#[test]
fn a_connection_that_is_set_while_the_instance_is_removed_is_released() {
    model(|| {
        let capacity = Arc::default();
        let instance = instance(&capacity);
        let connection = Connection::open(1, &capacity);
        let released = Arc::downgrade(&connection);
        let subchannel = {
            let instance = instance.clone();
            thread::spawn(move || instance.set_connections(vec![connection]))
        };
        instance.close();
        subchannel.join().unwrap();
        assert!(released.upgrade().is_none());
        assert!(Picked::from(instance).reserve().is_err());
    });
}

#[test]
fn a_call_keeps_the_connection_of_an_instance_that_is_removed() {
    model(|| {
        let capacity = Arc::default();
        let instance = instance(&capacity);
        let connection = Connection::open(1, &capacity);
        let weak = Arc::downgrade(&connection);
        let subchannel = {
            let instance = instance.clone();
            thread::spawn(move || instance.set_connections(vec![connection]))
        };
        let call = {
            let instance = instance.clone();
            thread::spawn(move || Picked::from(instance).reserve())
        };
        instance.close();
        subchannel.join().unwrap();
        let reserved = call.join().unwrap();
        assert_eq!(weak.upgrade().is_some(), reserved.is_ok());
        assert_eq!(instance.in_flight(), usize::from(reserved.is_ok()));
        drop(reserved);
        assert!(weak.upgrade().is_none());
        assert_eq!(instance.in_flight(), 0);
    });
}

#[test]
fn a_connection_that_is_set_while_a_call_begins_to_wait_is_not_missed() {
    model(|| {
        let capacity = Arc::default();
        let instance = instance(&capacity);
        let connection = Connection::open(1, &capacity);
        let subchannel = {
            let instance = instance.clone();
            thread::spawn(move || instance.set_connections(vec![connection]))
        };
        let reserved = block_on(reserve(&instance, &capacity));
        subchannel.join().unwrap();
        assert_eq!(instance.in_flight(), 1);
        drop(reserved);
    });
}

/// A subchannel opens a further connection only if calls wait when it looks.
#[test]
fn a_call_that_finds_no_capacity_gets_a_further_connection() {
    model(|| {
        let capacity = Arc::default();
        let instance = instance(&capacity);
        let full = Connection::open(0, &capacity);
        instance.set_connections(vec![Arc::clone(&full)]);
        let further = Connection::open(1, &capacity);
        let subchannel = {
            let instance = instance.clone();
            thread::spawn(move || {
                block_on(async {
                    loop {
                        instance.no_capacity().await;
                        if instance.is_awaited() {
                            return instance.set_connections(vec![full, further]);
                        }
                    }
                });
            })
        };
        // It looks before it joins the line, too.
        assert!(Picked::from(instance.clone()).reserve().is_err());
        drop(block_on(reserve(&instance, &capacity)));
        subchannel.join().unwrap();
    });
}

/// An ejected instance is tried by one call at a time.
#[test]
fn a_call_that_waits_for_the_end_of_a_probe_is_not_missed() {
    for is_decided in [false, true] {
        model(move || {
            let capacity = Arc::default();
            let outcomes = Arc::new(Outcomes::new(0, &Arc::new(AllOutcomes::new(None))));
            outcomes.probation().set(Standing::Probing);
            let instance = Arc::new(Instance::new("10.0.0.1:1".parse().unwrap()));
            let instance = ReadyInstance::in_pool(instance, &capacity, Some(Arc::clone(&outcomes)));
            instance.set_connections(vec![Connection::open(2, &capacity)]);
            let (probe, slot) = Picked::from(instance.clone()).reserve().unwrap();
            let call = {
                let (instance, outcomes) = (instance.clone(), Arc::clone(&outcomes));
                thread::spawn(move || {
                    outcomes.record(false, probe.admission());
                    if is_decided {
                        // As the pool does.
                        outcomes.probation().set(Standing::In);
                        instance.capacity().wake();
                    } else {
                        outcomes.probation().set(Standing::Probing);
                    }
                    drop((probe, slot));
                })
            };
            let (second, _slot) = block_on(reserve(&instance, &capacity));
            // It may have looked before the pool has decided.
            assert!(is_decided || second.admission() != Admission::Call);
            call.join().unwrap();
        });
    }
}

/// A call that is limited to a group waits in its line, and a stream is freed while the instance moves there. What the call
/// looks at is published after the instance has moved.
#[test]
fn a_stream_that_is_freed_while_the_instance_joins_a_group_is_not_missed() {
    model(|| {
        let capacity = Arc::default();
        let instance = instance(&capacity);
        let connection = Connection::opened_for(1, instance.capacity());
        instance.set_connections(vec![connection]);
        let (first, slot) = Picked::from(instance.clone()).reserve().unwrap();
        let freed = thread::spawn(move || drop((first, slot)));
        let waiters = Arc::<CapacityWaiters>::default();
        let group = InstanceGroup::new(&waiters);
        group.add(&instance);
        let group = group.with(SortedById::from_iter([instance.clone()]));
        drop(block_on(reserve(&group.instances()[0], &waiters)));
        freed.join().unwrap();
        assert!(!instance.is_awaited());
    });
}
