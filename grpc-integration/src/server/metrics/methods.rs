//! The handles of one method's metrics, resolved once for each layer and method.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use metrics::{Counter, Histogram, Key, Label, with_recorder};
use tonic::Code;

use super::names;
use crate::code_name::code_name;

/// The most methods of a server.
const MAX: usize = 1000;
/// What gRPC calls methods whose names may come from anywhere (gRFC A66).
const OTHER: &str = "other";
const CODES: usize = 17;

/// The methods of a server, by their paths.
///
/// A layer does not know which methods there are, and a client may call any. So a method is known once it has answered a call
/// with more than an error: what a stranger makes up has no other answer.
#[derive(Debug)]
pub(super) struct Methods {
    known: RwLock<HashMap<String, Arc<MethodMetrics>>>,
    other: Arc<MethodMetrics>,
}

impl Methods {
    pub(super) fn new() -> Self {
        Self { known: RwLock::default(), other: Arc::new(MethodMetrics::new(OTHER.to_owned())) }
    }

    pub(super) fn known(&self, path: &str) -> Option<Arc<MethodMetrics>> {
        self.read().get(path).cloned()
    }

    /// Returns those of a method that exists.
    pub(super) fn add(&self, path: String) -> Arc<MethodMetrics> {
        // Each call of a method beyond them comes here, and is not to hold up the others.
        if self.read().len() >= MAX {
            return self.known(&path).unwrap_or_else(|| self.other());
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(added) = known.get(&path) {
            return Arc::clone(added);
        }
        if known.len() >= MAX {
            return self.other();
        }
        let name = path.strip_prefix('/').unwrap_or(&path).to_owned();
        let metrics = Arc::new(MethodMetrics::new(name));
        known.insert(path, Arc::clone(&metrics));
        metrics
    }

    pub(super) fn other(&self) -> Arc<MethodMetrics> {
        Arc::clone(&self.other)
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<String, Arc<MethodMetrics>>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handles of one method.
#[derive(Debug)]
pub(super) struct MethodMetrics {
    method: Label,
    pub(super) started: Counter,
    /// A status that never occurs makes no time series.
    by_status: [OnceLock<StatusMetrics>; CODES],
}

/// The handles of one method and status.
#[derive(Debug)]
pub(super) struct StatusMetrics {
    pub(super) duration: Histogram,
    pub(super) sent: Histogram,
    pub(super) received: Histogram,
}

impl MethodMetrics {
    fn new(method: String) -> Self {
        let method = Label::new(names::METHOD, method);
        let key = Key::from_parts(names::STARTED, vec![method.clone()]);
        let started = with_recorder(|recorder| recorder.register_counter(&key, &names::METADATA));
        Self { method, started, by_status: [const { OnceLock::new() }; CODES] }
    }

    pub(super) fn at(&self, code: Code) -> &StatusMetrics {
        let index = usize::try_from(i32::from(code)).unwrap_or_default().min(CODES - 1);
        self.by_status[index].get_or_init(|| {
            let histogram = |name| {
                let status = Label::from_static_parts(names::STATUS, code_name(code));
                let key = Key::from_parts(name, vec![self.method.clone(), status]);
                with_recorder(|recorder| recorder.register_histogram(&key, &names::METADATA))
            };
            StatusMetrics {
                duration: histogram(names::DURATION),
                sent: histogram(names::SENT),
                received: histogram(names::RECEIVED),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_beyond_the_bound_are_one_and_wait_for_no_writer() {
        let methods = Methods::new();
        for number in 0..MAX {
            assert!(!Arc::ptr_eq(&methods.add(format!("/a.B/{number}")), &methods.other), "{number}");
        }
        // A call that wrote would wait for ever.
        let _reading = methods.known.read().unwrap();
        assert!(Arc::ptr_eq(&methods.add("/a.B/x".to_owned()), &methods.other));
        assert!(!Arc::ptr_eq(&methods.add("/a.B/1".to_owned()), &methods.other));
    }
}
