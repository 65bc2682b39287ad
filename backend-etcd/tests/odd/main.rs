//! Odd etcds and proxies: each is one clear error, never an empty service, never a flood, never a panic.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[path = "../support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::proto::{
    PbEvent, PbKeyValue, PbLeaseGrantResponse, PbLeaseKeepAliveResponse, PbRangeResponse, PbTxnResponse,
    PbWatchRequestUnion, PbWatchResponse,
};
use futures_util::StreamExt;
use hither_core::{
    Catalog, Claim, Discovery, Error, ErrorKind, Registrar, RegistrationConfig, RegistrationHandle,
    RegistrationStatus, Resolver, ServiceName, keep_registered,
};
use hither_etcd::{EtcdConfig, EtcdRegistry};
use support::fake::{Answer, Fake, Script, created, event, events, header, kv, progress};
use support::{LONG, comes_to, ends, hasty, ids, instance, next, registration, watch};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

fn svc() -> ServiceName {
    "svc".parse().unwrap()
}

fn connect(config: EtcdConfig) -> EtcdRegistry {
    EtcdRegistry::connect(config).unwrap()
}

async fn resolve(fake: &Fake) -> Result<Vec<String>, Error> {
    let registry = connect(fake.config());
    let snapshot = timeout(LONG, registry.resolve(&svc())).await.expect("it ends")?;
    Ok(ids(&snapshot).into_iter().map(str::to_owned).collect())
}

/// An error that a caller may retry, and that is no mistake of theirs.
fn assert_nonsense(error: &Error, what: &str) {
    assert!(error.is_retryable(), "{error:?}");
    assert!([ErrorKind::InvalidData, ErrorKind::Unavailable].contains(&error.kind()), "{what}: {error:?}");
}

// --- The fake itself ---------------------------------------------------------------------------------------------

#[tokio::test]
async fn the_fake_as_such_is_an_etcd() {
    let fake = Fake::start(Script::default()).await;
    assert_eq!(resolve(&fake).await.unwrap(), ["a"]);
    let registry = connect(fake.config());
    let mut lease =
        registry.register(&registration(&svc(), instance("10.0.0.1:80")), Claim::TakeOver).await.unwrap();
    lease.renew().await.unwrap();
    let mut watch = watch(&registry, &svc()).await;
    comes_to(&mut watch, &["10.0.0.1:80", "a"]).await;
    // Probed, and answered.
    assert!(timeout(Duration::from_secs(1), watch.next()).await.is_err());
    lease.revoke().await.unwrap();
}

// --- Ranges -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_range_that_has_more_for_ever_ends() {
    let page = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start(Script::default().range(move |_, response| {
        let number = page.fetch_add(1, Ordering::Relaxed);
        Ok(PbRangeResponse { kvs: vec![kv(&format!("svc/{number:08}"), 9)], more: true, ..response })
    }))
    .await;
    let error = resolve(&fake).await.unwrap_err();
    assert_nonsense(&error, "more for ever");
    assert_eq!(fake.counts().ranges, 1000);
    let services = timeout(LONG, connect(fake.config()).services(None)).await.unwrap();
    assert_nonsense(&services.unwrap_err(), "more for ever");
}

