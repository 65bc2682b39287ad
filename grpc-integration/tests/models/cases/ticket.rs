//! A request between its call and the task of its connection.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use loom::future::block_on;
use loom::thread;
use tokio::time::Instant;

use crate::model;
use crate::request_body::RequestBody;
use crate::streams::SendRequest;
use crate::ticket::{Outcome, Ticket};

fn request(path: &str) -> Request<()> {
    Request::builder().uri(path).body(()).unwrap()
}

pub(super) fn ticket(path: &str) -> Arc<Ticket> {
    Ticket::of(request(path), RequestBody::default(), None)
}

fn send(ticket: &Ticket, requests: &mut SendRequest<Bytes>) -> bool {
    ticket.send(requests, 0, Instant::now).is_ok()
}

/// Sends them, and returns their paths.
pub(super) fn sent(tickets: impl IntoIterator<Item = Arc<Ticket>>) -> Vec<String> {
    let mut requests = SendRequest::new();
    for ticket in tickets {
        assert!(send(&ticket, &mut requests));
    }
    requests.sent
}

/// The task of a connection does this to a ticket, on a thread of its own, while its call waits.
fn outcome_of(
    task: impl Fn(&Ticket) + Send + Sync + Copy + 'static,
    check: impl Fn(Outcome) + Send + Sync + 'static,
) {
    model(move || {
        let ticket = ticket("/a");
        let of_task = Arc::clone(&ticket);
        let task = thread::spawn(move || task(&of_task));
        check(block_on(poll_fn(|cx| ticket.poll(cx))));
        task.join().unwrap();
    });
}

#[test]
fn a_call_is_woken_by_its_response() {
    let task = |ticket: &Ticket| {
        let mut requests = SendRequest::new();
        assert!(send(ticket, &mut requests));
        requests.answer();
    };
    outcome_of(task, |outcome| assert!(matches!(outcome, Outcome::Response(_)), "{outcome:?}"));
}

#[test]
fn a_call_is_woken_when_its_request_is_given_back() {
    outcome_of(Ticket::give_back, |outcome| assert!(matches!(outcome, Outcome::Unsent), "{outcome:?}"));
}

#[test]
fn a_call_is_woken_when_the_connection_accepts_no_request() {
    let task = |ticket: &Ticket| {
        let mut requests = SendRequest::new();
        requests.accepts = false;
        assert!(!send(ticket, &mut requests));
    };
    outcome_of(task, |outcome| assert!(matches!(outcome, Outcome::Unsent), "{outcome:?}"));
}

#[test]
fn a_call_that_is_cancelled_has_its_stream_or_was_never_sent() {
    model(|| {
        let ticket = ticket("/a");
        let of_task = Arc::clone(&ticket);
        let task = thread::spawn(move || sent([of_task]));
        let stream = ticket.cancel();
        assert_eq!(stream.is_some(), task.join().unwrap() == ["/a"]);
        assert!(ticket.is_over());
    });
}

/// The task may still have a ticket that it has given back, and its call has ended by then.
#[test]
fn a_ticket_that_is_used_again_is_no_other_request_to_the_task() {
    model(|| {
        let first = ticket("/a");
        let of_task = Arc::clone(&first);
        let task = thread::spawn(move || {
            of_task.give_back();
            of_task.give_back();
            of_task
        });
        assert!(matches!(block_on(poll_fn(|cx| first.poll(cx))), Outcome::Unsent));
        first.recycle();
        let second = ticket("/b");
        let of_task = task.join().unwrap();
        assert!(!Arc::ptr_eq(&second, &of_task));
        assert_eq!(sent([of_task, Arc::clone(&second)]), ["/b"]);

        assert!(second.cancel().is_some());
        second.recycle();
        assert_eq!(sent([ticket("/c")]), ["/c"]);
    });
}

/// A body that looks at its ticket when it is dropped: that may be the caller's code, which runs without the lock.
struct Looks(Arc<OnceLock<Weak<Ticket>>>);

impl AsRef<[u8]> for Looks {
    fn as_ref(&self) -> &[u8] {
        b"a"
    }
}

impl Drop for Looks {
    fn drop(&mut self) {
        if let Some(ticket) = self.0.get().and_then(Weak::upgrade) {
            ticket.is_over();
        }
    }
}

#[test]
fn a_body_that_is_not_sent_is_dropped_without_the_lock() {
    let ends: [fn(&Ticket); 3] = [
        |ticket| drop(ticket.cancel()),
        Ticket::give_back,
        |ticket| {
            let late = || Instant::now() + Duration::from_secs(60);
            assert!(ticket.send(&mut SendRequest::new(), 0, late).is_ok());
        },
    ];
    for end in ends {
        model(move || {
            let place = Arc::<OnceLock<_>>::default();
            let body = RequestBody::Complete(Bytes::from_owner(Looks(Arc::clone(&place))));
            let ticket = Ticket::of(request("/a"), body, Some(Instant::now()));
            place.set(Arc::downgrade(&ticket)).unwrap();
            end(&ticket);
        });
    }
}
