//! Bounds how much is logged of events that may befall all instances at once.

use std::time::Duration;

use tokio::time::Instant;

/// How many events are logged one by one within a window. The others are counted in one line at its end.
const LINES: usize = 10;
const WINDOW: Duration = Duration::from_secs(30);

/// Admits so many events one by one, and counts the others until the window has passed.
#[derive(Debug, Default)]
pub(super) struct LogWindow {
    began: Option<Instant>,
    admitted: usize,
    suppressed: usize,
}

impl LogWindow {
    /// Returns whether this event is to be logged by itself.
    pub(super) fn admit(&mut self) -> bool {
        if self.suppressed == 0 && self.began.is_none_or(|began| began.elapsed() >= WINDOW) {
            *self = Self { began: Some(Instant::now()), ..Self::default() };
        }
        let admitted = self.admitted < LINES;
        if admitted {
            self.admitted += 1;
        } else {
            self.suppressed += 1;
        }
        admitted
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.began.filter(|_| self.suppressed > 0)?.checked_add(WINDOW)
    }

    /// Returns the number of suppressed events if it is due, and starts a new window.
    pub(super) fn summary(&mut self) -> Option<usize> {
        if self.due()? > Instant::now() {
            return None;
        }
        self.began = None;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ten_events_are_admitted_in_half_a_minute_and_the_others_counted() {
        let mut window = LogWindow::default();
        for _ in 0..3 {
            let admitted = (0..200).filter(|_| window.admit()).count();
            assert_eq!((admitted, window.summary()), (LINES, None));
            advance(WINDOW).await;
            assert_eq!(window.summary(), Some(190));
            assert_eq!((window.summary(), window.due()), (None, None));
        }
        // Few events never need a summary.
        for _ in 0..20 {
            assert!(window.admit());
            assert_eq!(window.due(), None);
            sleep(WINDOW / 5).await;
        }
    }
}
