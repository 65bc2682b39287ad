//! Registrations without a runtime.

use super::*;

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
