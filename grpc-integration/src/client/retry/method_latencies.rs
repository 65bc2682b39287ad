//! The latencies of each method that has one setting.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use super::latencies::Latencies;

/// The most methods that are measured by themselves: each is 2 KiB.
const MOST: usize = 256;

/// The latencies of each method, by its path: quick methods and slow ones are not mixed up.
#[derive(Debug)]
pub(super) struct MethodLatencies {
    share: f64,
    /// Those that were answered: a path that a stranger makes up is not.
    methods: RwLock<HashMap<Box<str>, Arc<Latencies>>>,
    /// Those beyond the bound.
    others: Latencies,
}

impl MethodLatencies {
    pub(super) fn new(share: f64) -> Self {
        Self { share, methods: RwLock::default(), others: Latencies::new(share) }
    }

    pub(super) fn percentile(&self, path: &str) -> Option<Duration> {
        match self.get(path) {
            Some(latencies) => latencies.percentile(),
            None => self.others.percentile(),
        }
    }

    pub(super) fn record(&self, path: &str, latency: Duration) {
        match self.get(path).or_else(|| self.add(path)) {
            Some(latencies) => latencies.record(latency),
            None => self.others.record(latency),
        }
    }

    fn get(&self, path: &str) -> Option<Arc<Latencies>> {
        self.read().get(path).cloned()
    }

    fn add(&self, path: &str) -> Option<Arc<Latencies>> {
        // Each answer of a method beyond them comes here, and is not to hold up the others.
        if self.read().len() >= MOST {
            return None;
        }
        let mut methods = self.methods.write().unwrap_or_else(PoisonError::into_inner);
        if methods.len() >= MOST {
            return None;
        }
        let latencies = methods.entry(path.into()).or_insert_with(|| Arc::new(Latencies::new(self.share)));
        Some(Arc::clone(latencies))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Box<str>, Arc<Latencies>>> {
        self.methods.read().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_a_method_that_is_known_waits_for_no_other() {
        let latencies = MethodLatencies::new(0.9);
        latencies.record("/a.S/1", Duration::from_millis(1));
        // An answer that wrote would wait for ever.
        let _methods = latencies.methods.read().unwrap();
        latencies.record("/a.S/1", Duration::from_millis(1));
    }

    #[tokio::test(start_paused = true)]
    async fn methods_beyond_the_bound_are_measured_together_and_wait_for_no_writer() {
        let latencies = MethodLatencies::new(0.9);
        for method in 0..MOST + 2 {
            for _ in 0..100 {
                latencies.record(&format!("/a.S/{method}"), Duration::from_millis(method as u64));
            }
        }
        // An answer that wrote would wait for ever.
        let methods = latencies.methods.read().unwrap();
        latencies.record("/a.S/x", Duration::from_millis(1));
        assert_eq!(methods.len(), MOST);
        assert!(latencies.percentile("/a.S/1") < latencies.percentile("/a.S/200"));
        assert!(latencies.percentile("/a.S/256").is_some());
        assert_eq!(latencies.percentile("/a.S/256"), latencies.percentile("/a.S/257"));
    }
}
