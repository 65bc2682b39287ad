//! Registries by name.

mod support;

use hither_core::{Claim, ErrorKind, Registrar};
use hither_memory::MemoryRegistry;
use support::{TTL, present, register, registration};
use tokio::time::advance;

#[tokio::test(start_paused = true)]
async fn registries_of_one_name_share_their_records_and_others_do_not() {
    let server = MemoryRegistry::named("shared");
    let _lease = register(&server, "a").await;
    assert_eq!(present(&MemoryRegistry::named("shared")).await, ["a"]);
    assert!(present(&MemoryRegistry::named("other")).await.is_empty());
    assert!(present(&MemoryRegistry::new()).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_call_is_another_registrar() {
    let _lease = register(&MemoryRegistry::named("registrars"), "a").await;
    let second = MemoryRegistry::named("registrars").register(&registration("a"), Claim::IfVacant).await;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Superseded);
}

#[tokio::test(start_paused = true)]
async fn a_record_outlives_every_handle_of_its_registry_until_its_ttl_has_passed() {
    drop(register(&MemoryRegistry::named("outlived"), "a").await);
    assert_eq!(present(&MemoryRegistry::named("outlived")).await, ["a"]);
    advance(TTL).await;
    assert!(present(&MemoryRegistry::named("outlived")).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn faults_apply_to_every_handle_of_a_name() {
    let registry = MemoryRegistry::named("faults");
    MemoryRegistry::named("faults").faults().stop();
    let error = registry.register(&registration("a"), Claim::TakeOver).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}
