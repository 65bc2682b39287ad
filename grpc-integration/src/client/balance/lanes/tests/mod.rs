//! Lanes without a channel.

mod calls;
mod changes;
mod connecting;
mod ejected;
mod panics;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use hither_core::HasId;
use http::{Extensions, HeaderMap, HeaderValue};
use tonic::Code;

use super::super::policy::{CallInfo, Outcome, Pick};
use super::*;
use crate::client::ready_instance::Picked;

/// An instance of a lane, by which its id begins; of the default lane if that is empty.
fn described(lane: &str, number: usize, weight: u32) -> Arc<Instance> {
    let id = format!("{lane}-{number:03}").parse().unwrap();
    let instance = Instance::new("h:1".parse().unwrap()).with_id(id).with_weight(weight);
    Arc::new(if lane.is_empty() { instance } else { instance.with_metadata("lane", lane) })
}

fn instances(lanes: &[(&str, u32)]) -> SortedById<ReadyInstance> {
    let numbered = lanes.iter().enumerate();
    numbered.map(|(number, (lane, weight))| ReadyInstance::new(described(lane, number, *weight))).collect()
}

/// What the policies of all lanes were asked and told.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, event: &str, instances: &mut dyn Iterator<Item = &ReadyInstance>) {
        let ids: Vec<_> = instances.map(|instance| instance.id().as_str()).collect();
        self.0.lock().unwrap().push(format!("{event} {}", ids.join(" ")));
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Picks the first instance, is due so long after each picker, and panics over an instance of number 13, and in `due` if that is
/// to be after 13 seconds.
#[derive(Debug)]
struct First {
    log: Log,
    after: Option<Duration>,
    due: Option<Instant>,
}

#[derive(Debug)]
struct FirstPicker(Log, ReadyInstance);

impl LoadBalancingPolicy for First {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        assert!(!ready.iter().any(|instance| instance.id().as_str().ends_with("-013")), "a bug");
        self.log.add("picker", &mut ready.iter());
        self.due = self.after.map(|after| Instant::now() + after);
        Arc::new(FirstPicker(self.log.clone(), ready[0].clone()))
    }

    fn due(&self) -> Option<Instant> {
        assert_ne!(self.after, Some(Duration::from_secs(13)), "a bug");
        self.due
    }

    fn check(&self) -> Result<(), String> {
        match self.after {
            Some(Duration::ZERO) => Err("first".to_owned()),
            _ => Ok(()),
        }
    }
}

impl Picker for FirstPicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        Pick::Instance(Picked::from(self.1.clone()).with_token(7))
    }

    fn responding(&self, picked: &Picked, _after: Duration) {
        self.0.add("responding:", &mut [picked.instance()].into_iter());
    }

    fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        assert_eq!(picked.token(), 7);
        let unsent = if outcome.was_sent() { "" } else { "unsent " };
        self.0.add(&format!("{unsent}done by {}:", self.1.id()), &mut [picked.instance()].into_iter());
    }
}

fn lanes() -> (Lanes, Log) {
    due(None)
}

fn due(after: Option<Duration>) -> (Lanes, Log) {
    let log = Log::default();
    let policy = {
        let log = log.clone();
        move || First { log: log.clone(), after, due: None }
    };
    let lanes = Lanes::by_metadata("lane", policy).with_header(HeaderName::from_static("x-lane"));
    (lanes.with_seed(1), log)
}

/// The first letter of the id of what is picked, "-" for the default lane, the text of the failure, or "wait".
fn pick(picker: &dyn Picker, header: Option<&[u8]>, lane: Option<&'static str>) -> String {
    let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
    header.map(|value| headers.insert("x-lane", HeaderValue::from_bytes(value).unwrap()));
    lane.map(|lane| extensions.insert(Lane::new(lane)));
    match picker.pick(&CallInfo::new("/", &headers, &extensions)) {
        Pick::Instance(picked) => picked.instance().id().as_str()[..1].to_owned(),
        Pick::Fail(status) if status.code() == Code::Unavailable => status.message().to_owned(),
        Pick::Wait(_) => "wait".to_owned(),
        pick => panic!("{pick:?}"),
    }
}

/// What is picked for calls of a lane: the ids.
fn picks(picker: &dyn Picker, lane: &'static str) -> BTreeSet<String> {
    let (headers, mut extensions) = (HeaderMap::new(), Extensions::new());
    extensions.insert(Lane::new(lane));
    let pick = |_| match picker.pick(&CallInfo::new("/", &headers, &extensions)) {
        Pick::Instance(picked) => picked.instance().id().to_string(),
        pick => panic!("{pick:?}"),
    };
    (0..100).map(pick).collect()
}

fn ids<const N: usize>(ids: [&str; N]) -> BTreeSet<String> {
    ids.map(str::to_owned).into()
}
