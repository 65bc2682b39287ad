//! Watches of an odd etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::proto::{PbEvent, PbKeyValue, PbRangeResponse, PbWatchRequestUnion, PbWatchResponse};
use hither_core::{Discovery, ErrorKind};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::support::fake::{Answer, Fake, Script, created, event, events, header, kv, progress};
use crate::support::{LONG, comes_to, ends, ids, next, watch};
use crate::{assert_retryable, connect, svc};

/// Ranges answer, watches do not: etcd-io/etcd#15402, #18879, #8401, #7247, go-kratos#241, go-zero#770. Go's watch channel
/// gives the listing too.
#[tokio::test]
async fn if_ranges_succeed_and_watches_fail_the_listing_comes_first_and_then_the_error() {
    let cases: Vec<(&str, Script)> = vec![
        ("hangs", Script::default().hangs_watches()),
        ("never responds", Script::default().watch([])),
        ("fails", Script::default().watch([Answer::Fail(Status::unavailable("etcdserver: no leader"))])),
        ("is not implemented", Script::default().watch([Answer::Fail(Status::unimplemented(""))])),
        ("ends", Script::default().watch([Answer::End])),
        ("ends after it was created", Script::default().watch([Answer::Send(created(10)), Answer::End])),
    ];
    for (what, script) in cases {
        let fake = Fake::start(script).await;
        let registry = connect(fake.config());
        let mut watch = watch(&registry, &svc()).await;
        assert_eq!(ids(&next(&mut watch).await.unwrap().unwrap()), ["a"], "{what}");
        let error = next(&mut watch).await.expect(what).expect_err(what);
        assert!(error.is_retryable(), "{what}: {error:?}");
        assert!(next(&mut watch).await.is_none(), "{what}: after its first error it has ended");
    }
}

#[tokio::test]
async fn a_client_takes_up_listings_although_no_watch_succeeds_and_does_not_flood() {
    let fake =
        Fake::start(Script::default().watch([Answer::Fail(Status::unavailable("etcdserver: no leader"))]))
            .await;
    let view = Discovery::new(connect(fake.config())).service(&svc());
    let update = view.wait_ready(LONG).await.unwrap();
    assert_eq!(update.iter().len(), 1);
    fake.becomes(
        Script::default()
            .range(|_, response| {
                Ok(PbRangeResponse { header: header(12), kvs: vec![kv("svc/b", 12)], ..response })
            })
            .watch([Answer::Fail(Status::unavailable("etcdserver: no leader"))]),
    );
    let mut view = view;
    let changed = async {
        loop {
            let update = view.changed().await.unwrap();
            if update.instances().any(|instance| instance.id().as_str() == "b") {
                return;
            }
        }
    };
    timeout(LONG, changed).await.expect("an old client takes up what was listed");
    let before = fake.counts().ranges;
    sleep(Duration::from_secs(3)).await;
    let ranges = fake.counts().ranges - before;
    assert!(ranges < 30, "{ranges} listings in 3 s");
}

