//! The mocks, used as a user's tests use them.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::time::Duration;

use hither_core::mock::{MockLease, MockRegistrar, MockResolver};
use hither_core::{
    Claim, Discovery, Error, ErrorKind, Instance, Registration, RegistrationConfig, Snapshot, keep_registered,
};

fn registration() -> Registration {
    Registration::new("greeter".parse().unwrap(), Instance::new("10.0.0.7:8001".parse().unwrap())).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_mocked_registrar_receives_the_calls_of_keep_registered() {
    let mut registrar = MockRegistrar::new();
    registrar
        .expect_register()
        .withf(|registration, claim| {
            registration.service().as_str() == "greeter" && *claim == Claim::TakeOver
        })
        .times(1)
        .returning(|registration, _| {
            let mut lease = MockLease::new();
            lease.expect_ttl().return_const(registration.ttl());
            lease.expect_revoke().times(1).returning(|| Ok(()));
            Ok(Box::new(lease))
        });
    let handle = keep_registered(registrar, registration(), RegistrationConfig::default());
    handle.registered().await.unwrap();
    handle.deregister().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_mocked_resolver_feeds_a_discovery() {
    let mut resolver = MockResolver::new();
    resolver.expect_watch().returning(|service| {
        let instance = Instance::new("10.0.0.7:8001".parse().unwrap()).into();
        let snapshot = Snapshot::new(service.clone(), [instance]);
        Ok(Box::pin(futures_util::stream::iter([Ok(snapshot)])))
    });
    let greeter = Discovery::new(resolver).service(&"greeter".parse().unwrap());
    assert_eq!(greeter.wait_ready(Duration::from_secs(5)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_mock_can_fail_as_a_registry_does() {
    let mut resolver = MockResolver::new();
    resolver.expect_resolve().returning(|_| Err(Error::new(ErrorKind::Unavailable, "down")));
    let resolver: Box<dyn hither_core::Resolver> = Box::new(resolver);
    let error = resolver.resolve(&"greeter".parse().unwrap()).await.unwrap_err();
    assert!(error.is_retryable());
    assert_eq!(format!("{resolver:?}"), "MockResolver");
}
