//! The conformance kit against backends that each break one promise: it has to catch every one of them.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod broken;

use std::collections::BTreeSet;
use std::sync::Arc;

use broken::{Broken, Defect};
use hither_core::conformance::{BEHAVIOURS, Harness, run_all};

/// Each defect of one family, with the behaviours that must catch it; others may.
type Family = &'static [(Defect, &'static [&'static str])];

const RESOLVE: Family = &[
    (Defect::FindsNobody, &["a_registration_can_be_resolved"]),
    (Defect::LeaksNamesThatBeginAlike, &["a_service_does_not_see_one_whose_name_begins_alike"]),
    (Defect::LeaksDeeperServices, &["a_service_does_not_see_a_deeper_one"]),
    (Defect::FailsOnAnUnknownService, &["an_unknown_service_is_empty"]),
    (Defect::ForgetsMetadata, &["all_that_an_instance_says_comes_back"]),
    (Defect::MangledText, &["awkward_text_comes_back"]),
    (Defect::KnowsOneInstanceOnly, &["instances_are_sorted_by_id"]),
    (Defect::FailsOnGarbage, &["an_undecodable_record_fails_nothing"]),
];

const REGISTER: Family = &[
    (Defect::RefusesToTakeOver, &["take_over_replaces_a_living_owner"]),
    (Defect::IgnoresTheClaim, &["if_vacant_yields_to_a_living_owner"]),
    (Defect::RefusesEveryVacancy, &["if_vacant_takes_a_free_id"]),
    (Defect::RefusesItsOwn, &["if_vacant_takes_what_an_earlier_lease_of_the_same_registrar_holds"]),
    (Defect::RemembersTheDead, &["if_vacant_takes_what_a_dead_owner_left"]),
    (
        Defect::ForgetsTheTtl,
        &[
            "a_dropped_register_leaves_nothing_past_the_ttl",
            "a_record_that_is_not_renewed_goes_even_while_others_of_its_registrar_live",
            "a_watch_sees_an_expiry",
        ],
    ),
    (
        Defect::OneLeaseForAll,
        &[
            "a_record_that_is_not_renewed_goes_even_while_others_of_its_registrar_live",
            "registrations_of_one_registrar_are_independent",
        ],
    ),
];

const LEASE: Family = &[
    (Defect::PromisesMoreThanGranted, &["a_lease_says_what_was_granted"]),
    (Defect::DoesNotRenew, &["a_renewed_record_outlives_its_ttl"]),
    (
        Defect::RenewsWhateverHappened,
        &[
            "a_lease_that_expired_says_so",
            "a_lease_whose_id_was_taken_over_says_so",
            "a_revoked_lease_cannot_be_renewed",
        ],
    ),
    (Defect::OldLeaseRemovesTheNewRecord, &["an_old_lease_cannot_remove_its_successor"]),
    (Defect::OldLeaseChangesTheNewRecord, &["an_old_lease_cannot_change_its_successor"]),
    (Defect::DoesNotRevoke, &["revoking_removes_the_record"]),
    (Defect::FailsTheSecondRevoke, &["revoking_twice_is_fine"]),
    (Defect::IgnoresUpdates, &["an_update_changes_what_stands_there"]),
    (Defect::UpdateProlongs, &["an_update_does_not_prolong_nor_lose_the_lease"]),
    (Defect::UpdateMayChangeTheId, &["an_update_cannot_change_the_id"]),
    (Defect::LeavesWhatWasRemoved, &["a_renewal_puts_back_what_was_removed"]),
];

const WATCH: Family = &[
    (Defect::LeaksDeeperServices, &["a_watch_sees_only_its_own_service"]),
    (Defect::UpdateRemovesFirst, &["a_watch_sees_an_update_without_a_gap"]),
    (Defect::NeverSendsTheEmptySnapshot, &["a_watch_of_nothing_sends_the_empty_snapshot"]),
    (Defect::SendsNoPresentState, &["a_watch_sends_the_present_state_first"]),
    (Defect::DeafAfterTheFirst, &["a_watch_sees_who_joins_and_who_leaves", "a_watch_does_not_go_deaf"]),
    (Defect::DeafAfterAWhile, &["a_watch_does_not_go_deaf"]),
    (Defect::DeafToExpiry, &["a_watch_sees_an_expiry"]),
    (Defect::DeafToTheRegistrysEnd, &["a_watch_ends_when_the_registry_is_lost"]),
    (Defect::DeafAfterACut, &["a_watch_after_a_cut_has_the_present_state"]),
    (Defect::EndsAtGarbage, &["a_watch_survives_an_undecodable_record"]),
    (Defect::BeginsWithAnOldSnapshot, &["a_new_watch_begins_with_all_that_changed_meanwhile"]),
    (Defect::OneWatchOnly, &["watches_of_one_service_are_independent"]),
];

const CATALOG: Family = &[
    (Defect::CatalogKnowsNothing, &["a_catalog_lists_the_services_with_instances"]),
    (Defect::CatalogIgnoresTheName, &["a_catalog_lists_what_is_under_a_name"]),
    (Defect::CatalogNeverForgets, &["a_catalog_lists_the_services_with_instances"]),
];

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
async fn a_sound_backend_passes() {
    assert_eq!(caught(Defect::None).await, BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_resolves_wrongly_is_caught() {
    catches(RESOLVE).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_lets_the_wrong_ones_register_is_caught() {
    catches(REGISTER).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_leases_mean_nothing_is_caught() {
    catches(LEASE).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_watches_cannot_be_trusted_is_caught() {
    catches(WATCH).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_whose_catalog_is_wrong_is_caught() {
    catches(CATALOG).await;
}

#[test]
fn no_behaviour_is_without_a_defect_that_it_catches() {
    let families = [RESOLVE, REGISTER, LEASE, WATCH, CATALOG];
    let shown: BTreeSet<_> =
        families.into_iter().flatten().flat_map(|(_, behaviours)| *behaviours).copied().collect();
    let all: BTreeSet<_> = BEHAVIOURS.iter().map(|behaviour| behaviour.name()).collect();
    assert_eq!(shown, all);
}
