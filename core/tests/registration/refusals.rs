//! Calls that the registry refuses, and leases with implausible TTLs.

use super::*;

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
    let none = RegistrationConfig::default().with_attempt_timeout(Duration::ZERO);
    let error = keep_registered(registry, registration(), none).registered().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}