#[tokio::test]
async fn a_watch_that_violates_the_protocol_is_one_error_after_the_listing() {
    let of = |watch_id, events: PbWatchResponse| PbWatchResponse { watch_id, ..events };
    let put = |revision| event("svc/b", revision);
    let cases: Vec<(&str, Vec<PbWatchResponse>)> = vec![
        ("events before created", vec![events(11, [put(11)])]),
        ("events in created", vec![PbWatchResponse { created: true, ..events(11, [put(11)]) }]),
        ("progress before created", vec![progress(10)]),
        ("created without a header", vec![PbWatchResponse { header: None, ..created(10) }]),
        ("created in the past", vec![created(9)]),
        ("created in the far future", vec![created(1 << 62)]),
        ("created at revision 0", vec![created(0)]),
        ("no header", vec![created(10), PbWatchResponse { header: None, ..events(11, [put(11)]) }]),
        ("another watch", vec![created(10), of(7, events(11, [put(11)]))]),
        ("all watches with events", vec![created(10), of(-1, events(11, [put(11)]))]),
        ("the far future", vec![created(10), events(1 << 62, [put(1 << 62)])]),
        ("an event of the far future", vec![created(10), events(11, [put(1 << 62)])]),
        ("an event of the future", vec![created(10), events(11, [put(12)])]),
        ("an event of revision 0", vec![created(10), events(11, [put(0)])]),
        ("an event of revision -1", vec![created(10), events(11, [put(-1)])]),
        ("progress of the far future", vec![created(10), progress(i64::MAX)]),
        ("cancelled", vec![created(10), PbWatchResponse { canceled: true, ..events(11, []) }]),
        (
            "cancelled without a header",
            vec![created(10), PbWatchResponse { canceled: true, ..Default::default() }],
        ),
        // etcd-io/etcd#8231
        (
            "compacted and not cancelled",
            vec![created(10), PbWatchResponse { compact_revision: 10, ..events(11, []) }],
        ),
    ];
    for (what, answers) in cases {
        let fake = Fake::start(Script::default().watch(answers.into_iter().map(Answer::Send))).await;
        // A probe would list too.
        let registry = connect(fake.config().with_probe_interval(LONG));
        let mut watch = watch(&registry, &svc()).await;
        assert_eq!(ids(&next(&mut watch).await.unwrap().unwrap()), ["a"], "{what}");
        let error = next(&mut watch).await.expect(what).expect_err(what);
        assert!(error.is_retryable(), "{what}: {error:?}");
        assert!(next(&mut watch).await.is_none(), "{what}");
        assert_eq!((fake.counts().ranges, fake.counts().watches), (1, 1), "{what}");
    }
}

#[tokio::test]
async fn a_response_of_another_cluster_ends_the_watch() {
    let mut other = events(11, [event("svc/b", 11)]);
    other.header.as_mut().unwrap().cluster_id = 2;
    let fake = Fake::start(Script::default().watch([created(10), other].map(Answer::Send))).await;
    let mut watch = watch(&connect(fake.config()), &svc()).await;
    comes_to(&mut watch, &["a"]).await;
    assert_retryable(&ends(&mut watch).await, "another cluster");
}

