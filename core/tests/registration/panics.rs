//! A registrar that panics: an error like others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum At {
    Nowhere,
    Register,
    Ttl,
    Renew,
    Update,
    Revoke,
    Drop,
}

/// A registrar with a bug, at the moment.
#[derive(Debug, Clone)]
struct Broken {
    registry: MemoryRegistry,
    at: Arc<AtomicU8>,
}

impl Broken {
    fn at(at: At) -> Self {
        Self { registry: MemoryRegistry::new(), at: Arc::new(AtomicU8::new(at as u8)) }
    }

    fn now(&self, at: At) {
        self.at.store(at as u8, Ordering::SeqCst);
    }

    fn check(&self, at: At) {
        assert!(self.at.load(Ordering::SeqCst) != at as u8, "a bug at {at:?}");
    }
}

#[async_trait]
impl Registrar for Broken {
    async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>> {
        self.check(At::Register);
        let lease = self.registry.register(registration, claim).await?;
        Ok(Box::new(BrokenLease(self.clone(), lease)))
    }
}

#[derive(Debug)]
struct BrokenLease(Broken, Box<dyn Lease>);

#[async_trait]
impl Lease for BrokenLease {
    fn ttl(&self) -> Duration {
        self.0.check(At::Ttl);
        self.1.ttl()
    }

    async fn renew(&mut self) -> Result<()> {
        self.0.check(At::Renew);
        self.1.renew().await
    }

    async fn update(&mut self, registration: &Registration) -> Result<()> {
        self.0.check(At::Update);
        self.1.update(registration).await
    }

    async fn revoke(&mut self) -> Result<()> {
        self.0.check(At::Revoke);
        self.1.revoke().await
    }
}

impl Drop for BrokenLease {
    fn drop(&mut self) {
        self.0.check(At::Drop);
    }
}

async fn is_told(handle: &RegistrationHandle, at: At) {
    let RegistrationStatus::Retrying { cause, .. } = status(handle, is_retrying).await else {
        unreachable!()
    };
    assert_eq!(cause.kind(), ErrorKind::Unexpected);
    assert!(cause.report().ends_with(&format!("panic: a bug at {at:?}")), "{}", cause.report());
}

#[tokio::test(start_paused = true)]
async fn a_registrar_that_panics_is_called_again() {
    for at in [At::Register, At::Ttl, At::Renew, At::Update] {
        let broken = Broken::at(at);
        let config = RegistrationConfig::default().with_seed(7);
        let handle = keep_registered(broken.clone(), registration(), config);
        if at == At::Update {
            soon(handle.registered()).await.unwrap();
            let update = handle.update(instance().with_weight(2));
            tokio::join!(is_told(&handle, at), async {
                let _ = timeout(SECOND, update).await;
            });
        } else {
            is_told(&handle, at).await;
        }
        broken.now(At::Nowhere);
        soon(handle.registered()).await.unwrap();
        sleep(4 * TTL).await;
        assert_eq!(weights(&broken.registry).await, [if at == At::Update { 2 } else { 1 }], "{at:?}");
        soon(handle.deregister()).await.unwrap();
        assert_eq!(weights(&broken.registry).await, [0; 0], "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deregistration_that_panics_is_repeated() {
    let broken = Broken::at(At::Revoke);
    let handle = keep_registered(broken.clone(), registration(), RegistrationConfig::default().with_seed(7));
    soon(handle.registered()).await.unwrap();
    let error = soon(handle.deregister()).await.unwrap_err();
    assert!(error.report().ends_with("panic: a bug at Revoke"), "{}", error.report());
    broken.now(At::Nowhere);
    soon(async { while handle.deregister().await.is_err() {} }).await;
    assert_eq!(weights(&broken.registry).await, [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_panics_when_it_is_dropped_is_replaced_all_the_same() {
    let broken = Broken::at(At::Drop);
    let handle = keep_registered(broken.clone(), registration(), RegistrationConfig::default().with_seed(7));
    soon(handle.registered()).await.unwrap();
    broken.registry.faults().fail_next(1, ErrorKind::LeaseExpired);
    status(&handle, is_retrying).await;
    status(&handle, |status| matches!(status, RegistrationStatus::Registered)).await;
    assert_eq!(weights(&broken.registry).await, [1]);
    soon(handle.deregister()).await.unwrap();
}
