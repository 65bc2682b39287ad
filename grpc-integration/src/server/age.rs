//! The maximum age of a connection (gRFC A9): GOAWAY at its age, and its end after a grace.
//!
//! The frame is put between two frames of hyper's, which offers no way to end one connection. It says that no stream is
//! refused: those that cross it are served, so nothing is lost, and the second GOAWAY with the last stream is not needed.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::time::{Sleep, sleep};

use crate::http2::frame::{GOAWAY, HEADER_LEN};

/// GOAWAY without an error, whose last stream is the highest there can be.
const FRAME: [u8; HEADER_LEN + 8] = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
/// As good as never; durations above it could overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// The settings of the age.
#[derive(Debug, Clone, Copy)]
pub(super) struct MaxAge {
    pub(super) age: Duration,
    pub(super) grace: Option<Duration>,
}

impl MaxAge {
    /// Spreads the ends of connections that were made together: ±10 %.
    fn with_jitter(self, random: f64) -> Duration {
        self.age.min(LONGEST).mul_f64(0.9 + 0.2 * random)
    }
}

/// The age of one connection.
#[derive(Debug)]
pub(super) struct Age {
    until_goaway: Pin<Box<Sleep>>,
    grace: Option<Duration>,
    until_end: Option<Pin<Box<Sleep>>>,
    /// GOAWAY is to be sent, so many bytes of which were written.
    goaway: Option<usize>,
    is_old: bool,
}

impl Age {
    pub(super) fn new(max: MaxAge) -> Self {
        Self {
            until_goaway: Box::pin(sleep(max.with_jitter(fastrand::f64()))),
            grace: max.grace,
            until_end: None,
            goaway: None,
            is_old: false,
        }
    }

    /// Returns whether the grace is over. Wakes the task when something is to be done.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.is_old && self.until_goaway.as_mut().poll(cx).is_ready() {
            self.is_old = true;
            self.goaway = Some(0);
            self.until_end = self.grace.map(|grace| Box::pin(sleep(grace.min(LONGEST))));
        }
        self.until_end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready())
    }

    /// Whether GOAWAY is still to be written.
    pub(super) fn owes_goaway(&self) -> bool {
        self.goaway.is_some()
    }

    /// Writes GOAWAY, between two frames.
    pub(super) fn poll_write_goaway<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(written) = self.goaway {
            let rest = FRAME.get(written..).unwrap_or_default();
            if rest.is_empty() {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                self.goaway = None;
                tracing::debug!("connection has reached its maximum age");
            } else {
                match ready!(Pin::new(&mut *stream).poll_write(cx, rest))? {
                    0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    more => self.goaway = Some(written + more),
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_has_a_jitter_of_ten_percent() {
        let max = |age| MaxAge { age, grace: None };
        let minute = max(Duration::from_secs(60));
        assert_eq!(minute.with_jitter(0.0), Duration::from_secs(54));
        assert_eq!(minute.with_jitter(0.5), Duration::from_secs(60));
        assert_eq!(minute.with_jitter(1.0), Duration::from_secs(66));
        assert!(max(Duration::MAX).with_jitter(1.0) > LONGEST, "and does not overflow");
    }
}
