//! The responses of one watch: whole ones, of this watch, in the right order; anything else is an error.

use std::time::Duration;

use etcd_client::proto::{PbEvent, PbWatchResponse};
use tokio::time::Instant;

use super::Position;
use super::connection::LARGEST_MESSAGE;

/// The most bytes of a response in parts. etcd puts up to a thousand revisions into one response to a watch that catches up,
/// so with large values under the prefix a valid one is beyond the largest message.
const LARGEST_RESPONSE: usize = 4 * LARGEST_MESSAGE;

/// Checks the responses of one watch, and joins those that come in parts (fragments). No IO.
#[derive(Debug)]
pub(super) struct Responses {
    watch_id: i64,
    /// The newest position of a response.
    newest: Position,
    /// The events so far of a response in several parts.
    parts: Vec<PbEvent>,
    parts_bytes: usize,
    /// The deadline of its last part.
    parts_until: Option<Instant>,
    within: Duration,
}

/// Why a watch is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WatchEnd {
    Cancelled { reason: String, compact_revision: i64 },
    AnotherHistory,
    ProtocolViolation(&'static str),
}

/// The watch of a response to all watches on a stream, of which there is one.
const ALL_WATCHES: i64 = -1;

impl Responses {
    /// Checks the first response of a watch that begins at `since`.
    pub(super) fn created(
        response: &PbWatchResponse,
        since: Position,
        within: Duration,
    ) -> Result<Self, WatchEnd> {
        let at = position(response)?;
        if !response.created || !response.events.is_empty() {
            return Err(WatchEnd::ProtocolViolation("the first response does not create the watch"));
        }
        // Asked for the future, etcd waits for it in silence: as after a restart with older data, or none.
        if !since.leads_to(at) {
            return Err(WatchEnd::AnotherHistory);
        }
        let watch_id = response.watch_id;
        Ok(Self { watch_id, newest: at, parts: Vec::new(), parts_bytes: 0, parts_until: None, within })
    }

    /// Checks a response, and returns the events of a whole one: none for a progress notification or a part.
    pub(super) fn on_response(&mut self, response: PbWatchResponse) -> Result<Vec<PbEvent>, WatchEnd> {
        let at = position(&response)?;
        if at.cluster != self.newest.cluster {
            return Err(WatchEnd::AnotherHistory);
        }
        // Some versions go back in time: a response may be from before another one.
        let newest = Position { revision: at.revision.max(self.newest.revision), ..at };
        if !self.newest.leads_to(newest) {
            return Err(WatchEnd::ProtocolViolation("the watch response has an implausible revision"));
        }
        self.newest = newest;
        let kvs = response.events.iter().filter_map(|event| event.kv.as_ref());
        if kvs.map(|kv| kv.mod_revision).any(|revision| !(1..=at.revision).contains(&revision)) {
            return Err(WatchEnd::ProtocolViolation(
                "an event has a revision below 1 or above its response's",
            ));
        }
        if self.parts_until.is_some_and(|until| until <= Instant::now()) {
            return Err(WatchEnd::ProtocolViolation("the watch response in parts exceeded its time limit"));
        }
        match response.watch_id {
            watch_id if watch_id == self.watch_id => self.join(response),
            ALL_WATCHES if response.events.is_empty() => Ok(Vec::new()),
            _ => Err(WatchEnd::ProtocolViolation("the watch response belongs to another watch")),
        }
    }

    /// Adds the events of one part, and returns all of them with the last one.
    fn join(&mut self, response: PbWatchResponse) -> Result<Vec<PbEvent>, WatchEnd> {
        if !response.fragment && self.parts_until.is_none() {
            return Ok(response.events);
        }
        self.parts_until.get_or_insert(Instant::now() + self.within);
        self.parts_bytes += SMALLEST + response.events.iter().map(size).sum::<usize>();
        if self.parts_bytes > LARGEST_RESPONSE {
            return Err(WatchEnd::ProtocolViolation("the watch response in parts exceeded its size limit"));
        }
        self.parts.extend(response.events);
        if response.fragment {
            return Ok(Vec::new());
        }
        (self.parts_bytes, self.parts_until) = (0, None);
        Ok(std::mem::take(&mut self.parts))
    }
}

/// A response, or an event, takes at least this many bytes of memory.
const SMALLEST: usize = 64;

fn size(event: &PbEvent) -> usize {
    let kvs = [&event.kv, &event.prev_kv].into_iter().flatten();
    SMALLEST + kvs.map(|kv| kv.key.len() + kv.value.len()).sum::<usize>()
}

