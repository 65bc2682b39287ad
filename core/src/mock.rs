//! mockall mocks of the traits, for the tests of code that depends on them. Feature `mock`.
//!
//! They are exempt from this package's semantic versioning, because mockall is before 1.0. For tests of behaviour over
//! time, hither-memory under Tokio's paused clock is the better choice.
//!
//! ```
//! use hither_core::mock::MockResolver;
//! use hither_core::{Error, ErrorKind, Resolver};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> hither_core::Result<()> {
//! let mut registry = MockResolver::new();
//! registry.expect_resolve().returning(|_| Err(Error::new(ErrorKind::Unavailable, "down for maintenance")));
//! assert!(registry.resolve(&"greeter".parse()?).await.is_err());
//! # Ok(())
//! # }
//! ```
// The code that mockall generates has neither docs nor `Debug`.
#![allow(missing_docs, missing_debug_implementations, clippy::ref_option_ref)]

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use mockall::mock;

use crate::{Claim, Lease, Registrar, Registration, Resolver, Result, ServiceName, Snapshot, SnapshotStream};

mock! {
    pub Registrar {}

    #[async_trait]
    impl Registrar for Registrar {
        async fn register(&self, registration: &Registration, claim: Claim) -> Result<Box<dyn Lease>>;
    }
}

mock! {
    pub Lease {}

    #[async_trait]
    impl Lease for Lease {
        fn ttl(&self) -> Duration;
        async fn renew(&mut self) -> Result<()>;
        async fn update(&mut self, registration: &Registration) -> Result<()>;
        async fn revoke(&mut self) -> Result<()>;
    }
}

mock! {
    pub Resolver {}

    #[async_trait]
    impl Resolver for Resolver {
        async fn resolve(&self, service: &ServiceName) -> Result<Snapshot>;
        async fn watch(&self, service: &ServiceName) -> Result<SnapshotStream>;
    }
}

macro_rules! opaque_debug {
    ($($mock:ident),*) => {$(
        impl fmt::Debug for $mock {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($mock))
            }
        }
    )*};
}

opaque_debug!(MockRegistrar, MockLease, MockResolver);
