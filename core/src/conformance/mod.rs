//! The conformance kit: tests of what every backend must do, one behaviour a function. Feature `conformance`.
//!
//! A backend describes itself in a [`Harness`], and [`conformance_tests!`](crate::conformance_tests) makes one test of
//! each behaviour:
//!
//! ```
//! use std::sync::Arc;
//!
//! use async_trait::async_trait;
//! use hither_core::conformance::{Harness, HarnessConfig};
//! use hither_core::{Catalog, Registrar, Resolver};
//! use hither_memory::MemoryRegistry;
//!
//! #[derive(Debug)]
//! struct Memory(MemoryRegistry);
//!
//! #[async_trait]
//! impl Harness for Memory {
//!     fn config(&self) -> HarnessConfig {
//!         HarnessConfig::default()
//!     }
//!
//!     async fn registrar(&self) -> Arc<dyn Registrar> {
//!         Arc::new(self.0.connect())
//!     }
//!
//!     async fn resolver(&self) -> Arc<dyn Resolver> {
//!         Arc::new(self.0.clone())
//!     }
//!
//!     async fn catalog(&self) -> Option<Arc<dyn Catalog>> {
//!         Some(Arc::new(self.0.clone()))
//!     }
//!
//!     async fn make_unreachable(&self) -> bool {
//!         self.0.faults().stop();
//!         true
//!     }
//!
//!     async fn make_silent(&self) -> bool {
//!         self.0.faults().freeze();
//!         true
//!     }
//!
//!     async fn restore(&self) {
//!         self.0.faults().start();
//!         self.0.faults().thaw();
//!     }
//! }
//!
//! hither_core::conformance_tests! {
//!     #[tokio::test(start_paused = true)]
//!     harness: Memory(MemoryRegistry::new());
//!     ignore garbage = "this example has no hook for it";
//!     ignore deletion = "this example has no hook for it";
//!     ignore cut = "this example has no hook for it";
//!     ignore lost_response = "this example has no hook for it";
//! }
//! # fn main() {}
//! ```
//!
//! # How to write a harness
//!
//! 1. **Make a type that holds a registry of its own**, and make it in the `harness:` expression, which each test
//!    evaluates anew. Starting one server for all tests is fine: give each harness its own prefix, and its own proxy
//!    (step 4), because a disturbance must not reach the handles of another test. Service names are unique in any case.
//! 2. **Return handles**: [`registrar`](Harness::registrar) a new identity each time, as another process has;
//!    [`resolver`](Harness::resolver) any handle; [`catalog`](Harness::catalog) if the backend has one.
//! 3. **Describe the timing** in a [`HarnessConfig`]: the smallest TTL, how late expired records may vanish, how soon a
//!    reader sees a change, and the deadline of a call that gets no response. Configure the backend's own timeouts
//!    short in its tests (1 or 2 s), since each behaviour with a silent registry waits for them twice. The values are
//!    limits and not delays: a generous one costs a good backend no time.
//! 4. **Disturb the connection.** For a registry on the network, let all handles connect through a TCP proxy in the
//!    harness that can do four things: refuse new connections and close the open ones
//!    ([`make_unreachable`](Harness::make_unreachable)); keep all of them open and forward nothing
//!    ([`make_silent`](Harness::make_silent)); forward requests up to the one that writes the record and drop every
//!    response from there on ([`lose_next_response`](Harness::lose_next_response)); close all connections once
//!    ([`cut`](Harness::cut)). [`restore`](Harness::restore) makes it forward again. hither-etcd's tests have such a
//!    proxy (`backend-etcd/tests/support/proxy.rs`).
//! 5. **Write around the backend**, with a client of your own: a record that cannot be decoded
//!    ([`put_garbage`](Harness::put_garbage)), and a deletion that the owner does not know of
//!    ([`delete_record`](Harness::delete_record)).
//! 6. **Ignore what does not apply**, group by group and with the reason; the tests then show as ignored. A registry
//!    that cannot compare and swap, for instance, lets two claims of one id succeed at the same time: `ignore contention
//!    = "files have no compare-and-swap"`.
//!
//! A hook that returns `false` fails its behaviours, with the name of the group to ignore. A failure names what the
//! backend did instead. A call that blocks its thread fails when it returns; one that blocks for ever hangs its test,
//! since on that thread no timeout can run.
//!
//! Time is Tokio's: a backend without sockets runs the kit under paused time, in milliseconds. Behaviours do not affect
//! each other, so those that wait for a real TTL run concurrently ([`run_all`], or the test runner's threads).
//!
//! # Stability
//!
//! A minor release may add behaviours, hooks with a default, and groups. So a backend that passes today may fail
//! tomorrow: because it has a defect that the kit did not find before, or because a hook is to be implemented or ignored.
//! Names of behaviours may change too; hooks and the names of groups do not.

