//! A registration through the faults of its registry, under paused time.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use hither_core::{
    Claim, ErrorKind, Instance, Lease, Registrar, Registration, RegistrationConfig, RegistrationHandle,
    RegistrationStatus, Resolver, Result, ServiceName, keep_registered,
};
use hither_memory::{MemoryRegistry, Operation};
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(30);

fn service() -> ServiceName {
    "greeter".parse().unwrap()
}

fn instance() -> Instance {
    Instance::new("10.0.0.7:8001".parse().unwrap())
}

fn registration() -> Registration {
    Registration::new(service(), instance()).unwrap().with_ttl(TTL).unwrap()
}

fn keep(registry: &MemoryRegistry) -> RegistrationHandle {
    keep_registered(registry.clone(), registration(), RegistrationConfig::default().with_seed(7))
}

async fn kept(registry: &MemoryRegistry) -> RegistrationHandle {
    let handle = keep(registry);
    soon(handle.registered()).await.unwrap();
    handle
}

/// Waits in paused time for what must come.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(4 * TTL, future).await.expect("it comes within four TTLs of paused time")
}

async fn status(
    handle: &RegistrationHandle,
    is_so: impl Fn(&RegistrationStatus) -> bool,
) -> RegistrationStatus {
    let mut statuses = Box::pin(handle.statuses());
    soon(async {
        loop {
            let status = statuses.next().await.expect("it comes before the last status");
            if is_so(&status) {
                return status;
            }
        }
    })
    .await
}

fn is_retrying(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Retrying { .. })
}

/// The weights of all that is registered: it tells one record from another.
async fn weights(registry: &MemoryRegistry) -> Vec<u32> {
    let snapshot = registry.connect().resolve(&service()).await.unwrap();
    snapshot.iter().map(|instance| instance.weight()).collect()
}

/// How many tasks there are, once those that are to end have ended.
async fn tasks() -> usize {
    sleep(Duration::from_millis(1)).await;
    yield_now().await;
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_registration_outlives_its_ttl_for_as_long_as_its_handle_lives() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    let calls = registry.faults().calls_of(Operation::Renew);
    sleep(10 * TTL).await;
    assert_eq!(weights(&registry).await, [1]);
    let renewals = registry.faults().calls_of(Operation::Renew) - calls;
    assert!(
        (27..=34).contains(&renewals),
        "{renewals} renewals in ten TTLs: one a third, give or take a tenth"
    );
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
    drop(handle);
}

#[tokio::test(start_paused = true)]
async fn renewals_of_many_registrations_spread_out() {
    let registry = MemoryRegistry::new();
    let mut handles = Vec::new();
    for port in 1..=100 {
        let instance = Instance::new(format!("10.0.0.7:{port}").parse().unwrap());
        let registration = Registration::new(service(), instance).unwrap().with_ttl(TTL).unwrap();
        handles.push(keep_registered(
            registry.clone(),
            registration,
            RegistrationConfig::default().with_seed(port),
        ));
    }
    for handle in &handles {
        soon(handle.registered()).await.unwrap();
    }
    // All registered at one moment, and yet no thirtieth of a TTL has many more of them than another one.
    let begun = registry.faults().calls_of(Operation::Renew);
    for part in 0..15 {
        let before = registry.faults().calls_of(Operation::Renew);
        sleep(TTL / 30).await;
        let renewals = registry.faults().calls_of(Operation::Renew) - before;
        assert!(renewals < 25, "{renewals} of 100 in part {part}, where 10 would be even");
    }
    assert!(registry.faults().calls_of(Operation::Renew) - begun >= 100);
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_a_registry_loses_nothing() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    let RegistrationStatus::Retrying { since, .. } = status(&handle, is_retrying).await else {
        unreachable!()
    };
    let calls = registry.faults().calls();
    sleep(3600 * SECOND).await;
    let RegistrationStatus::Retrying { since: still, cause, .. } = handle.status() else {
        panic!("{:?}", handle.status())
    };
    assert_eq!((since, cause.kind()), (still, ErrorKind::Unavailable));
    let calls = registry.faults().calls() - calls;
    assert!((400..2_000).contains(&calls), "{calls} calls in an hour: the longest backoff is 10 s, jittered");

    registry.faults().start();
    let began = Instant::now();
    soon(handle.registered()).await.unwrap();
    assert!(began.elapsed() <= 10 * SECOND, "{:?}", began.elapsed());
    assert_eq!(registry.faults().calls_of(Operation::Register), 1, "the lease was kept");
}

