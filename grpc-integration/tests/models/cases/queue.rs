//! The queue between calls and the task of their connection.

use std::future::poll_fn;
use std::task::Poll;

use loom::future::block_on;
use loom::sync::Arc as Shared;
use loom::thread;

use crate::model;
use crate::queue::{Queue, Work};

use super::ticket::{sent, ticket};

/// Takes from the queue until `enough` returns true for the work, as the connection's task does; fails where the task would
/// sleep for ever.
fn take_until(queue: &Queue, hold_once: bool, enough: impl Fn(&Work) -> bool) -> Work {
    let (mut work, mut all, mut hold) = (Work::default(), Work::default(), hold_once);
    block_on(poll_fn(|cx| {
        if queue.take(cx.waker(), hold, &mut work) > 0 {
            // It waits once for more requests.
            hold = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        hold = hold_once;
        all.tickets.append(&mut work.tickets);
        all.cancelled.append(&mut work.cancelled);
        all.orphaned = work.orphaned;
        if enough(&all) { Poll::Ready(()) } else { Poll::Pending }
    }));
    all
}

#[test]
fn no_request_is_lost_and_no_wake_up() {
    for hold in [false, true] {
        model(move || {
            let queue = Shared::new(Queue::default());
            let callers: Vec<_> = (0..2)
                .map(|number| {
                    let queue = Shared::clone(&queue);
                    thread::spawn(move || assert!(queue.push(&ticket(&format!("/{number}")))))
                })
                .collect();
            let work = take_until(&queue, hold, |work| work.tickets.len() == 2);
            let mut sent = sent(work.tickets);
            sent.sort();
            assert_eq!(sent, ["/0", "/1"]);
            for caller in callers {
                caller.join().unwrap();
            }
        });
    }
}

#[test]
fn requests_of_one_caller_stay_in_order() {
    model(|| {
        let queue = Shared::new(Queue::default());
        let caller = {
            let queue = Shared::clone(&queue);
            thread::spawn(move || {
                for path in ["/0", "/1", "/2"] {
                    assert!(queue.push(&ticket(path)));
                }
            })
        };
        let work = take_until(&queue, true, |work| work.tickets.len() == 3);
        assert_eq!(sent(work.tickets), ["/0", "/1", "/2"]);
        caller.join().unwrap();
    });
}

#[test]
fn a_request_is_refused_or_returned_when_the_connection_closes() {
    model(|| {
        let queue = Shared::new(Queue::default());
        let caller = {
            let queue = Shared::clone(&queue);
            thread::spawn(move || queue.push(&ticket("/7")))
        };
        let returned = queue.close().tickets.len();
        let accepted = caller.join().unwrap();
        assert_eq!(usize::from(accepted), returned);
        assert!(!queue.push(&ticket("/8")));
    });
}

#[test]
fn the_end_of_the_last_handle_and_a_cancelled_call_wake_the_task() {
    model(|| {
        let queue = Shared::new(Queue::default());
        let (canceller, owner) = (Shared::clone(&queue), Shared::clone(&queue));
        let canceller = thread::spawn(move || canceller.cancel(Box::new(())));
        let owner = thread::spawn(move || owner.orphan());
        let work = take_until(&queue, false, |work| work.orphaned && work.cancelled.len() == 1);
        assert!(work.tickets.is_empty());
        canceller.join().unwrap();
        owner.join().unwrap();
    });
}
