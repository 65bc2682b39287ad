//! The switch that cuts connections, against connections that are accepted and that wait at that moment.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use loom::future::block_on;
use loom::thread;

use crate::cutter::{Cutter, Switch};
use crate::model;

/// Waits for a peer that never sends.
async fn read(switch: &Switch) -> io::Result<()> {
    let (key, wakers) = switch.add();
    let read = poll_fn(|cx| switch.unless_cut(cx, &wakers.read, |_| Poll::Pending)).await;
    switch.remove(key);
    read
}

#[test]
fn a_connection_that_is_accepted_during_a_cut_is_cut() {
    model(|| {
        let cutter = Cutter::default();
        let connections: Vec<_> = (0..2)
            .map(|_| {
                let switch = cutter.switch();
                thread::spawn(move || block_on(read(&switch)).unwrap_err())
            })
            .collect();
        assert!(cutter.cut().connections <= 2);
        for connection in connections {
            connection.join().unwrap();
        }
        assert_eq!(cutter.cut().connections, 0);
    });
}

#[test]
fn a_cut_ends_reading_and_writing() {
    model(|| {
        let cutter = Cutter::default();
        let switch = cutter.switch();
        let (_key, wakers) = switch.add();
        let writer = {
            let (switch, wakers) = (Arc::clone(&switch), Arc::clone(&wakers));
            let write = move || {
                block_on(poll_fn(|cx| {
                    switch.unless_cut(cx, &wakers.write, |_| Poll::<io::Result<()>>::Pending)
                }))
            };
            thread::spawn(move || assert!(write().is_err()))
        };
        let cut = thread::spawn(move || drop(cutter));
        let read = poll_fn(|cx| switch.unless_cut(cx, &wakers.read, |_| Poll::<io::Result<()>>::Pending));
        assert!(block_on(read).is_err());
        writer.join().unwrap();
        cut.join().unwrap();
    });
}
