//! Leases, registrations and transactions of an odd etcd.

use std::time::Duration;

use etcd_client::proto::{
    PbKeyValue, PbLeaseGrantResponse, PbLeaseKeepAliveResponse, PbRangeResponse, PbTxnResponse,
};
use futures_util::StreamExt;
use hither_core::{
    Claim, ErrorKind, Registrar, RegistrationConfig, RegistrationHandle, RegistrationStatus, keep_registered,
};
use tokio::time::{sleep, timeout};
use tonic::Status;

use crate::support::fake::{Fake, Script, kv};
use crate::support::{LONG, instance, registration};
use crate::{assert_retryable, connect, svc};

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
        assert_retryable(&registered.expect_err(what), what);
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
    assert_retryable(&registered.err().unwrap(), "every id taken");
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
    assert_retryable(&registered.err().unwrap(), "never succeeds");
}

/// etcd-client#87: a response without a time to live means that the lease is gone.
#[tokio::test]
async fn a_renewal_response_counts_only_for_our_lease() {
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
