//! Batching of writes: whether to wait for more requests before those that are there are sent.

/// In how many sends at most it is tried once whether waiting brings more.
const MAX_INTERVAL: u32 = 16;

/// Learns whether waiting for one turn of the other tasks brings more requests.
///
/// That there are other calls does not tell: they may be streams that are open for hours, or wait for their answers. And
/// whether their tasks run before this one without any waiting depends on the runtime. So what counts is what waiting has
/// brought.
#[derive(Debug)]
pub(super) struct Linger {
    /// In how many sends waiting is tried again, after it has brought nothing.
    interval: u32,
    /// How many sends are left until then.
    left: u32,
    /// How many requests there were when the wait began.
    waiting: Option<usize>,
}

impl Linger {
    pub(super) fn new() -> Self {
        Self { interval: MAX_INTERVAL, left: MAX_INTERVAL, waiting: None }
    }

    /// Returns whether to wait for one turn before the next requests are sent. `calls`: how many there are on the connection.
    pub(super) fn should_wait(&self, calls: usize) -> bool {
        calls > 1 && self.left == 0 && self.waiting.is_none()
    }

    /// The requests that are there wait for others.
    pub(super) fn on_wait(&mut self, requests: usize) {
        self.waiting = Some(requests);
    }

    /// So many requests are sent.
    pub(super) fn on_send(&mut self, requests: usize) {
        match self.waiting.take() {
            None => {
                self.left = self.left.saturating_sub(1);
                return;
            }
            Some(before) if before < requests => self.interval = 0,
            Some(_) => self.interval = (self.interval + 1).min(MAX_INTERVAL),
        }
        self.left = self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends requests that come alone, or with another one for which it has to wait; returns how often it waited.
    fn waits(linger: &mut Linger, sends: usize, more: impl Fn(usize) -> bool) -> usize {
        let mut waits = 0;
        for send in 0..sends {
            let mut requests = 1;
            if linger.should_wait(2) {
                linger.on_wait(requests);
                assert!(!linger.should_wait(2), "not for a second turn");
                requests += usize::from(more(send));
                waits += 1;
            }
            linger.on_send(requests);
        }
        waits
    }

    #[test]
    fn waiting_that_brings_nothing_becomes_rare() {
        let mut linger = Linger::new();
        assert_eq!(waits(&mut linger, 16, |_| false), 0, "it does not wait at first");
        assert_eq!(waits(&mut linger, 17 * 100, |_| false), 100);
    }

    #[test]
    fn waiting_that_brings_others_goes_on() {
        let mut linger = Linger::new();
        assert_eq!(waits(&mut linger, 17, |_| true), 1);
        assert_eq!(waits(&mut linger, 1000, |_| true), 1000);
        // It brings nothing one time in three: it goes on, too.
        assert!(waits(&mut linger, 300, |send| send % 3 > 0) >= 200);
        // Then they have gone.
        assert!(waits(&mut linger, 1000, |_| false) < 70);
    }

    #[test]
    fn a_call_alone_on_its_connection_does_not_wait() {
        let mut linger = Linger::new();
        waits(&mut linger, 100, |_| true);
        assert!(linger.should_wait(2) && !linger.should_wait(1));
    }
}