/// The position of a response, unless it ends the watch.
fn position(response: &PbWatchResponse) -> Result<Position, WatchEnd> {
    // Before anything else: a refusal is `created` and `canceled`, and compaction does not set `canceled` before etcd 3.3.
    if response.canceled || response.compact_revision > 0 {
        let (reason, compact_revision) = (response.cancel_reason.clone(), response.compact_revision);
        return Err(WatchEnd::Cancelled { reason, compact_revision });
    }
    let header =
        response.header.as_ref().ok_or(WatchEnd::ProtocolViolation("the watch response has no header"))?;
    Ok(Position::of(header))
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbKeyValue, PbResponseHeader};

    use super::*;

    const SINCE: Position = Position { cluster: 1, revision: 10 };

    fn response(revision: i64, events: &[i64]) -> PbWatchResponse {
        let header = PbResponseHeader { cluster_id: 1, revision, ..PbResponseHeader::default() };
        let event = |mod_revision: &i64| PbEvent {
            kv: Some(PbKeyValue { mod_revision: *mod_revision, ..PbKeyValue::default() }),
            ..PbEvent::default()
        };
        let events = events.iter().map(event).collect();
        PbWatchResponse { header: Some(header), watch_id: 7, events, ..PbWatchResponse::default() }
    }

    fn first() -> PbWatchResponse {
        PbWatchResponse { created: true, ..response(10, &[]) }
    }

    fn created() -> Responses {
        Responses::created(&first(), SINCE, Duration::from_secs(30)).unwrap()
    }

    fn revisions(events: &[PbEvent]) -> Vec<i64> {
        events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision)).collect()
    }

    #[test]
    fn a_watch_begins_with_its_creation_in_the_history_of_the_listing() {
        let begin = |response| Responses::created(&response, SINCE, Duration::ZERO).map(drop);
        assert_eq!(begin(first()), Ok(()));
        for invalid in [
            response(11, &[11]),
            PbWatchResponse { created: true, ..response(11, &[11]) },
            PbWatchResponse { header: None, ..first() },
        ] {
            assert!(matches!(begin(invalid), Err(WatchEnd::ProtocolViolation(_))));
        }
        for (cluster_id, revision) in [(1, 9), (2, 10), (1, 0), (1, 1 << 62), (1, -1)] {
            let header = Some(PbResponseHeader { cluster_id, revision, ..PbResponseHeader::default() });
            let begun = begin(PbWatchResponse { header, ..first() });
            assert_eq!(begun, Err(WatchEnd::AnotherHistory), "{cluster_id} {revision}");
        }
    }

    #[test]
    fn a_refusal_is_created_and_cancelled_and_old_versions_do_not_cancel_for_a_compaction() {
        let refused =
            PbWatchResponse { canceled: true, cancel_reason: "no".to_owned(), watch_id: -1, ..first() };
        let of =
            |response: &PbWatchResponse| Responses::created(response, SINCE, Duration::ZERO).unwrap_err();
        assert_eq!(of(&refused), WatchEnd::Cancelled { reason: "no".to_owned(), compact_revision: 0 });
        let compacted = PbWatchResponse { compact_revision: 12, header: None, ..first() };
        let expected = WatchEnd::Cancelled { reason: String::new(), compact_revision: 12 };
        assert_eq!(of(&compacted), expected);
        assert_eq!(created().on_response(compacted).unwrap_err(), expected);
    }

    #[test]
    fn responses_of_this_watch_and_progress_notifications_are_accepted() {
        let mut watch = created();
        assert_eq!(revisions(&watch.on_response(response(12, &[11, 12])).unwrap()), [11, 12]);
        let progress = PbWatchResponse { watch_id: ALL_WATCHES, ..response(15, &[]) };
        assert_eq!(watch.on_response(progress), Ok(Vec::new()));
        let late = watch.on_response(response(13, &[13])).unwrap();
        assert_eq!(revisions(&late), [13], "progress may run ahead of the events");
        assert_eq!(revisions(&watch.on_response(response(9, &[9])).unwrap()), [9], "back in time");
    }

    #[test]
    fn a_response_that_violates_the_protocol_is_one_error() {
        let of = |cluster_id, revision| PbWatchResponse {
            header: Some(PbResponseHeader { cluster_id, revision, ..PbResponseHeader::default() }),
            ..response(0, &[])
        };
        for invalid in [
            PbWatchResponse { watch_id: 8, ..response(11, &[11]) },
            PbWatchResponse { watch_id: ALL_WATCHES, ..response(11, &[11]) },
            PbWatchResponse { header: None, ..response(11, &[11]) },
            response(11, &[12]),
            response(11, &[1 << 62]),
            response(11, &[0]),
            response(11, &[-1]),
            response(1 << 62, &[1 << 62]),
            of(1, i64::MAX),
        ] {
            assert!(
                matches!(created().on_response(invalid.clone()), Err(WatchEnd::ProtocolViolation(_))),
                "{invalid:?}"
            );
        }
        assert_eq!(created().on_response(of(2, 11)), Err(WatchEnd::AnotherHistory));
    }

    #[test]
    fn parts_of_a_response_are_joined() {
        let mut watch = created();
        let part = |events: &[i64]| PbWatchResponse { fragment: true, ..response(12, events) };
        assert_eq!(watch.on_response(part(&[])), Ok(Vec::new()));
        assert_eq!(watch.on_response(part(&[11])), Ok(Vec::new()));
        let progress = PbWatchResponse { watch_id: ALL_WATCHES, ..response(12, &[]) };
        assert_eq!(watch.on_response(progress), Ok(Vec::new()), "not a part");
        assert_eq!(revisions(&watch.on_response(response(12, &[12])).unwrap()), [11, 12]);
        assert_eq!(revisions(&watch.on_response(response(13, &[13])).unwrap()), [13]);
    }

    #[tokio::test(start_paused = true)]
    async fn parts_without_end_are_bounded_in_bytes_and_time() {
        let mut part = PbWatchResponse { fragment: true, ..response(12, &[11]) };
        let mut watch = created();
        let accepted = (0..).take_while(|_| watch.on_response(part.clone()).is_ok()).count();
        assert!((100_000..=LARGEST_RESPONSE / SMALLEST).contains(&accepted), "{accepted}");

        part.events[0].kv.as_mut().unwrap().value = vec![0; 1 << 20];
        let mut watch = created();
        assert_eq!((0..).take_while(|_| watch.on_response(part.clone()).is_ok()).count(), 255);

        let mut watch = created();
        let progress = PbWatchResponse { watch_id: ALL_WATCHES, ..response(12, &[]) };
        assert!(watch.on_response(part).is_ok());
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(watch.on_response(progress.clone()).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(matches!(watch.on_response(progress), Err(WatchEnd::ProtocolViolation(_))));
    }
}
