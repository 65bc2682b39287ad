//! The conformance kit against backends with one defect each: it must catch every one.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod defect;
mod harness;
mod lease;
mod registrar;
mod resolver;

use std::collections::BTreeSet;
use std::sync::Arc;

use defect::Defect;
use harness::Broken;
use hither_core::conformance::{BEHAVIOURS, Harness, run_all};
use hither_memory::Operation;

/// The defects of one family, each with behaviours that must catch it; others may catch it too.
type Family = &'static [(Defect, &'static [&'static str])];

const RESOLVE: Family = &[
    (Defect::FindsNoInstance, &["a_registration_can_be_resolved"]),
    (Defect::IncludesServicesWithTheSamePrefix, &["a_service_does_not_include_one_with_the_same_prefix"]),
    (Defect::IncludesServicesBelow, &["a_service_does_not_include_services_below_it"]),
    (Defect::FailsOnAnUnknownService, &["an_unknown_service_is_empty"]),
    (Defect::DropsMetadata, &["every_field_of_an_instance_is_kept"]),
    (Defect::ManglesText, &["awkward_text_is_kept"]),
    (Defect::ReturnsOneInstanceOnly, &["instances_are_sorted_by_id"]),
    (Defect::ReturnsOnePageOnly, &["a_service_with_many_instances_is_complete"]),
    (Defect::FailsOnGarbage, &["an_undecodable_record_is_skipped"]),
    (Defect::CachesForEver, &["registrations_of_one_registrar_are_independent"]),
    (
        Defect::NamesAnotherService,
        &["a_registration_can_be_resolved", "a_watch_sends_the_current_state_first"],
    ),
];

const REGISTER: Family = &[
    (Defect::RefusesToTakeOver, &["take_over_replaces_a_live_owner"]),
    (Defect::IgnoresTheClaim, &["if_vacant_fails_against_a_live_owner"]),
    (Defect::RefusesEveryVacancy, &["if_vacant_takes_a_free_id"]),
    (Defect::RefusesItsOwn, &["if_vacant_replaces_an_earlier_lease_of_the_same_registrar"]),
    (Defect::RemembersExpiredOwners, &["if_vacant_succeeds_after_the_owner_has_expired"]),
    (
        Defect::IgnoresTheTtl,
        &[
            "a_cancelled_registration_leaves_no_record_after_the_ttl",
            "an_unrenewed_record_expires_while_others_of_its_registrar_live",
            "a_watch_sees_an_expiry",
        ],
    ),
    (
        Defect::SharesOneLease,
        &[
            "an_unrenewed_record_expires_while_others_of_its_registrar_live",
            "registrations_of_one_registrar_are_independent",
        ],
    ),
    (Defect::LosesConcurrentRegistrations, &["concurrent_registrations_of_one_service_are_all_kept"]),
    (Defect::ChecksThenWrites, &["only_one_of_concurrent_claims_of_an_id_succeeds"]),
];

const LEASE: Family = &[
    (Defect::PromisesMoreThanGranted, &["a_lease_returns_the_granted_ttl"]),
    (Defect::DoesNotRenew, &["a_renewed_record_outlives_its_ttl"]),
    (
        Defect::RenewsUnconditionally,
        &[
            "renewing_an_expired_lease_fails",
            "renewing_a_superseded_lease_fails",
            "a_revoked_lease_cannot_be_renewed",
        ],
    ),
    (Defect::SupersededLeaseRemovesItsSuccessor, &["revoking_a_superseded_lease_keeps_its_successor"]),
    (Defect::SupersededLeaseUpdatesItsSuccessor, &["updating_a_superseded_lease_fails"]),
    (Defect::DoesNotRevoke, &["revoking_removes_the_record"]),
    (Defect::FailsTheSecondRevoke, &["revoking_twice_succeeds"]),
    (Defect::IgnoresUpdates, &["an_update_replaces_the_content"]),
    (Defect::UpdateProlongs, &["an_update_neither_prolongs_nor_ends_the_lease"]),
    (Defect::UpdateMayChangeTheId, &["an_update_cannot_change_the_id_or_the_service"]),
    (Defect::UpdateMayChangeTheService, &["an_update_cannot_change_the_id_or_the_service"]),
    (Defect::IgnoresADeletion, &["a_renewal_restores_a_deleted_record"]),
    (
        Defect::LosesItsLeaseWhenCancelled,
        &[
            "a_cancelled_renewal_leaves_the_lease_usable",
            "a_cancelled_update_is_settled_by_the_next_call",
            "a_cancelled_revocation_can_be_repeated",
        ],
    ),
];

const WATCH: Family = &[
    (Defect::IncludesServicesBelow, &["a_watch_sees_only_its_own_service"]),
    (Defect::UpdateRemovesFirst, &["a_watch_sees_an_update_without_a_gap"]),
    (Defect::NeverSendsAnEmptySnapshot, &["a_watch_of_an_unknown_service_sends_an_empty_snapshot"]),
    (Defect::SkipsTheCurrentState, &["a_watch_sends_the_current_state_first"]),
    (
        Defect::SilentAfterTheFirstSnapshot,
        &["a_watch_sees_registrations_and_revocations", "a_watch_keeps_sending_changes"],
    ),
    (Defect::SilentAfterASecond, &["a_watch_keeps_sending_changes"]),
    (Defect::MissesExpiries, &["a_watch_sees_an_expiry"]),
    (
        Defect::SurvivesTheConnection,
        &[
            "a_watch_ends_when_its_connection_is_cut",
            "a_watch_of_an_unreachable_registry_ends",
            "a_watch_of_a_silent_registry_ends",
        ],
    ),
    (Defect::SilentAfterACut, &["a_watch_opened_after_a_cut_sends_the_current_state"]),
    (Defect::EndsAtGarbage, &["a_watch_survives_an_undecodable_record"]),
    (Defect::BeginsWithAnOldSnapshot, &["a_new_watch_sends_everything_that_has_changed_since_the_last_one"]),
    (Defect::OneWatchOnly, &["watches_of_one_service_are_independent"]),
];

const CATALOG: Family = &[
    (Defect::CatalogIsEmpty, &["a_catalog_lists_the_services_with_instances"]),
    (Defect::CatalogIgnoresTheName, &["a_catalog_lists_a_service_and_those_below_it"]),
    (Defect::CatalogNeverForgets, &["a_catalog_lists_the_services_with_instances"]),
];

const OUTAGE: Family = &[
    (
        Defect::ResolvesToNothing,
        &["resolving_from_an_unreachable_registry_fails", "resolving_from_a_silent_registry_ends"],
    ),
    (
        Defect::ResolvesToTheLastList,
        &["resolving_from_an_unreachable_registry_fails", "resolving_from_a_silent_registry_ends"],
    ),
    (Defect::CachesForEver, &["resolving_from_an_unreachable_registry_fails"]),
    (Defect::RegistersWithoutTheRegistry, &["registering_at_an_unreachable_registry_fails"]),
    (Defect::RenewsWithoutTheRegistry, &["renewing_at_an_unreachable_registry_fails"]),
    (Defect::UpdatesWithoutTheRegistry, &["updating_at_an_unreachable_registry_fails"]),
    (Defect::RevertsAFailedUpdate, &["updating_at_an_unreachable_registry_fails"]),
    (Defect::RevokesWithoutTheRegistry, &["revoking_at_an_unreachable_registry_fails"]),
    (Defect::RevokesOnlyOnce, &["revoking_at_an_unreachable_registry_fails"]),
    (Defect::ReportsAnExpiredLease, &["renewing_at_an_unreachable_registry_fails"]),
    (
        Defect::WatchBeginsEmpty,
        &["opening_a_watch_of_an_unreachable_registry_fails", "opening_a_watch_of_a_silent_registry_ends"],
    ),
    (
        Defect::WatchBecomesEmpty,
        &["a_watch_of_an_unreachable_registry_ends", "a_watch_of_a_silent_registry_ends"],
    ),
    (
        Defect::WatchContinuesAfterItsError,
        &["a_watch_of_an_unreachable_registry_ends", "a_watch_ends_when_its_connection_is_cut"],
    ),
    (Defect::ListsNoServices, &["listing_services_of_an_unreachable_registry_fails"]),
    (
        Defect::ReportsPermanentErrors,
        &[
            "resolving_from_an_unreachable_registry_fails",
            "registering_at_an_unreachable_registry_fails",
            "renewing_at_an_unreachable_registry_fails",
            "updating_at_an_unreachable_registry_fails",
            "revoking_at_an_unreachable_registry_fails",
            "opening_a_watch_of_an_unreachable_registry_fails",
            "listing_services_of_an_unreachable_registry_fails",
        ],
    ),
    (
        Defect::ReportsUnexpectedErrors,
        &[
            "resolving_from_an_unreachable_registry_fails",
            "registering_at_an_unreachable_registry_fails",
            "renewing_at_an_unreachable_registry_fails",
            "updating_at_an_unreachable_registry_fails",
            "revoking_at_an_unreachable_registry_fails",
            "opening_a_watch_of_an_unreachable_registry_fails",
            "listing_services_of_an_unreachable_registry_fails",
        ],
    ),
    (
        Defect::NeverRecovers,
        &["all_handles_work_again_after_an_outage", "all_handles_work_again_after_a_silence"],
    ),
];

const SILENCE: Family = &[
    (Defect::NoDeadline(Operation::Resolve), &["resolving_from_a_silent_registry_ends"]),
    (Defect::NoDeadline(Operation::Register), &["registering_at_a_silent_registry_ends"]),
    (Defect::NoDeadline(Operation::Renew), &["renewing_at_a_silent_registry_ends"]),
    (Defect::NoDeadline(Operation::Update), &["updating_at_a_silent_registry_ends"]),
    (Defect::NoDeadline(Operation::Revoke), &["revoking_at_a_silent_registry_ends"]),
    (Defect::NoDeadline(Operation::Watch), &["opening_a_watch_of_a_silent_registry_ends"]),
    (Defect::NoDeadline(Operation::Services), &["listing_services_of_a_silent_registry_ends"]),
    (Defect::NoDeadlineToConnect(Operation::Resolve), &["resolving_from_a_silent_registry_ends"]),
    (Defect::NoDeadlineToConnect(Operation::Register), &["registering_at_a_silent_registry_ends"]),
    (Defect::NoDeadlineToConnect(Operation::Renew), &["renewing_at_a_silent_registry_ends"]),
    (Defect::NoDeadlineToConnect(Operation::Update), &["updating_at_a_silent_registry_ends"]),
    (Defect::NoDeadlineToConnect(Operation::Revoke), &["revoking_at_a_silent_registry_ends"]),
    (Defect::NoDeadlineToConnect(Operation::Watch), &["opening_a_watch_of_a_silent_registry_ends"]),
    (Defect::NoDeadlineToConnect(Operation::Services), &["listing_services_of_a_silent_registry_ends"]),
    (Defect::NoDeadlineOfAnOpenWatch, &["a_watch_of_a_silent_registry_ends"]),
    (Defect::SerializesItsCalls, &["concurrent_calls_to_a_silent_registry_all_end"]),
    (Defect::LeaksItsTurnWhenCancelled, &["calls_cancelled_during_a_silence_leave_all_handles_usable"]),
    (Defect::LosesItsLeaseWhenCancelled, &["calls_cancelled_during_a_silence_leave_all_handles_usable"]),
    (Defect::BlocksItsThread, &["resolving_from_a_silent_registry_ends"]),
];

const LOST_RESPONSE: Family = &[
    (
        Defect::ForgetsUnansweredRegistrations,
        &["a_registration_whose_response_was_lost_belongs_to_its_registrar"],
    ),
    (
        Defect::UnansweredLeaseRemovesTheRecord,
        &["a_registration_whose_response_was_lost_belongs_to_its_registrar"],
    ),
    (Defect::LosesItsLeaseWhenARenewalFails, &["a_renewal_whose_response_was_lost_leaves_the_lease_usable"]),
    (Defect::RevertsAFailedUpdate, &["an_update_whose_response_was_lost_is_kept_by_the_next_renewal"]),
    (Defect::FailsTheSecondRevoke, &["a_revocation_whose_response_was_lost_can_be_repeated"]),
];

/// The defects of the backend that passed the kit before it could disturb the registry.
const WORST: Family = &[(
    Defect::Worst,
    &[
        "resolving_from_an_unreachable_registry_fails",
        "opening_a_watch_of_an_unreachable_registry_fails",
        "listing_services_of_an_unreachable_registry_fails",
        "all_handles_work_again_after_an_outage",
        "resolving_from_a_silent_registry_ends",
        "registering_at_a_silent_registry_ends",
        "renewing_at_a_silent_registry_ends",
        "updating_at_a_silent_registry_ends",
        "revoking_at_a_silent_registry_ends",
        "opening_a_watch_of_a_silent_registry_ends",
        "a_watch_of_a_silent_registry_ends",
        "listing_services_of_a_silent_registry_ends",
        "all_handles_work_again_after_a_silence",
        "concurrent_calls_to_a_silent_registry_all_end",
    ],
)];

const FAMILIES: [Family; 9] =
    [RESOLVE, REGISTER, LEASE, WATCH, CATALOG, OUTAGE, SILENCE, LOST_RESPONSE, WORST];

/// The names of the behaviours that fail on a backend with this defect.
async fn caught(defect: Defect) -> BTreeSet<&'static str> {
    let failed = run_all(|| Arc::new(Broken::new(defect)) as Arc<dyn Harness>).await;
    failed.into_iter().map(|(behaviour, _)| behaviour).collect()
}

