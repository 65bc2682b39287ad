//! What etcd had at each of its revisions, read from etcd itself: a view is checked against it.

use std::collections::BTreeMap;

use etcd_client::{Client, EventType, WatchOptions};
use hither_core::{Address, Instance, ServiceName, Snapshot};
use tokio::time::timeout;

use crate::support::LONG;

/// The instances of one service: where each id is, and its weight.
pub(crate) type Content = BTreeMap<String, String>;

/// The history of one service, through all the pasts that its etcd had: a wiped one begins anew.
#[derive(Debug)]
pub(crate) struct History {
    prefix: String,
    pasts: Vec<Past>,
}

#[derive(Debug, Default)]
struct Past {
    events: Vec<Event>,
    /// Up to here it has been read.
    read: i64,
}

#[derive(Debug)]
struct Event {
    revision: i64,
    id: String,
    /// `None` for a record that is gone, or that is no instance.
    content: Option<String>,
}

impl History {
    pub(crate) fn new(service: &ServiceName) -> Self {
        Self { prefix: format!("{service}/"), pasts: vec![Past::default()] }
    }

    /// From now on etcd has another past.
    pub(crate) fn begin_anew(&mut self) {
        self.pasts.push(Past::default());
    }

    /// Reads on up to now. Has to be done before a compaction, or before etcd loses what it has.
    pub(crate) async fn read(&mut self, client: &Client) {
        let Some(past) = self.pasts.last_mut() else { return };
        let now = client.clone().get("any", None).await.unwrap().header().unwrap().revision();
        if past.read >= now {
            return;
        }
        let options = WatchOptions::new().with_all_keys().with_start_revision(past.read + 1).with_fragment();
        let mut watch = client.watch_client().max_decoding_message_size(256 << 20);
        let mut stream = timeout(LONG, watch.watch("\0", Some(options))).await.unwrap().unwrap();
        while past.read < now {
            let response = timeout(LONG, stream.message()).await.unwrap().unwrap().unwrap();
            assert!(!response.canceled(), "the history cannot be read: {response:?}");
            for event in response.events() {
                let kv = event.kv().unwrap();
                past.read = past.read.max(kv.mod_revision());
                let Some(id) = kv.key_str().ok().and_then(|key| key.strip_prefix(&self.prefix)) else {
                    continue;
                };
                let content = match event.event_type() {
                    EventType::Put => described(kv.value()),
                    EventType::Delete => None,
                };
                past.events.push(Event { revision: kv.mod_revision(), id: id.to_owned(), content });
            }
        }
    }

    /// What etcd has now, as far as it has been read.
    pub(crate) fn present(&self) -> Content {
        let mut state = StateAt::of(&self.pasts, self.pasts.len() - 1);
        state.advance(i64::MAX);
        state.content
    }

    /// Whether each snapshot is what etcd had at the revision that it was applied at, and none is older than the one
    /// before it. The error names the one that is not.
    pub(crate) fn check<'a>(&self, snapshots: impl IntoIterator<Item = &'a Snapshot>) -> Result<(), String> {
        let (mut at, mut past) = (0, 0);
        let mut state = StateAt::of(&self.pasts, past);
        for snapshot in snapshots {
            let (seen, revision) = (content(snapshot), revision(snapshot));
            let mut tried = Vec::new();
            loop {
                if revision >= at {
                    state.advance(revision);
                    if state.content == seen {
                        at = revision;
                        break;
                    }
                    tried.push(state.content.clone());
                }
                past += 1;
                if past == self.pasts.len() {
                    return Err(format!(
                        "after revision {at} it showed {seen:?} as of {revision}, and not {tried:?}"
                    ));
                }
                (at, state) = (0, StateAt::of(&self.pasts, past));
            }
        }
        Ok(())
    }
}

struct StateAt<'a> {
    rest: std::iter::Peekable<std::slice::Iter<'a, Event>>,
    content: Content,
}

impl<'a> StateAt<'a> {
    fn of(pasts: &'a [Past], past: usize) -> Self {
        Self { rest: pasts[past].events.iter().peekable(), content: Content::new() }
    }

    fn advance(&mut self, revision: i64) {
        while let Some(event) = self.rest.next_if(|event| event.revision <= revision) {
            match &event.content {
                Some(content) => self.content.insert(event.id.clone(), content.clone()),
                None => self.content.remove(&event.id),
            };
        }
    }
}

/// The address of a record, if it has one, and its weight.
fn described(value: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(value).ok()?;
    let address: Address = value["Addr"].as_str()?.parse().ok()?;
    Some(format!("{address} weighs {}", value["Hither"]["weight"].as_u64().unwrap_or(1)))
}

pub(crate) fn content(snapshot: &Snapshot) -> Content {
    let described = |instance: &Instance| format!("{} weighs {}", instance.address(), instance.weight());
    snapshot.iter().map(|instance| (instance.id().to_string(), described(instance))).collect()
}

/// The revision that a snapshot was taken at.
fn revision(snapshot: &Snapshot) -> i64 {
    let text = snapshot.revision().unwrap().as_str();
    text.split('.').nth(1).unwrap().parse().unwrap()
}