mod cancellation;
mod catalog;
mod config;
mod contention;
mod failure;
mod harness;
mod lease;
mod lost_response;
mod macros;
mod outage;
mod probe;
mod register;
mod resolve;
mod watch;

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::task::JoinSet;

pub use config::HarnessConfig;
pub use failure::Failure;
pub use harness::{Harness, Write};
use probe::Probe;

/// One thing that a backend must do.
#[derive(Clone, Copy)]
pub struct Behaviour {
    name: &'static str,
    run: fn(Probe) -> Run,
}

type Run = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

impl Behaviour {
    /// Returns the name: a sentence.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Checks the backend behind `harness`.
    ///
    /// # Errors
    /// What the backend did instead.
    pub async fn check(&self, harness: Arc<dyn Harness>) -> Result<(), Failure> {
        (self.run)(Probe::new(harness, self.name)).await
    }
}

impl Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Behaviour").field(&self.name).finish()
    }
}

/// Runs all behaviours concurrently, each on its own harness. Returns those that failed, sorted by name. A behaviour
/// that panics has failed.
pub async fn run_all(harness: impl Fn() -> Arc<dyn Harness>) -> Vec<(&'static str, Failure)> {
    let mut running = JoinSet::new();
    let mut names = HashMap::new();
    for behaviour in BEHAVIOURS {
        let harness = harness();
        let task = running.spawn(async move { behaviour.check(harness).await });
        names.insert(task.id(), behaviour.name);
    }
    let mut failed = Vec::new();
    while let Some(ended) = running.join_next_with_id().await {
        let (id, failure) = match ended {
            Ok((_, Ok(()))) => continue,
            Ok((id, Err(failure))) => (id, failure),
            Err(panic) => (panic.id(), Failure::new(format!("it panicked: {panic}"))),
        };
        failed.extend(names.get(&id).map(|name| (*name, failure)));
    }
    failed.sort_by_key(|(name, _)| *name);
    failed
}

/// Runs the behaviour of this name and panics if it fails: the body of each test of
/// [`conformance_tests!`](crate::conformance_tests).
///
/// # Panics
/// When the behaviour fails, with what the backend did instead.
#[allow(clippy::panic, reason = "it is the assertion of a test")]
pub async fn assert_behaviour(name: &str, harness: impl Harness) {
    let Some(behaviour) = BEHAVIOURS.iter().find(|behaviour| behaviour.name == name) else {
        panic!("the kit has no behaviour {name}");
    };
    if let Err(failure) = behaviour.check(Arc::new(harness)).await {
        panic!("{}: {failure}", name.replace('_', " "));
    }
}

