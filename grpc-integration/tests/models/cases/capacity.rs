//! The slots of a connection, and the calls that wait for one.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use loom::future::block_on;
use loom::thread;

use crate::capacity::CapacityWaiters;
use crate::model;
use crate::transport::{Connection, Slot};

/// Reserves a stream as a call does (`client/call/pick.rs`), but for the picker.
async fn reserve(connection: &Arc<Connection>, capacity: &CapacityWaiters) -> Slot {
    if !capacity.any()
        && let Some(slot) = connection.try_reserve()
    {
        return slot;
    }
    let head = capacity.join().await;
    loop {
        let mut freed = pin!(head.freed());
        freed.as_mut().enable();
        if let Some(slot) = connection.try_reserve() {
            return slot;
        }
        freed.await;
    }
}

/// A call on a thread of its own, which keeps its slot.
fn call(connection: &Arc<Connection>, capacity: &Arc<CapacityWaiters>) -> thread::JoinHandle<Slot> {
    let (connection, capacity) = (Arc::clone(connection), Arc::clone(capacity));
    thread::spawn(move || block_on(reserve(&connection, &capacity)))
}

#[test]
fn a_slot_that_is_freed_while_a_call_begins_to_wait_is_not_missed() {
    model(|| {
        let capacity = Arc::<CapacityWaiters>::default();
        let connection = Connection::open(1, &capacity);
        let slot = connection.try_reserve().unwrap();
        let other = thread::spawn(move || drop(slot));
        let slot = block_on(reserve(&connection, &capacity));
        other.join().unwrap();
        assert_eq!(connection.reserved(), 1);
        drop(slot);
        assert!(!capacity.any());
    });
}

#[test]
fn there_are_never_more_calls_than_the_peer_allows_and_each_has_its_turn() {
    model(|| {
        let capacity = Arc::<CapacityWaiters>::default();
        let connection = Connection::open(1, &capacity);
        let callers: Vec<_> = (0..2)
            .map(|_| {
                let (connection, capacity) = (Arc::clone(&connection), Arc::clone(&capacity));
                thread::spawn(move || {
                    let slot = block_on(reserve(&connection, &capacity));
                    assert_eq!(connection.reserved(), 1);
                    drop(slot);
                })
            })
            .collect();
        for caller in callers {
            caller.join().unwrap();
        }
        assert_eq!((connection.reserved(), capacity.any()), (0, false));
    });
}

#[test]
fn a_limit_that_is_raised_while_calls_begin_to_wait_lets_all_go_that_fit() {
    model(|| {
        let capacity = Arc::<CapacityWaiters>::default();
        let connection = Connection::open(0, &capacity);
        let calls = [call(&connection, &capacity), call(&connection, &capacity)];
        connection.on_settings(2);
        let slots = calls.map(|call| call.join().unwrap());
        assert_eq!((connection.reserved(), slots.len(), capacity.any()), (2, 2, false));
    });
}

#[test]
fn a_limit_that_is_raised_while_a_slot_is_freed_is_used() {
    model(|| {
        let capacity = Arc::<CapacityWaiters>::default();
        let connection = Connection::open(1, &capacity);
        let slot = connection.try_reserve().unwrap();
        let freed = thread::spawn(move || drop(slot));
        let call = call(&connection, &capacity);
        connection.on_settings(2);
        let slot = block_on(reserve(&connection, &capacity));
        freed.join().unwrap();
        let other = call.join().unwrap();
        assert_eq!(connection.reserved(), 2);
        drop((slot, other));
    });
}

/// The first in the line ends at its deadline, perhaps with the news that a slot was freed.
#[test]
fn a_call_that_gives_up_holds_back_no_other() {
    model(|| {
        let capacity = Arc::<CapacityWaiters>::default();
        let connection = Connection::open(1, &capacity);
        let slot = connection.try_reserve().unwrap();
        let gives_up = {
            let (connection, capacity) = (Arc::clone(&connection), Arc::clone(&capacity));
            thread::spawn(move || {
                block_on(async {
                    let mut waiting = pin!(reserve(&connection, &capacity));
                    poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx).is_ready())).await;
                });
            })
        };
        let freed = thread::spawn(move || drop(slot));
        drop(block_on(reserve(&connection, &capacity)));
        freed.join().unwrap();
        gives_up.join().unwrap();
        assert_eq!((connection.reserved(), capacity.any()), (0, false));
    });
}