#[tokio::test(start_paused = true)]
async fn a_registration_arrives_when_the_registry_comes_up() {
    let registry = MemoryRegistry::new();
    registry.faults().stop();
    let handle = keep(&registry);
    status(&handle, is_retrying).await;
    sleep(3600 * SECOND).await;
    registry.faults().start();
    soon(handle.registered()).await.unwrap();
    assert_eq!(weights(&registry).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_replaced_by_a_new_one() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    assert!(registry.faults().expire(&service(), instance().id()));
    assert!(weights(&registry).await.is_empty());
    sleep(TTL / 2).await;
    assert_eq!(weights(&registry).await, [1]);
    assert!(matches!(handle.status(), RegistrationStatus::Registered), "{:?}", handle.status());
}

#[tokio::test(start_paused = true)]
async fn a_wiped_registry_gets_its_registrations_back() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().wipe();
    sleep(TTL / 2).await;
    assert_eq!(weights(&registry).await, [1]);
    assert!(matches!(handle.status(), RegistrationStatus::Registered), "{:?}", handle.status());
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_removed_or_changed_by_hand_is_restored() {
    let registry = MemoryRegistry::new();
    let _handle = kept(&registry).await;
    assert!(registry.faults().delete_record(&service(), instance().id()));
    sleep(TTL / 2).await;
    assert_eq!(weights(&registry).await, [1]);
    assert!(registry.faults().change_record(&service(), instance().with_weight(9)));
    sleep(TTL / 2).await;
    assert_eq!(weights(&registry).await, [1]);
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_registry_keeps_the_registration() {
    let registry = MemoryRegistry::new();
    registry.faults().delay(4 * SECOND);
    let handle = kept(&registry).await;
    sleep(20 * TTL).await;
    registry.faults().delay(Duration::ZERO);
    assert_eq!(weights(&registry).await, [1]);
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
    assert!(matches!(handle.status(), RegistrationStatus::Registered), "{:?}", handle.status());
}

#[tokio::test(start_paused = true)]
async fn a_call_to_a_frozen_registry_ends_at_its_deadline_and_is_retried() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().freeze();
    let RegistrationStatus::Retrying { cause, .. } = status(&handle, is_retrying).await else {
        unreachable!()
    };
    assert_eq!(cause.kind(), ErrorKind::Timeout);
    sleep(3 * TTL).await;
    registry.faults().thaw();
    soon(handle.registered()).await.unwrap();
    assert_eq!(weights(&registry).await, [1], "the lease lapsed while the registry was frozen");
}

#[tokio::test(start_paused = true)]
async fn the_first_registration_takes_over_the_record_of_an_earlier_process() {
    let registry = MemoryRegistry::new();
    let before = registry.connect();
    let old = Registration::new(service(), instance().with_weight(5)).unwrap();
    let _lease = before.register(&old, Claim::TakeOver).await.unwrap();
    let _handle = kept(&registry).await;
    assert_eq!(weights(&registry).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn two_owners_never_fight() {
    let registry = MemoryRegistry::new();
    let first = kept(&registry).await;
    let second = keep_registered(
        registry.connect(),
        Registration::new(service(), instance().with_weight(2)).unwrap().with_ttl(TTL).unwrap(),
        RegistrationConfig::default().with_seed(1),
    );
    soon(second.registered()).await.unwrap();
    status(&first, |status| matches!(status, RegistrationStatus::Superseded)).await;
    assert_eq!(soon(first.registered()).await.unwrap_err().kind(), ErrorKind::Superseded);
    assert_eq!(first.update(instance()).await.unwrap_err().kind(), ErrorKind::Superseded);
    sleep(100 * TTL).await;
    assert_eq!(weights(&registry).await, [2]);
    first.deregister().await.unwrap();
    drop(first);
    sleep(TTL).await;
    assert_eq!(weights(&registry).await, [2], "an owner that was superseded removes nothing");
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_returns_from_a_partition_does_not_displace_its_successor() {
    let here = MemoryRegistry::new();
    let handle = kept(&here).await;
    here.faults().disconnect();
    sleep(2 * TTL).await;
    let successor =
        Registration::new(service(), instance().with_weight(2)).unwrap().with_ttl(1000 * TTL).unwrap();
    let _lease = here.connect().register(&successor, Claim::IfVacant).await.unwrap();
    here.faults().reconnect();
    status(&handle, |status| matches!(status, RegistrationStatus::Superseded)).await;
    assert_eq!(weights(&here).await, [2]);
}

/// What a registry has that was restored from a copy: the record of a process that is gone.
#[tokio::test(start_paused = true)]
async fn an_owner_waits_for_the_expiry_of_a_record_that_is_not_renewed() {
    let here = MemoryRegistry::new();
    let handle = kept(&here).await;
    here.faults().disconnect();
    sleep(2 * TTL).await;
    let dead = Registration::new(service(), instance().with_weight(2)).unwrap().with_ttl(TTL).unwrap();
    let _never_renewed = here.connect().register(&dead, Claim::IfVacant).await.unwrap();
    here.faults().reconnect();
    sleep(TTL / 2).await;
    assert!(is_retrying(&handle.status()), "{:?}", handle.status());
    assert_eq!(weights(&here).await, [2]);
    soon(handle.registered()).await.unwrap();
    assert_eq!(weights(&here).await, [1]);
    // And as long again after the registry was away for longer, with the dead one's record, and has it still.
    for outage in [Duration::ZERO, 3 * TTL] {
        here.faults().disconnect();
        sleep(2 * TTL).await;
        let dead = dead.clone().with_ttl(if outage.is_zero() { TTL } else { 5 * TTL }).unwrap();
        let _never_renewed = here.connect().register(&dead, Claim::IfVacant).await.unwrap();
        here.faults().reconnect();
        sleep(TTL / 2).await;
        here.faults().disconnect();
        sleep(outage).await;
        here.faults().reconnect();
        soon(handle.registered()).await.unwrap();
        assert_eq!(weights(&here).await, [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_owner_that_returns_from_a_partition_without_a_successor_registers_again() {
    let here = MemoryRegistry::new();
    let handle = kept(&here).await;
    here.faults().disconnect();
    status(&handle, is_retrying).await;
    sleep(10 * TTL).await;
    assert!(weights(&here).await.is_empty());
    here.faults().reconnect();
    soon(handle.registered()).await.unwrap();
    assert_eq!(weights(&here).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_registration_whose_answer_was_lost_is_recognised() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().lose_next_response_of(Operation::Register);
    registry.faults().expire_all();
    status(&handle, is_retrying).await;
    soon(handle.registered()).await.unwrap();
    sleep(2 * TTL).await;
    assert!(matches!(handle.status(), RegistrationStatus::Registered), "{:?}", handle.status());
    assert_eq!(weights(&registry).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn a_role_revoked_for_five_minutes_removes_no_server_for_good() {
    for kind in [ErrorKind::PermissionDenied, ErrorKind::Unauthenticated] {
        let registry = MemoryRegistry::new();
        registry.faults().fail_next(40, kind);
        let handle = keep(&registry);
        let RegistrationStatus::Retrying { cause, .. } = status(&handle, is_retrying).await else {
            unreachable!()
        };
        assert_eq!(cause.kind(), kind);
        let began = Instant::now();
        timeout(3600 * SECOND, handle.registered()).await.expect("it retries").unwrap();
        assert!(
            began.elapsed() > 100 * SECOND,
            "40 calls in {:?}: each after the longest backoff",
            began.elapsed()
        );
        assert_eq!(weights(&registry).await, [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn errors_that_only_an_operator_can_correct_are_retried_slowly() {
    let mut waited = Duration::ZERO;
    for seed in 0..20 {
        let registry = MemoryRegistry::new();
        registry.faults().fail_next(2, ErrorKind::PermissionDenied);
        let began = Instant::now();
        let config = RegistrationConfig::default().with_seed(seed);
        let handle = keep_registered(registry, registration(), config);
        soon(handle.registered()).await.unwrap();
        waited += began.elapsed();
    }
    // Up to 10 s each, drawn evenly; the first two delays of an outage are 0.1 and 0.2 s on average.
    assert!(waited > 120 * SECOND, "{waited:?} for 40 delays");
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_the_registry_never_accepts_fails_for_good() {
    for kind in [ErrorKind::InvalidArgument, ErrorKind::Unsupported, ErrorKind::Closed] {
        let registry = MemoryRegistry::new();
        registry.faults().fail_next(1, kind);
        let handle = keep(&registry);
        assert_eq!(soon(handle.registered()).await.unwrap_err().kind(), kind);
        assert!(matches!(handle.status(), RegistrationStatus::Failed(_)));
        assert_eq!(tasks().await, 0);
        assert_eq!(registry.faults().calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_what_was_accepted_before_is_retried_without_limit() {
    for kind in [ErrorKind::InvalidArgument, ErrorKind::Unsupported] {
        let registry = MemoryRegistry::new();
        let handle = kept(&registry).await;
        // At the longest backoff, between 5 and 10 s, so that this takes half an hour at least.
        registry.faults().fail_next_of(Operation::Renew, 360, kind);
        sleep(1790 * SECOND).await;
        assert!(is_retrying(&handle.status()), "{:?}", handle.status());
        sleep(1830 * SECOND).await;
        assert_eq!(registry.faults().calls_of(Operation::Register), 2, "the lease had expired meanwhile");
        assert!(matches!(handle.status(), RegistrationStatus::Registered));
        // And the same for a registration that is repeated.
        registry.faults().wipe();
        registry.faults().fail_next_of(Operation::Register, 3, kind);
        sleep(120 * SECOND).await;
        assert_eq!(weights(&registry).await, [1]);
    }
}

/// Grants a time to live of its own.
#[derive(Debug, Clone)]
struct Granting(MemoryRegistry, Duration);

#[derive(Debug)]
struct GrantedLease(Box<dyn Lease>, Duration);

#[async_trait]
impl Registrar for Granting {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        Ok(Box::new(GrantedLease(self.0.register(registration, claim).await?, self.1)))
    }
}

#[async_trait]
impl Lease for GrantedLease {
    fn ttl(&self) -> Duration {
        self.1
    }

    async fn renew(&mut self) -> Result<()> {
        self.0.renew().await
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        self.0.update(registration).await
    }

    async fn revoke(&mut self) -> Result<()> {
        self.0.revoke().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_granted_ttl_that_is_implausible_neither_panics_nor_delays_the_renewal() {
    for granted in
        [Duration::ZERO, Duration::from_secs(86_400), Duration::from_secs(i64::MAX as u64), Duration::MAX]
    {
        let registry = MemoryRegistry::new();
        let registrar = Granting(registry.clone(), granted);
        let handle = keep_registered(registrar, registration(), RegistrationConfig::default().with_seed(7));
        soon(handle.registered()).await.unwrap();
        for _ in 0..20 {
            sleep(TTL / 2).await;
            assert_eq!(weights(&registry).await, [1], "{granted:?}: renewed in time");
        }
        // Leaving while the registry is down adds the TTL to the present time.
        registry.faults().stop();
        let _ = handle.deregister().await.unwrap_err();
        drop(handle);
        sleep(20 * TTL).await;
        assert_eq!(tasks().await, 0, "{granted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_call_is_a_setting() {
    let registry = MemoryRegistry::new();
    registry.faults().freeze();
    let config = RegistrationConfig::default().with_seed(7).with_attempt_timeout(SECOND);
    let began = Instant::now();
    let handle = keep_registered(registry.clone(), registration(), config);
    let retrying = status(&handle, is_retrying).await;
    assert_eq!(began.elapsed(), SECOND, "and not the registry's own deadline of 5 s");
    let RegistrationStatus::Retrying { cause, .. } = retrying else { unreachable!() };
    assert_eq!(cause.kind(), ErrorKind::Timeout);
}

#[tokio::test(start_paused = true)]
async fn an_update_changes_the_record_in_place() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    handle.update(instance().with_weight(2)).await.unwrap();
    assert_eq!(weights(&registry).await, [2]);
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
    let other = Instance::new("10.0.0.8:8001".parse().unwrap());
    assert_eq!(handle.update(other).await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn an_update_during_an_outage_arrives_after_it_even_if_its_future_was_dropped() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    assert!(
        timeout(SECOND, handle.update(instance().with_weight(2))).await.is_err(),
        "it cannot have arrived"
    );
    sleep(600 * SECOND).await;
    registry.faults().start();
    soon(handle.update(instance().with_weight(3))).await.unwrap();
    assert_eq!(weights(&registry).await, [3]);

    registry.faults().stop();
    let _ = timeout(SECOND, handle.update(instance().with_weight(4))).await;
    registry.faults().wipe();
    registry.faults().start();
    sleep(TTL).await;
    assert_eq!(weights(&registry).await, [4], "a new lease begins with the desired state");
}

#[tokio::test(start_paused = true)]
async fn an_update_that_the_registry_refuses_leaves_the_content_before() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().fail_next_of(Operation::Update, 1, ErrorKind::InvalidArgument);
    let refused = soon(handle.update(instance().with_weight(2))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
    sleep(2 * TTL).await;
    assert_eq!(weights(&registry).await, [1]);
    soon(handle.update(instance().with_weight(3))).await.unwrap();
    assert_eq!(weights(&registry).await, [3]);
}

#[tokio::test(start_paused = true)]
async fn frequent_updates_do_not_starve_the_lease() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().delay(Duration::from_millis(10));
    let end = Instant::now() + 2 * TTL;
    // Two in turn, so that there always is one more that the registry does not have.
    let flood = |weight: u32| {
        let handle = &handle;
        async move {
            sleep(Duration::from_millis(5) * weight).await;
            while Instant::now() < end {
                handle.update(instance().with_weight(weight)).await.unwrap();
            }
        }
    };
    tokio::join!(flood(2), flood(3));
    assert!(registry.faults().calls_of(Operation::Update) > 1000);
    assert!(registry.faults().calls_of(Operation::Renew) >= 5);
    assert_eq!(registry.faults().calls_of(Operation::Register), 1);
}

#[tokio::test(start_paused = true)]
async fn deregistering_removes_the_record_and_ends_the_task() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    handle.deregister().await.unwrap();
    assert!(weights(&registry).await.is_empty());
    assert_eq!((tasks().await, registry.faults().live_leases()), (0, 0));
    handle.deregister().await.unwrap();
    assert_eq!(handle.registered().await.unwrap_err().kind(), ErrorKind::Closed);
    assert!(handle.statuses().collect::<Vec<_>>().await.last().unwrap().is_final());
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_during_an_outage_is_not_confirmed_but_final() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    let began = Instant::now();
    let error = handle.deregister().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(began.elapsed() <= 5 * SECOND, "{:?}", began.elapsed());
    sleep(600 * SECOND).await;
    registry.faults().start();
    soon(handle.deregister()).await.unwrap();
    assert!(weights(&registry).await.is_empty());
    sleep(10 * TTL).await;
    assert!(weights(&registry).await.is_empty(), "no reconnect brings it back");
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_at_a_frozen_registry_is_bounded() {
    let registry = MemoryRegistry::new();
    let config = RegistrationConfig::default().with_deregister_timeout(2 * SECOND);
    let handle = keep_registered(registry.clone(), registration(), config);
    soon(handle.registered()).await.unwrap();
    registry.faults().freeze();
    let began = Instant::now();
    let error = handle.deregister().await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed()), (ErrorKind::Timeout, 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_after_the_lease_was_lost_is_confirmed() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().expire_all();
    let RegistrationStatus::Retrying { cause, .. } = status(&handle, is_retrying).await else {
        unreachable!()
    };
    assert_eq!(cause.kind(), ErrorKind::LeaseExpired);
    handle.deregister().await.unwrap();
    assert!(weights(&registry).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_ends_the_attempts_of_a_registration_that_never_succeeded() {
    let registry = MemoryRegistry::new();
    registry.faults().stop();
    let handle = keep(&registry);
    status(&handle, is_retrying).await;
    let error = handle.deregister().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "whether an attempt arrived is not known");
    assert!(matches!(handle.status(), RegistrationStatus::Deregistered));
    registry.faults().start();
    sleep(10 * TTL).await;
    assert!(weights(&registry).await.is_empty());
    assert_eq!(tasks().await, 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_deregisters_and_leaves_no_task() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    assert_eq!(tasks().await, 1);
    drop(handle);
    assert_eq!(tasks().await, 0);
    assert!(weights(&registry).await.is_empty());
    assert_eq!(registry.faults().live_leases(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_during_an_outage_retries_for_one_ttl_and_no_longer() {
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    drop(handle);
    sleep(TTL / 2).await;
    assert_eq!(tasks().await, 1);
    sleep(TTL).await;
    assert_eq!(tasks().await, 0);

    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    registry.faults().stop();
    drop(handle);
    sleep(TTL / 2).await;
    registry.faults().start();
    sleep(TTL / 2).await;
    assert_eq!((tasks().await, weights(&registry).await.len()), (0, 0));
}

#[test]
fn outside_a_runtime_a_registration_has_failed_and_nothing_panics() {
    let handle = keep_registered(MemoryRegistry::new(), registration(), RegistrationConfig::default());
    let RegistrationStatus::Failed(error) = handle.status() else { panic!("{:?}", handle.status()) };
    assert!(error.to_string().contains("runtime"), "{error}");
}

#[test]
fn a_registration_whose_runtime_was_shut_down_reports_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let registry = MemoryRegistry::new();
    let handle = runtime().block_on(kept(&registry));
    let error = runtime().block_on(handle.deregister()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
}