#[tokio::test]
async fn events_that_are_none_of_the_service_change_nothing() {
    let unknown = PbEvent { r#type: 9, ..event("svc/c", 11) };
    let nothing = PbEvent { kv: None, ..PbEvent::default() };
    let odd = events(13, [unknown, nothing, event("other/x", 12), event("svcx/y", 12), event("", 12)]);
    let fake = Fake::start(
        Script::default().watch([created(10), odd, events(14, [event("svc/b", 14)])].map(Answer::Send)),
    )
    .await;
    let mut watch = watch(&connect(fake.config()), &svc()).await;
    assert_eq!(ids(&next(&mut watch).await.unwrap().unwrap()), ["a"]);
    assert_eq!(ids(&next(&mut watch).await.unwrap().unwrap()), ["a", "b"]);
}

#[tokio::test]
async fn a_watch_has_the_id_that_the_server_chooses_and_may_be_created_twice() {
    let of = |response| PbWatchResponse { watch_id: 1 << 40, ..response };
    let answers = [
        of(created(10)),
        of(created(10)),
        progress(10),
        of(events(10, [])),
        of(events(11, [event("svc/b", 11)])),
    ];
    let fake = Fake::start(Script::default().watch(answers.map(Answer::Send))).await;
    let mut watch = watch(&connect(fake.config()), &svc()).await;
    assert_eq!(ids(&next(&mut watch).await.unwrap().unwrap()), ["a"]);
    assert_eq!(ids(&next(&mut watch).await.unwrap().unwrap()), ["a", "b"]);
}

#[tokio::test]
async fn fragments_without_end_are_bounded() {
    let large = PbEvent {
        kv: Some(PbKeyValue { value: vec![b'x'; 1 << 20], ..kv("svc/b", 11) }),
        ..PbEvent::default()
    };
    for (what, events) in [("large", events(11, [large])), ("small", events(11, [event("svc/b", 11)]))] {
        let part = PbWatchResponse { fragment: true, ..events };
        let fake =
            Fake::start(Script::default().watch([Answer::Send(created(10)), Answer::Forever(part)])).await;
        let mut watch = watch(&connect(fake.config()), &svc()).await;
        assert_eq!(ids(&next(&mut watch).await.unwrap().unwrap()), ["a"]);
        let error = next(&mut watch).await.expect(what).expect_err(what);
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{what}: {error:?}");
    }
}

#[tokio::test]
async fn a_resync_that_has_more_for_ever_ends_the_watch() {
    let page = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start(Script::default()).await;
    let config = fake.config().with_resync_interval(Duration::from_millis(300));
    let mut watch = watch(&connect(config), &svc()).await;
    comes_to(&mut watch, &["a"]).await;
    fake.becomes(Script::default().range(move |request, response| {
        if request.count_only {
            return Ok(response);
        }
        let number = page.fetch_add(1, Ordering::Relaxed);
        Ok(PbRangeResponse { kvs: vec![kv(&format!("svc/{number:08}"), 9)], more: true, ..response })
    }));
    assert_retryable(&ends(&mut watch).await, "a resync without end");
}

#[tokio::test]
async fn a_resync_from_another_history_ends_the_watch() {
    for revision in [0, 9, 1 << 62] {
        let fake = Fake::start(Script::default()).await;
        let config = fake.config().with_resync_interval(Duration::from_millis(300));
        let mut watch = watch(&connect(config), &svc()).await;
        comes_to(&mut watch, &["a"]).await;
        fake.becomes(Script::default().range(move |_, response| {
            Ok(PbRangeResponse { header: header(revision), kvs: Vec::new(), ..response })
        }));
        let error = loop {
            match next(&mut watch).await.unwrap() {
                Ok(snapshot) => assert_eq!(ids(&snapshot), ["a"], "never an empty view"),
                Err(error) => break error,
            }
        };
        assert_retryable(&error, "another history");
    }
}

/// etcd3-py#61, etcd-cpp-apiv3#43: a compaction as clients have missed it.
#[tokio::test]
async fn a_watch_of_a_compacted_revision_ends() {
    let compacted =
        PbWatchResponse { canceled: true, compact_revision: 19, header: header(0), ..Default::default() };
    let fake = Fake::start(Script::default().watch([created(10), compacted].map(Answer::Send))).await;
    let mut watch = watch(&connect(fake.config()), &svc()).await;
    comes_to(&mut watch, &["a"]).await;
    let error = ends(&mut watch).await;
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("compacted"), "{error}");
}

/// etcd-io/etcd#19296, #9988: behind its proxy a watch may stay silent for ever, although it was created. etcd-client#48: and
/// its user never learns.
#[tokio::test]
async fn a_watch_that_is_created_and_then_silent_takes_up_what_a_listing_shows_and_ends() {
    let fake = Fake::start(Script::default().watch_stream(|request| match request {
        PbWatchRequestUnion::CreateRequest(_) => vec![Answer::Send(created(10))],
        _ => vec![],
    }))
    .await;
    let mut watch = watch(&connect(fake.config()), &svc()).await;
    comes_to(&mut watch, &["a"]).await;
    let silent = fake.served_script();
    fake.becomes(silent.range(|_, response| {
        Ok(PbRangeResponse { header: header(12), kvs: vec![kv("svc/b", 12)], ..response })
    }));
    comes_to(&mut watch, &["b"]).await;
    assert_eq!(ends(&mut watch).await.kind(), ErrorKind::Timeout);
}
