//! The handles of one method's metrics, resolved once for each channel and method.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use http::Extensions;
use metrics::{Counter, Histogram, Key, Label, with_recorder};
use tonic::{Code, GrpcMethod};

use super::names;
use crate::code_name::code_name;

/// The most methods of a channel. A program has as many as its code was generated for; beyond that it makes them up.
const MAX: usize = 1000;
/// What gRPC calls methods whose names may come from anywhere (gRFC A66).
const OTHER: &str = "other";
const CODES: usize = 17;

/// The methods that a channel has called.
///
/// The name is that which generated code puts into the extensions of a call: the path of a call that has none, as a proxy's,
/// may be chosen by a stranger, and would be a new time series each.
#[derive(Debug)]
pub(super) struct Methods {
    target: Arc<str>,
    known: ArcSwap<HashMap<Place, Arc<MethodMetrics>>>,
    adding: Mutex<()>,
    other: Arc<MethodMetrics>,
}

/// Where the two names are in the program, which is quicker to compare than what they are.
type Place = [(usize, usize); 2];

fn place(method: &GrpcMethod<'static>) -> Place {
    [method.service(), method.method()].map(|name| (name.as_ptr() as usize, name.len()))
}

impl Methods {
    pub(super) fn new(target: &Arc<str>) -> Self {
        let other = Arc::new(MethodMetrics::new(OTHER.to_owned(), target));
        Self { target: Arc::clone(target), known: ArcSwap::default(), adding: Mutex::default(), other }
    }

    pub(super) fn of(&self, extensions: &Extensions) -> Arc<MethodMetrics> {
        let Some(method) = extensions.get::<GrpcMethod<'static>>() else { return Arc::clone(&self.other) };
        let known = self.known.load().get(&place(method)).cloned();
        known.unwrap_or_else(|| self.add(method))
    }

    fn add(&self, method: &GrpcMethod<'static>) -> Arc<MethodMetrics> {
        // Each call of a method beyond them comes here.
        let is_full = || self.known.load().len() >= MAX;
        if is_full() {
            return Arc::clone(&self.other);
        }
        let _adding = self.adding.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known.load();
        if let Some(added) = known.get(&place(method)) {
            return Arc::clone(added);
        }
        if is_full() {
            return Arc::clone(&self.other);
        }
        let mut known = HashMap::clone(&known);
        let name = format!("{}/{}", method.service(), method.method());
        let metrics = Arc::new(MethodMetrics::new(name, &self.target));
        known.insert(place(method), Arc::clone(&metrics));
        self.known.store(Arc::new(known));
        metrics
    }
}

/// The handles of one method.
#[derive(Debug)]
pub(super) struct MethodMetrics {
    labels: [Label; 2],
    pub(super) started: Counter,
    /// A status that never occurs makes no time series.
    by_status: [OnceLock<StatusMetrics>; CODES],
    retries: OnceLock<RetryMetrics>,
}

/// The handles of one method whose calls are retried.
#[derive(Debug)]
pub(super) struct RetryMetrics {
    pub(super) retries: Histogram,
    pub(super) hedges: Histogram,
    pub(super) transparent: Histogram,
    pub(super) delay: Histogram,
}

/// The handles of one method and status.
#[derive(Debug)]
pub(super) struct StatusMetrics {
    pub(super) attempt_duration: Histogram,
    pub(super) sent: Histogram,
    pub(super) received: Histogram,
    pub(super) call_duration: Histogram,
}

impl MethodMetrics {
    fn new(method: String, target: &Arc<str>) -> Self {
        let labels = [Label::new(names::METHOD, method), Label::new(names::TARGET, Arc::clone(target))];
        let key = Key::from_parts(names::ATTEMPT_STARTED, labels.to_vec());
        let started = with_recorder(|recorder| recorder.register_counter(&key, &names::METADATA));
        Self { labels, started, by_status: [const { OnceLock::new() }; CODES], retries: OnceLock::new() }
    }

    pub(super) fn at(&self, code: Code) -> &StatusMetrics {
        let index = usize::try_from(i32::from(code)).unwrap_or_default().min(CODES - 1);
        self.by_status[index].get_or_init(|| {
            let status = Label::from_static_parts(names::STATUS, code_name(code));
            let histogram = |name| self.histogram(name, Some(status.clone()));
            StatusMetrics {
                attempt_duration: histogram(names::ATTEMPT_DURATION),
                sent: histogram(names::ATTEMPT_SENT),
                received: histogram(names::ATTEMPT_RECEIVED),
                call_duration: histogram(names::CALL_DURATION),
            }
        })
    }

    pub(super) fn retries(&self) -> &RetryMetrics {
        self.retries.get_or_init(|| RetryMetrics {
            retries: self.histogram(names::RETRIES, None),
            hedges: self.histogram(names::HEDGES, None),
            transparent: self.histogram(names::TRANSPARENT_RETRIES, None),
            delay: self.histogram(names::RETRY_DELAY, None),
        })
    }

    fn histogram(&self, name: &'static str, status: Option<Label>) -> Histogram {
        let key = Key::from_parts(name, self.labels.iter().cloned().chain(status).collect::<Vec<_>>());
        with_recorder(|recorder| recorder.register_histogram(&key, &names::METADATA))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A linker may keep a name within a longer one.
    #[test]
    fn names_that_begin_at_the_same_place_are_of_different_methods() {
        let methods = Methods::new(&"greeter".into());
        let name = "GetAll";
        let [get, get_all] = [&name[..3], name].map(|name| {
            let mut extensions = Extensions::new();
            extensions.insert(GrpcMethod::new("greeter", name));
            methods.of(&extensions).labels[0].value().to_owned()
        });
        assert_eq!((get.as_str(), get_all.as_str()), ("greeter/Get", "greeter/GetAll"));
    }

    #[test]
    fn methods_beyond_the_bound_are_one_and_wait_for_no_other() {
        let methods = Methods::new(&"greeter".into());
        let names: &'static str = Box::leak("m".repeat(MAX + 1).into_boxed_str());
        let of = |number: usize| {
            let mut extensions = Extensions::new();
            extensions.insert(GrpcMethod::new("greeter", &names[number..=number]));
            methods.of(&extensions)
        };
        let first = of(0);
        for number in 1..MAX {
            assert!(!Arc::ptr_eq(&of(number), &methods.other), "{number}");
        }
        assert_eq!(methods.known.load().len(), MAX);
        // A call that asked for it would wait for ever.
        let _adding = methods.adding.lock().unwrap();
        assert!(Arc::ptr_eq(&of(MAX), &methods.other));
        assert!(Arc::ptr_eq(&of(0), &first));
    }
}
