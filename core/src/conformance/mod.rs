//! The conformance kit: what a backend must do, one behaviour a function. Feature `conformance`.
//!
//! A backend describes itself in a [`Harness`], and [`conformance_tests!`](crate::conformance_tests) makes one
//! test of each behaviour:
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//!
//! use async_trait::async_trait;
//! use hither_core::conformance::{Harness, Profile};
//! use hither_core::{Catalog, Error, InstanceId, Registrar, Resolver, ServiceName};
//! use hither_memory::MemoryRegistry;
//!
//! #[derive(Debug)]
//! struct Memory(MemoryRegistry);
//!
//! #[async_trait]
//! impl Harness for Memory {
//!     fn profile(&self) -> Profile {
//!         Profile::default()
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
//! }
//!
//! hither_core::conformance_tests! {
//!     #[tokio::test(start_paused = true)]
//!     harness: Memory(MemoryRegistry::new());
//!     ignore garbage = "shown elsewhere";
//!     ignore removal = "shown elsewhere";
//!     ignore cut = "shown elsewhere";
//! }
//! # fn main() {}
//! ```
//!
//! Time is Tokio's: a backend that needs no sockets runs the kit under paused time, in milliseconds. Behaviours
//! do not disturb each other, so those that wait for a real TTL may run side by side ([`run_all`]).

mod catalog;
mod lease;
mod probe;
mod register;
mod resolve;
mod watch;

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::JoinSet;

pub use probe::{Failure, Probe};

use crate::{Catalog, InstanceId, Registrar, Resolver, ServiceName};

/// A backend, as the kit sees it.
///
/// The hooks that reach behind the backend's back have defaults that say "cannot"; the behaviours that need
/// them are then to be ignored by name in [`conformance_tests!`](crate::conformance_tests), with the reason.
#[async_trait]
pub trait Harness: Debug + Send + Sync + 'static {
    /// How fast and how exact the registry is.
    fn profile(&self) -> Profile;

    /// A registrar that is another owner than all those given before, as another process would be, on the same
    /// registry.
    async fn registrar(&self) -> Arc<dyn Registrar>;

    /// A resolver of that registry.
    async fn resolver(&self) -> Arc<dyn Resolver>;

    /// The registry's catalog, if it can list services. Else: `ignore catalog`.
    async fn catalog(&self) -> Option<Arc<dyn Catalog>> {
        None
    }

    /// Puts a record that nobody can decode among those of `service`; whether that can be done. Else: `ignore
    /// garbage`.
    async fn put_garbage(&self, _service: &ServiceName) -> bool {
        false
    }

    /// Removes a record behind its owner's back while the lease lives; whether that can be done. Else: `ignore
    /// removal`.
    async fn remove_record(&self, _service: &ServiceName, _id: &InstanceId) -> bool {
        false
    }

    /// Takes the registry away from those who watch it through this harness now, and gives it back within the
    /// time that [`Profile::with_settle`] says; whether that can be done. Else: `ignore cut`. Registrations need
    /// not survive it.
    async fn cut(&self) -> bool {
        false
    }
}

/// How fast and how exact a registry is.
#[derive(Debug, Clone)]
pub struct Profile {
    min_ttl: Duration,
    granularity: Duration,
    settle: Duration,
}

impl Profile {
    /// The smallest TTL that the registry grants. Default 1 s.
    #[must_use]
    pub fn with_min_ttl(mut self, ttl: Duration) -> Self {
        self.min_ttl = ttl;
        self
    }

    /// How much later than its TTL a record may vanish. Default 1 s.
    #[must_use]
    pub fn with_granularity(mut self, granularity: Duration) -> Self {
        self.granularity = granularity;
        self
    }

    /// How long any one change may take to be seen by a reader. Default 5 s.
    #[must_use]
    pub fn with_settle(mut self, settle: Duration) -> Self {
        self.settle = settle;
        self
    }
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(1),
            granularity: Duration::from_secs(1),
            settle: Duration::from_secs(5),
        }
    }
}

/// One thing that a backend must do.
#[derive(Clone, Copy)]
pub struct Behaviour {
    name: &'static str,
    run: fn(Probe) -> Run,
}

type Run = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

impl Behaviour {
    /// The name: a sentence.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Shows whether the backend behind `harness` does it.
    ///
    /// # Errors
    /// What it did instead.
    pub async fn check(&self, harness: Arc<dyn Harness>) -> Result<(), Failure> {
        (self.run)(Probe::new(harness, self.name)).await
    }
}

impl Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Behaviour").field(&self.name).finish()
    }
}

/// Runs all behaviours side by side, each on a harness of its own, and gives back those that failed, sorted by
/// name. A behaviour that panics has failed.
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

/// Runs the behaviour of this name, and panics when it fails: what the tests of
/// [`conformance_tests!`](crate::conformance_tests) do.
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