async fn catches(family: Family) {
    for (defect, behaviours) in family {
        let caught = caught(*defect).await;
        for behaviour in *behaviours {
            assert!(
                caught.contains(behaviour),
                "{behaviour} does not catch {defect:?}; caught by {caught:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_a_defect_passes() {
    let failed = run_all(|| Arc::new(Broken::new(Defect::None)) as Arc<dyn Harness>).await;
    assert!(failed.is_empty(), "{failed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_resolves_wrongly_is_caught() {
    catches(RESOLVE).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_registers_wrongly_is_caught() {
    catches(REGISTER).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_with_wrong_leases_is_caught() {
    catches(LEASE).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_with_wrong_watches_is_caught() {
    catches(WATCH).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_with_a_wrong_catalog_is_caught() {
    catches(CATALOG).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hides_an_outage_is_caught() {
    catches(OUTAGE).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_a_deadline_is_caught() {
    catches(SILENCE).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_forgets_an_unanswered_write_is_caught() {
    catches(LOST_RESPONSE).await;
}

/// And only by the behaviours that disturb the registry: all others it passes.
#[tokio::test(start_paused = true)]
async fn the_worst_backend_is_caught_by_every_behaviour_that_loses_the_registry() {
    catches(WORST).await;
    let expected: BTreeSet<_> = WORST.iter().flat_map(|(_, behaviours)| *behaviours).copied().collect();
    assert_eq!(caught(Defect::Worst).await, expected);
}

#[test]
fn no_behaviour_is_without_a_defect_that_it_catches() {
    let shown: BTreeSet<_> =
        FAMILIES.into_iter().flatten().flat_map(|(_, behaviours)| *behaviours).copied().collect();
    let all: BTreeSet<_> = BEHAVIOURS.iter().map(|behaviour| behaviour.name()).collect();
    assert_eq!(shown, all);
}