macros::behaviours! { $
    always {
        resolve:
            an_unknown_service_is_empty
            a_registration_can_be_resolved
            every_field_of_an_instance_is_kept
            awkward_text_is_kept
            instances_are_sorted_by_id
            a_service_with_many_instances_is_complete
            a_service_does_not_include_one_with_the_same_prefix
            a_service_does_not_include_services_below_it;
        register:
            take_over_replaces_a_live_owner
            if_vacant_takes_a_free_id
            if_vacant_fails_against_a_live_owner
            if_vacant_replaces_an_earlier_lease_of_the_same_registrar
            if_vacant_succeeds_after_the_owner_has_expired
            registrations_of_one_registrar_are_independent
            a_cancelled_registration_leaves_no_record_after_the_ttl;
        contention:
            concurrent_registrations_of_one_service_are_all_kept;
        lease:
            a_lease_returns_the_granted_ttl
            a_renewed_record_outlives_its_ttl
            an_unrenewed_record_expires_while_others_of_its_registrar_live
            renewing_an_expired_lease_fails
            renewing_a_superseded_lease_fails
            revoking_a_superseded_lease_keeps_its_successor
            updating_a_superseded_lease_fails
            revoking_removes_the_record
            revoking_twice_succeeds
            a_revoked_lease_cannot_be_renewed
            an_update_replaces_the_content
            an_update_neither_prolongs_nor_ends_the_lease
            an_update_cannot_change_the_id_or_the_service;
        cancellation:
            a_cancelled_renewal_leaves_the_lease_usable
            a_cancelled_update_is_settled_by_the_next_call
            a_cancelled_revocation_can_be_repeated;
        watch:
            a_watch_sends_the_current_state_first
            a_watch_of_an_unknown_service_sends_an_empty_snapshot
            a_watch_sees_registrations_and_revocations
            a_watch_sees_an_expiry
            a_watch_sees_an_update_without_a_gap
            a_watch_keeps_sending_changes
            a_watch_sees_only_its_own_service
            a_new_watch_sends_everything_that_has_changed_since_the_last_one
            watches_of_one_service_are_independent;
    }
    contention {
        contention:
            only_one_of_concurrent_claims_of_an_id_succeeds;
    }
    garbage {
        resolve: an_undecodable_record_is_skipped;
        watch: a_watch_survives_an_undecodable_record;
    }
    deletion {
        lease: a_renewal_restores_a_deleted_record;
    }
    cut {
        watch:
            a_watch_ends_when_its_connection_is_cut
            a_watch_opened_after_a_cut_sends_the_current_state;
    }
    outage {
        outage:
            resolving_from_an_unreachable_registry_fails
            registering_at_an_unreachable_registry_fails
            renewing_at_an_unreachable_registry_fails
            updating_at_an_unreachable_registry_fails
            revoking_at_an_unreachable_registry_fails
            opening_a_watch_of_an_unreachable_registry_fails
            a_watch_of_an_unreachable_registry_ends
            all_handles_work_again_after_an_outage;
    }
    silence {
        outage:
            resolving_from_a_silent_registry_ends
            registering_at_a_silent_registry_ends
            renewing_at_a_silent_registry_ends
            updating_at_a_silent_registry_ends
            revoking_at_a_silent_registry_ends
            opening_a_watch_of_a_silent_registry_ends
            a_watch_of_a_silent_registry_ends
            all_handles_work_again_after_a_silence
            concurrent_calls_to_a_silent_registry_all_end
            calls_cancelled_during_a_silence_leave_all_handles_usable;
    }
    lost_response {
        lost_response:
            a_registration_whose_response_was_lost_belongs_to_its_registrar
            a_renewal_whose_response_was_lost_leaves_the_lease_usable
            an_update_whose_response_was_lost_is_kept_by_the_next_renewal
            a_revocation_whose_response_was_lost_can_be_repeated;
    }
    catalog {
        catalog:
            a_catalog_lists_the_services_with_instances
            a_catalog_lists_a_service_and_those_below_it;
    }
    outage_catalog {
        outage: listing_services_of_an_unreachable_registry_fails;
    }
    silence_catalog {
        outage: listing_services_of_a_silent_registry_ends;
    }
}
