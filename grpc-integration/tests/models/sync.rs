//! Loom's primitives, and those of Tokio and futures-util written with them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

pub(crate) use loom::sync::atomic::{AtomicU32, Ordering, fence};
pub(crate) use loom::sync::{Mutex, MutexGuard};

/// An atomic of loom whose initial value is as a `SeqCst` store: a `SeqCst` load never returns it after such a store of
/// another thread.
macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                let atomic = loom::sync::atomic::$name::new(value);
                atomic.store(value, Ordering::SeqCst);
                Self(atomic)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(<$value>::default())
            }
        }

        impl Deref for $name {
            type Target = loom::sync::atomic::$name;

            fn deref(&self) -> &Self::Target {
                &self.0
            }
        }
    };
}

atomic!(AtomicBool, bool);
atomic!(AtomicU64, u64);
atomic!(AtomicUsize, usize);

/// That of arc-swap, with the order that a lock gives.
#[derive(Debug, Default)]
pub(crate) struct ArcSwap<T>(Mutex<Arc<T>>);

impl<T> ArcSwap<T> {
    pub(crate) fn load(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().unwrap())
    }

    pub(crate) fn store(&self, value: Arc<T>) {
        let before = std::mem::replace(&mut *self.0.lock().unwrap(), value);
        drop(before);
    }
}

/// Permits, and those that wait for one, first come first served.
#[derive(Debug, Default)]
struct Line(Mutex<Permits>);

#[derive(Debug, Default)]
struct Permits {
    free: usize,
    next: u64,
    waiting: VecDeque<(u64, Waker)>,
    given: Vec<u64>,
}

impl Line {
    fn with(free: usize) -> Self {
        Self(Mutex::new(Permits { free, ..Permits::default() }))
    }

    /// Gives a permit to the first that waits. If none does, it is kept, unless `most` are.
    fn give(&self, most: usize) {
        let mut permits = self.0.lock().unwrap();
        let Some((first, waker)) = permits.waiting.pop_front() else {
            permits.free = (permits.free + 1).min(most);
            return;
        };
        permits.given.push(first);
        drop(permits);
        waker.wake();
    }

    /// Waits for a permit, from the first poll on.
    fn permit(&self, most: usize) -> Wait<'_> {
        Wait { line: self, most, number: None }
    }
}

struct Wait<'a> {
    line: &'a Line,
    most: usize,
    number: Option<u64>,
}

impl Future for Wait<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut permits = self.line.0.lock().unwrap();
        if let Some(number) = self.number {
            if let Some(at) = permits.given.iter().position(|given| *given == number) {
                permits.given.swap_remove(at);
                drop(permits);
                self.number = None;
                return Poll::Ready(());
            }
            for (_, waker) in permits.waiting.iter_mut().filter(|(waiting, _)| *waiting == number) {
                *waker = cx.waker().clone();
            }
            return Poll::Pending;
        }
        if permits.free > 0 {
            permits.free -= 1;
            return Poll::Ready(());
        }
        permits.next += 1;
        let number = permits.next;
        permits.waiting.push_back((number, cx.waker().clone()));
        drop(permits);
        self.number = Some(number);
        Poll::Pending
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number else { return };
        let mut permits = self.line.0.lock().unwrap();
        permits.waiting.retain(|(waiting, _)| *waiting != number);
        let given = permits.given.contains(&number);
        permits.given.retain(|given| *given != number);
        drop(permits);
        if given {
            self.line.give(self.most);
        }
    }
}

/// Tokio's `Notify`, of which `notify_one` is needed.
#[derive(Debug, Default)]
pub(crate) struct Notify(Line);

impl Notify {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_one(&self) {
        self.0.give(1);
    }

    pub(crate) fn notified(&self) -> Notified<'_> {
        Notified { wait: self.0.permit(1), done: false }
    }
}

pub(crate) struct Notified<'a> {
    wait: Wait<'a>,
    done: bool,
}

impl Notified<'_> {
    /// Waits from now on.
    pub(crate) fn enable(self: Pin<&mut Self>) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if !self.done {
            ready!(Pin::new(&mut self.wait).poll(cx));
            self.done = true;
        }
        Poll::Ready(())
    }
}

/// Tokio's `Semaphore`, which is fair.
#[derive(Debug)]
pub(crate) struct Semaphore(Line);

impl Semaphore {
    pub(crate) fn new(permits: usize) -> Self {
        Self(Line::with(permits))
    }

    pub(crate) async fn acquire(&self) -> Result<SemaphorePermit<'_>, Infallible> {
        self.0.permit(usize::MAX).await;
        Ok(SemaphorePermit(self))
    }
}

#[derive(Debug)]
pub(crate) struct SemaphorePermit<'a>(&'a Semaphore);

impl Drop for SemaphorePermit<'_> {
    fn drop(&mut self) {
        self.0.0.give(usize::MAX);
    }
}

/// That of futures-util.
#[derive(Debug, Default)]
pub(crate) struct AtomicWaker(Mutex<Option<Waker>>);

impl AtomicWaker {
    pub(crate) fn register(&self, waker: &Waker) {
        *self.0.lock().unwrap() = Some(waker.clone());
    }

    pub(crate) fn wake(&self) {
        let waker = self.0.lock().unwrap().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