#[tokio::test]
async fn a_range_that_has_more_for_ever_and_takes_its_time_ends() {
    let page = Arc::new(AtomicUsize::new(0));
    let script = Script::default().range_delay(Duration::from_millis(50));
    let fake = Fake::start(script.range(move |_, response| {
        let number = page.fetch_add(1, Ordering::Relaxed);
        Ok(PbRangeResponse { kvs: vec![kv(&format!("svc/{number:08}"), 9)], more: true, ..response })
    }))
    .await;
    let since = Instant::now();
    assert_nonsense(&resolve(&fake).await.unwrap_err(), "slow pages");
    // Ten times the request timeout of half a second.
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

#[tokio::test]
async fn pages_that_lead_nowhere_are_one_error() {
    type Kvs = fn() -> Vec<PbKeyValue>;
    let cases: [(&str, Kvs); 6] = [
        ("an empty page with more", Vec::new),
        ("the same page again", || vec![kv("svc/a", 9)]),
        ("a page out of order", || vec![kv("svc/b", 9), kv("svc/a", 9)]),
        ("the same key twice", || vec![kv("svc/a", 9), kv("svc/a", 9)]),
        ("a page before the range", || vec![kv("a/a", 9)]),
        ("a page behind the range", || vec![kv("svc/a", 9), kv("svd/a", 9)]),
    ];
    for (what, kvs) in cases {
        let script = Script::default()
            .range(move |_, response| Ok(PbRangeResponse { kvs: kvs(), more: true, ..response }));
        let fake = Fake::start(script).await;
        let error = resolve(&fake).await.unwrap_err();
        assert_nonsense(&error, what);
        assert!(fake.counts().ranges <= 2, "{what}: {:?}", fake.counts());
        let registry = connect(fake.config());
        let error = registry.watch(&svc()).await.map(drop).expect_err(what);
        assert_nonsense(&error, what);
    }
}

#[tokio::test]
async fn a_whole_page_in_disorder_and_with_foreign_keys_is_taken_for_what_it_has() {
    let fake = Fake::start(Script::default().range(|_, response| {
        let kvs = vec![
            kv("svc/b", 9),
            kv("svc/a", 9),
            kv("svc/b", 9),
            kv("other/x", 9),
            kv("svcx/y", 9),
            kv("", 9),
        ];
        Ok(PbRangeResponse { kvs, ..response })
    }))
    .await;
    assert_eq!(resolve(&fake).await.unwrap(), ["a", "b"]);
}

#[tokio::test]
async fn a_range_response_without_a_plausible_header_is_an_error() {
    for (what, header) in [
        ("no header", None),
        ("revision 0", header(0)),
        ("revision -1", header(-1)),
        ("the least", header(i64::MIN)),
    ] {
        let fake = Fake::start(
            Script::default().range(move |_, response| Ok(PbRangeResponse { header, ..response })),
        )
        .await;
        assert_nonsense(&resolve(&fake).await.unwrap_err(), what);
    }
}

#[tokio::test]
async fn pages_of_two_clusters_are_not_put_together() {
    let page = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start(Script::default().range(move |_, mut response| {
        let number = page.fetch_add(1, Ordering::Relaxed);
        response.header.as_mut().unwrap().cluster_id = u64::try_from(number).unwrap();
        Ok(PbRangeResponse { kvs: vec![kv(&format!("svc/{number}"), 9)], more: number == 0, ..response })
    }))
    .await;
    assert_nonsense(&resolve(&fake).await.unwrap_err(), "two clusters");
}

#[tokio::test]
async fn values_of_two_megabytes_are_skipped_and_hide_no_instance() {
    let fake = Fake::start(Script::default().range(|_, mut response| {
        for number in 0..8 {
            let value = vec![b'x'; 2 << 20];
            response.kvs.push(PbKeyValue { value, ..kv(&format!("svc/large{number}"), 9) });
        }
        Ok(response)
    }))
    .await;
    let registry = connect(fake.config().with_request_timeout(Duration::from_secs(20)));
    assert_eq!(ids(&registry.resolve(&svc()).await.unwrap()), ["a"]);
    assert_eq!(registry.skipped_records(), 8);
}

// --- Watches ------------------------------------------------------------------------------------------------------

/// Ranges answer, watches do not: etcd-io/etcd#15402, #18879, #8401, #7247, go-kratos#241, go-zero#770. Go's watch channel
/// gives the listing too.
#[tokio::test]
async fn if_ranges_succeed_and_watches_fail_the_listing_comes_first_and_then_the_error() {
    let cases: Vec<(&str, Script)> = vec![
        ("hangs", Script::default().hangs_watches()),
        ("says nothing", Script::default().watch([])),
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
async fn nonsense_on_a_watch_is_one_error_after_the_listing() {
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
        let mut watch = watch(&connect(fake.config()), &svc()).await;
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
    assert_nonsense(&ends(&mut watch).await, "another cluster");
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
    assert_nonsense(&ends(&mut watch).await, "a resync without end");
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
        assert_nonsense(&error, "another history");
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

// --- Members ------------------------------------------------------------------------------------------------------

/// etcd-io/etcd#8515, #7941, jetcd#208: a client stays with a member that answers with errors.
#[tokio::test]
async fn an_unknown_error_of_a_member_leads_to_the_next_one() {
    for code in [
        Code::Unknown,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Aborted,
        Code::DeadlineExceeded,
        Code::Cancelled,
        Code::Unimplemented,
        Code::ResourceExhausted,
    ] {
        for text in ["etcdserver: something new", "something else", ""] {
            assert_leaves(Status::new(code, text)).await;
        }
    }
    for (code, text) in [
        (Code::DataLoss, "etcdserver: corrupt cluster"),
        (Code::FailedPrecondition, "etcdserver: cluster ID mismatch"),
        (Code::FailedPrecondition, "etcdserver: not leader"),
        (Code::Unavailable, "etcdserver: request timed out, waiting for the applied index took too long"),
    ] {
        assert_leaves(Status::new(code, text)).await;
    }
}

async fn assert_leaves(status: Status) {
    let failing = status.clone();
    let bad = Fake::start(Script::default().range(move |_, _| Err(failing.clone()))).await;
    let good = Fake::start(Script::default()).await;
    let config =
        EtcdConfig::new([bad.endpoint(), good.endpoint()]).with_request_timeout(Duration::from_millis(500));
    let registry = connect(config);
    let mut failures = 0;
    for _ in 0..3 {
        match registry.resolve(&svc()).await {
            Ok(snapshot) => assert_eq!(ids(&snapshot), ["a"]),
            Err(error) => {
                assert!(error.is_retryable() || status.code() == Code::Unimplemented, "{error:?}");
                failures += 1;
            }
        }
    }
    assert!(failures <= 1, "{status:?}: {failures} of 3 calls failed");
}

#[tokio::test]
async fn a_member_without_a_leader_is_passed_over() {
    let alone = Fake::start(Script::default().leader(0)).await;
    let good = Fake::start(Script::default()).await;
    for _ in 0..4 {
        let registry = connect(EtcdConfig::new([alone.endpoint(), good.endpoint()]));
        assert_eq!(ids(&registry.resolve(&svc()).await.unwrap()), ["a"]);
    }
    assert_eq!(alone.counts().ranges, 0);
}

// --- Leases -------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_absurd_granted_ttl_is_bounded_and_overflows_nothing() {
    for ttl in [i64::MAX, 1 << 40] {
        let fake =
            Fake::start(Script::default().grant(move |granted| Ok(PbLeaseGrantResponse { ttl, ..granted })))
                .await;
        let registry = connect(fake.config());
        let registration = registration(&svc(), instance("10.0.0.1:80"));
        let mut lease = registry.register(&registration, Claim::TakeOver).await.unwrap();
        assert!(lease.ttl() <= Duration::from_secs(365 * 24 * 3600), "{:?}", lease.ttl());
        lease.renew().await.unwrap();
        let registered = keep_registered(registry, registration, RegistrationConfig::default());
        timeout(LONG, registered.registered()).await.unwrap().unwrap();
        timeout(LONG, registered.deregister()).await.unwrap().unwrap();
    }
}

/// One emulation of etcd answers with the TTL as the id of the lease: what is put on it never expires.
#[tokio::test]
async fn an_invalid_grant_is_an_error() {
    type Grant = fn(PbLeaseGrantResponse) -> Result<PbLeaseGrantResponse, Status>;
    let cases: [(&str, Grant); 6] = [
        ("no time to live", |granted| Ok(PbLeaseGrantResponse { ttl: 0, ..granted })),
        ("a negative one", |granted| Ok(PbLeaseGrantResponse { ttl: -1, ..granted })),
        ("the least", |granted| Ok(PbLeaseGrantResponse { ttl: i64::MIN, ..granted })),
        ("another id", |granted| Ok(PbLeaseGrantResponse { id: 7, ..granted })),
        ("no id", |granted| Ok(PbLeaseGrantResponse { id: 0, ..granted })),
        ("an error in the response", |granted| {
            Ok(PbLeaseGrantResponse { error: "no".to_owned(), ..granted })
        }),
    ];
    for (what, grant) in cases {
        let fake = Fake::start(Script::default().grant(grant)).await;
        let registry = connect(fake.config());
        let registered =
            registry.register(&registration(&svc(), instance("10.0.0.1:80")), Claim::TakeOver).await;
        assert_nonsense(&registered.expect_err(what), what);
        assert_eq!(fake.counts().grants, 1, "{what}");
    }
}

/// go-kratos#3883, #3464, etcd-rs#59: a registration that is given up after some failures of its renewal, or after one
/// timeout. Whatever the errors are, they are retried without limit, and the lease that was lost in between is replaced.
#[tokio::test]
async fn a_registration_outlives_any_failures_of_its_renewal() {
    for (what, failing) in [
        (
            "no leader",
            Script::default().keep_alive(|_| Some(Err(Status::unavailable("etcdserver: no leader")))),
        ),
        (
            "unknown",
            Script::default().keep_alive(|_| Some(Err(Status::unknown("etcdserver: something new")))),
        ),
        ("silent", Script::default().keep_alive(|_| None)),
        (
            "lost",
            Script::default()
                .grant(|_| Err(Status::internal("no")))
                .keep_alive(|renewed| Some(Ok(PbLeaseKeepAliveResponse { ttl: 0, ..renewed }))),
        ),
    ] {
        let fake = Fake::start(Script::default()).await;
        let registration =
            registration(&svc(), instance("10.0.0.1:80")).with_ttl(Duration::from_secs(1)).unwrap();
        let handle = keep_registered(connect(fake.config()), registration, RegistrationConfig::default());
        timeout(LONG, handle.registered()).await.expect(what).expect(what);
        fake.becomes(failing);
        becomes(&handle, |status| matches!(status, RegistrationStatus::Retrying { .. })).await;
        // Longer than the TTL.
        sleep(Duration::from_secs(2)).await;
        assert!(
            matches!(handle.status(), RegistrationStatus::Retrying { .. }),
            "{what}: {:?}",
            handle.status()
        );
        // No flood: the longest backoff is a fraction of the TTL, here of 1 s.
        assert!(fake.counts().grants < 50, "{what}: {:?}", fake.counts());
        fake.becomes(Script::default());
        becomes(&handle, |status| matches!(status, RegistrationStatus::Registered)).await;
    }
}

async fn becomes(handle: &RegistrationHandle, is_so: impl Fn(&RegistrationStatus) -> bool) {
    let mut statuses = Box::pin(handle.statuses());
    let wanted = async {
        while let Some(status) = statuses.next().await {
            if is_so(&status) {
                return;
            }
        }
        panic!("it stays {:?}", handle.status());
    };
    timeout(LONG, wanted).await.unwrap_or_else(|_| panic!("it is {:?}", handle.status()));
}

#[tokio::test]
async fn lease_ids_that_are_always_taken_are_an_error_after_a_few() {
    let taken = || Status::failed_precondition("etcdserver: lease already exists");
    let fake = Fake::start(Script::default().grant(move |_| Err(taken()))).await;
    let registered = connect(fake.config())
        .register(&registration(&svc(), instance("10.0.0.1:80")), Claim::TakeOver)
        .await;
    assert_nonsense(&registered.err().unwrap(), "every id taken");
    assert!(fake.counts().grants <= 5, "{:?}", fake.counts());
}

#[tokio::test]
async fn a_transaction_that_neither_succeeds_nor_shows_the_record_ends() {
    let fake = Fake::start(
        Script::default()
            .txn(|response| Ok(PbTxnResponse { succeeded: false, responses: Vec::new(), ..response })),
    )
    .await;
    let registry = connect(fake.config());
    let registered = registry.register(&registration(&svc(), instance("10.0.0.1:80")), Claim::IfVacant).await;
    assert_nonsense(&registered.err().unwrap(), "never succeeds");
}

/// etcd-client#87: a response without a time to live means that the lease is gone.
#[tokio::test]
async fn a_renewal_is_believed_only_for_our_lease() {
    let fake = Fake::start(Script::default()).await;
    let registry = connect(fake.config());
    let registration = registration(&svc(), instance("10.0.0.1:80"));
    let mut lease = registry.register(&registration, Claim::TakeOver).await.unwrap();
    for (what, keep_alive) in [
        (
            "another lease",
            Script::default().keep_alive(|renewed| Some(Ok(PbLeaseKeepAliveResponse { id: 7, ..renewed }))),
        ),
        ("silence", Script::default().keep_alive(|_| None)),
        (
            "failure",
            Script::default().keep_alive(|_| Some(Err(Status::internal("etcdserver: something new")))),
        ),
    ] {
        fake.becomes(keep_alive);
        let error = lease.renew().await.expect_err(what);
        assert!(error.is_retryable(), "{what}: {error:?}");
        assert_ne!(error.kind(), ErrorKind::LeaseExpired, "{what}");
        fake.becomes(Script::default());
        lease.renew().await.expect(what);
    }
    fake.becomes(
        Script::default().keep_alive(|renewed| Some(Ok(PbLeaseKeepAliveResponse { ttl: -5, ..renewed }))),
    );
    assert_eq!(lease.renew().await.unwrap_err().kind(), ErrorKind::LeaseExpired);
}

#[tokio::test]
async fn a_record_of_another_key_is_not_taken_for_ours() {
    let fake = Fake::start(Script::default()).await;
    let registry = connect(fake.config());
    let registration = registration(&svc(), instance("10.0.0.1:80"));
    let mut lease = registry.register(&registration, Claim::TakeOver).await.unwrap();
    fake.becomes(Script::default().range(|_, response| {
        Ok(PbRangeResponse { kvs: vec![PbKeyValue { lease: 7, ..kv("svc/other", 9) }], ..response })
    }));
    lease.renew().await.expect("it is missing, and written again");
}

// --- Not an etcd --------------------------------------------------------------------------------------------------

/// Listens, and answers every connection with `answer`; none: closes it.
async fn not_an_etcd(answer: Option<&'static [u8]>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut read = vec![0; 1024];
                let _ = client.read(&mut read).await;
                let Some(answer) = answer else { return };
                let _ = client.write_all(answer).await;
                while let Ok(1..) = client.read(&mut read).await {}
            });
        }
    });
    (endpoint, server)
}