/// Names every behaviour once: makes both the table [`BEHAVIOURS`] and the lists that the tests are made of.
macro_rules! behaviours {
    ($dollar:tt $($group:ident { $($module:ident: $($name:ident)+;)+ })+) => {
        /// Every behaviour that the kit knows.
        pub const BEHAVIOURS: &[Behaviour] = &[
            $($($(Behaviour { name: stringify!($name), run: |probe| Box::pin($module::$name(probe)) },)+)+)+
        ];

        /// One test a behaviour of a group.
        #[doc(hidden)]
        #[macro_export]
        macro_rules! __conformance_group {
            $(
                ($group [$dollar($dollar attributes:tt)*] ($dollar harness:expr)) => {
                    $($(
                        $dollar($dollar attributes)*
                        async fn $name() {
                            $dollar crate::conformance::assert_behaviour(stringify!($name), $dollar harness).await;
                        }
                    )+)+
                };
            )+
        }
    };
}

behaviours! { $
    always {
        resolve:
            an_unknown_service_is_empty
            a_registration_can_be_resolved
            all_that_an_instance_says_comes_back
            awkward_text_comes_back
            instances_are_sorted_by_id
            a_service_does_not_see_one_whose_name_begins_alike
            a_service_does_not_see_a_deeper_one;
        register:
            take_over_replaces_a_living_owner
            if_vacant_takes_a_free_id
            if_vacant_yields_to_a_living_owner
            if_vacant_takes_what_an_earlier_lease_of_the_same_registrar_holds
            if_vacant_takes_what_a_dead_owner_left
            registrations_of_one_registrar_are_independent
            a_dropped_register_leaves_nothing_past_the_ttl;
        lease:
            a_lease_says_what_was_granted
            a_renewed_record_outlives_its_ttl
            a_record_that_is_not_renewed_goes_even_while_others_of_its_registrar_live
            a_lease_that_expired_says_so
            a_lease_whose_id_was_taken_over_says_so
            an_old_lease_cannot_remove_its_successor
            an_old_lease_cannot_change_its_successor
            revoking_removes_the_record
            revoking_twice_is_fine
            a_revoked_lease_cannot_be_renewed
            an_update_changes_what_stands_there
            an_update_does_not_prolong_nor_lose_the_lease
            an_update_cannot_change_the_id;
        watch:
            a_watch_sends_the_present_state_first
            a_watch_of_nothing_sends_the_empty_snapshot
            a_watch_sees_who_joins_and_who_leaves
            a_watch_sees_an_expiry
            a_watch_sees_an_update_without_a_gap
            a_watch_does_not_go_deaf
            a_watch_sees_only_its_own_service
            a_new_watch_begins_with_all_that_changed_meanwhile
            watches_of_one_service_are_independent;
    }
    garbage {
        resolve: an_undecodable_record_fails_nothing;
        watch: a_watch_survives_an_undecodable_record;
    }
    removal {
        lease: a_renewal_puts_back_what_was_removed;
    }
    cut {
        watch:
            a_watch_ends_when_the_registry_is_lost
            a_watch_after_a_cut_has_the_present_state;
    }
    catalog {
        catalog:
            a_catalog_lists_the_services_with_instances
            a_catalog_lists_what_is_under_a_name;
    }
}

/// Makes one test of each behaviour of the conformance kit.
///
/// The attribute goes onto every test; the harness expression is evaluated once a test, and may `.await`. What
/// a backend cannot do is named, with its reason, and shows as ignored: `garbage`, `removal`, `cut`, `catalog`.
/// See the [module](crate::conformance) for an example.
#[macro_export]
macro_rules! conformance_tests {
    ($(#[$attribute:meta])+ harness: $harness:expr; $($profile:tt)*) => {
        $crate::__conformance_group!(always [$(#[$attribute])+] ($harness));
        $crate::__conformance_optional!(garbage [$(#[$attribute])+] ($harness) $($profile)*);
        $crate::__conformance_optional!(removal [$(#[$attribute])+] ($harness) $($profile)*);
        $crate::__conformance_optional!(cut [$(#[$attribute])+] ($harness) $($profile)*);
        $crate::__conformance_optional!(catalog [$(#[$attribute])+] ($harness) $($profile)*);
    };
}

/// A group of tests, ignored if the profile says so.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_optional {
    (garbage [$($attributes:tt)*] $harness:tt ignore garbage = $why:literal; $($profile:tt)*) => {
        $crate::__conformance_group!(garbage [$($attributes)* #[ignore = $why]] $harness);
    };
    (removal [$($attributes:tt)*] $harness:tt ignore removal = $why:literal; $($profile:tt)*) => {
        $crate::__conformance_group!(removal [$($attributes)* #[ignore = $why]] $harness);
    };
    (cut [$($attributes:tt)*] $harness:tt ignore cut = $why:literal; $($profile:tt)*) => {
        $crate::__conformance_group!(cut [$($attributes)* #[ignore = $why]] $harness);
    };
    (catalog [$($attributes:tt)*] $harness:tt ignore catalog = $why:literal; $($profile:tt)*) => {
        $crate::__conformance_group!(catalog [$($attributes)* #[ignore = $why]] $harness);
    };
    ($group:tt $attributes:tt $harness:tt ignore $other:ident = $why:literal; $($profile:tt)*) => {
        $crate::__conformance_optional!($group $attributes $harness $($profile)*);
    };
    ($group:tt $attributes:tt $harness:tt) => {
        $crate::__conformance_group!($group $attributes $harness);
    };
}
