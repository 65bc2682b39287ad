//! The waker of a connection's task, muted while the task changes what would wake it, and that of the byte stream under it.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use loom::future::block_on;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use crate::driver_waker::DriverWaker;
use crate::model;
use crate::stream_waker::StreamWaker;

/// What wakes the task when it has changed.
trait Source: Default + Send + Sync + 'static {
    /// From another thread.
    fn change(&self);
    /// By the task itself.
    fn change_own(&self);
    /// Ready once it was changed from another thread.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()>;
}

/// As h2: one lock around the state and the waker.
#[derive(Default)]
struct Locked(Mutex<(bool, Option<Waker>)>);

impl Source for Locked {
    fn change(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn change_own(&self) {
        let waker = self.0.lock().unwrap().1.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// A flag without a lock, and a waker that stays registered.
#[derive(Default)]
struct Flag {
    changed: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Source for Flag {
    fn change(&self) {
        self.changed.store(true, Ordering::Release);
        self.change_own();
    }

    fn change_own(&self) {
        let waker = self.waker.lock().unwrap().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.changed.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        {
            let mut waker = self.waker.lock().unwrap();
            if waker.is_some() {
                return Poll::Pending;
            }
            *waker = Some(cx.waker().clone());
        }
        match self.changed.load(Ordering::Acquire) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// A byte stream, which is asked only if it has woken since.
#[derive(Default)]
struct Stream<S> {
    source: S,
    waker: Mutex<Option<(Arc<StreamWaker>, Waker)>>,
}

impl<S: Source> Source for Stream<S> {
    fn change(&self) {
        self.source.change();
    }

    /// What the task does to h2 wakes, and not by way of the stream.
    fn change_own(&self) {}

    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut known = self.waker.lock().unwrap();
        let (stream, waker) = known.get_or_insert_with(|| StreamWaker::new(cx.waker()));
        match stream.begin() {
            true => self.source.poll(&mut Context::from_waker(waker)),
            false => Poll::Pending,
        }
    }
}

/// The task polls once before, so that its waker is known. It polls as often as it is woken; where a wake-up is lost it
/// sleeps for ever, which loom reports.
fn no_wake_up_is_lost<S: Source>() {
    model(|| {
        let source = Arc::<S>::default();
        let waker = Arc::<DriverWaker>::default();
        let of_source = Waker::from(Arc::clone(&waker));
        let mut other = None;
        block_on(poll_fn(|cx| {
            waker.mute(cx.waker());
            source.change_own();
            waker.unmute();
            let polled = source.poll(&mut Context::from_waker(&of_source));
            other.get_or_insert_with(|| {
                let source = Arc::clone(&source);
                // The task runs once more in the meantime, for another reason.
                cx.waker().wake_by_ref();
                thread::spawn(move || source.change())
            });
            polled
        }));
        other.unwrap().join().unwrap();
    });
}

#[test]
fn no_wake_up_by_h2_is_lost_while_the_task_is_muted() {
    no_wake_up_is_lost::<Locked>();
}

#[test]
fn no_wake_up_is_lost_whatever_wakes() {
    no_wake_up_is_lost::<Flag>();
}

#[test]
fn no_wake_up_by_a_byte_stream_is_lost_that_is_not_asked() {
    no_wake_up_is_lost::<Stream<Locked>>();
    no_wake_up_is_lost::<Stream<Flag>>();
}