#[tokio::test]
async fn a_server_that_is_not_etcd_is_an_error_and_the_next_endpoint_is_used() {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    for (what, answer) in [
        ("closes", None),
        ("silence", Some(&b""[..])),
        ("HTTP/1.1", Some(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\n\r\n<html>no</html>")),
        ("HTML", Some(b"<html><body>It works!</body></html>")),
        ("SSH", Some(b"SSH-2.0-OpenSSH_9.6\r\n")),
        ("Redis", Some(b"-ERR unknown command\r\n")),
        ("TLS", Some(&[0x15, 3, 3, 0, 2, 2, 0x46])),
        ("HTTP/2 and nothing else", Some(SETTINGS)),
        ("zeros", Some(&[0; 4096])),
        ("ones", Some(&[0xff; 4096])),
    ] {
        let (endpoint, server) = not_an_etcd(answer).await;
        let error = connect(hasty(endpoint.clone())).resolve(&svc()).await.expect_err(what);
        assert!(error.is_retryable(), "{what}: {error:?}");
        assert!([ErrorKind::Unavailable, ErrorKind::Timeout].contains(&error.kind()), "{what}: {error:?}");
        let good = Fake::start(Script::default()).await;
        let config =
            EtcdConfig::new([endpoint, good.endpoint()]).with_connect_timeout(Duration::from_millis(500));
        assert_eq!(ids(&connect(config).resolve(&svc()).await.expect(what)), ["a"], "{what}");
        server.abort();
    }
}

/// A gRPC server that has other services, or a proxy before no server.
#[tokio::test]
async fn a_grpc_server_that_is_not_etcd_is_an_error() {
    for status in [
        Status::unimplemented(""),
        Status::unimplemented("unknown service etcdserverpb.KV"),
        Status::unavailable("upstream connect error or disconnect/reset before headers"),
        Status::unknown("grpc-status header missing, mapped from HTTP status code 502"),
        Status::permission_denied("RBAC: access denied"),
        Status::unauthenticated("Jwt is missing"),
        Status::not_found("no route"),
        Status::ok(""),
    ] {
        let failing = status.clone();
        let fake = Fake::start(Script::default().range(move |_, _| Err(failing.clone()))).await;
        let error = resolve(&fake).await.unwrap_err();
        assert!(error.is_retryable(), "{status:?}: {error:?}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{status:?}: {error:?}");
    }
}
