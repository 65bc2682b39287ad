//! Pages and listings of an odd etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::proto::{PbKeyValue, PbRangeResponse};
use hither_core::{Catalog, ErrorKind, Resolver};
use tokio::time::{Instant, timeout};

use crate::support::fake::{Fake, Script, header, kv};
use crate::support::{LONG, ids};
use crate::{assert_retryable, connect, resolve, svc};

#[tokio::test]
async fn a_range_that_has_more_for_ever_ends() {
    let page = Arc::new(AtomicUsize::new(0));
    let fake = Fake::start(Script::default().range(move |_, response| {
        let number = page.fetch_add(1, Ordering::Relaxed);
        Ok(PbRangeResponse { kvs: vec![kv(&format!("svc/{number:08}"), 9)], more: true, ..response })
    }))
    .await;
    // It is the pages that end it, and not the time.
    let registry = connect(fake.config().with_request_timeout(LONG));
    let listed = timeout(4 * LONG, registry.resolve(&svc())).await.unwrap();
    assert_retryable(&listed.unwrap_err(), "more for ever");
    assert_eq!(fake.counts().ranges, 1000);
    let services = timeout(4 * LONG, registry.services(None)).await.unwrap();
    assert_retryable(&services.unwrap_err(), "more for ever");
}

#[tokio::test]
async fn a_range_that_has_more_for_ever_and_is_slow_ends() {
    let page = Arc::new(AtomicUsize::new(0));
    let script = Script::default().range_delay(Duration::from_millis(50));
    let fake = Fake::start(script.range(move |_, response| {
        let number = page.fetch_add(1, Ordering::Relaxed);
        Ok(PbRangeResponse { kvs: vec![kv(&format!("svc/{number:08}"), 9)], more: true, ..response })
    }))
    .await;
    let registry = connect(fake.config().with_request_timeout(Duration::from_millis(500)));
    let since = Instant::now();
    let error = timeout(LONG, registry.resolve(&svc())).await.unwrap().unwrap_err();
    // On a busy machine a page may be slower than the request timeout.
    if error.kind() != ErrorKind::Timeout {
        assert_retryable(&error, "slow pages");
    }
    // Ten times the request timeout of half a second.
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

#[tokio::test]
async fn pages_that_make_no_progress_are_one_error() {
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
        assert_retryable(&error, what);
        assert!(fake.counts().ranges <= 2, "{what}: {:?}", fake.counts());
        let registry = connect(fake.config());
        let error = registry.watch(&svc()).await.map(drop).expect_err(what);
        assert_retryable(&error, what);
    }
}

#[tokio::test]
async fn a_last_page_out_of_order_and_with_foreign_keys_lists_its_instances() {
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
        assert_retryable(&resolve(&fake).await.unwrap_err(), what);
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
    assert_retryable(&resolve(&fake).await.unwrap_err(), "two clusters");
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
