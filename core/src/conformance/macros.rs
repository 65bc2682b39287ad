//! The table of behaviours, and the tests that are made from it.

/// Names every behaviour once: makes the table [`BEHAVIOURS`](super::BEHAVIOURS) and the groups of tests.
macro_rules! behaviours {
    ($dollar:tt $($group:ident { $($module:ident: $($name:ident)+;)+ })+) => {
        /// All behaviours of the kit.
        pub const BEHAVIOURS: &[Behaviour] = &[
            $($($(Behaviour { name: stringify!($name), run: |probe| Box::pin($module::$name(probe)) },)+)+)+
        ];

        /// One test for each behaviour of a group.
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

pub(super) use behaviours;

/// Makes one test of each behaviour of the conformance kit.
///
/// The attribute is put on every test. The harness expression is evaluated in each test, and may `.await`. What does not
/// apply to a backend is ignored by group, with the reason:
///
/// | group | behaviours |
/// |---|---|
/// | `catalog` | lists of services |
/// | `contention` | concurrent claims of one id |
/// | `cut` | a short interruption of the connection |
/// | `deletion` | a record that was deleted without its owner's knowledge |
/// | `garbage` | a record that cannot be decoded |
/// | `lost_response` | a write that took effect and got no response |
/// | `outage` | an unreachable registry |
/// | `silence` | a registry that does not respond |
///
/// See the [module](crate::conformance) for an example.
#[macro_export]
macro_rules! conformance_tests {
    ($(#[$attribute:meta])+ harness: $harness:expr; $($ignores:tt)*) => {
        $crate::__conformance_ignores!($($ignores)*);
        $crate::__conformance_group!(always [$(#[$attribute])+] ($harness));
        $crate::__conformance_optional!(catalog [$(#[$attribute])+] ($harness) $($ignores)*);
        $crate::__conformance_optional!(contention [$(#[$attribute])+] ($harness) $($ignores)*);
        $crate::__conformance_optional!(cut [$(#[$attribute])+] ($harness) $($ignores)*);
        $crate::__conformance_optional!(deletion [$(#[$attribute])+] ($harness) $($ignores)*);
        $crate::__conformance_optional!(garbage [$(#[$attribute])+] ($harness) $($ignores)*);
        $crate::__conformance_optional!(lost_response [$(#[$attribute])+] ($harness) $($ignores)*);
        $crate::__conformance_optional!(outage [$(#[$attribute])+] ($harness) $($ignores)*);
        $crate::__conformance_optional!(outage_catalog [$(#[$attribute])+] ($harness) $($ignores)*);
        $crate::__conformance_optional!(silence [$(#[$attribute])+] ($harness) $($ignores)*);
        $crate::__conformance_optional!(silence_catalog [$(#[$attribute])+] ($harness) $($ignores)*);
    };
}

/// Refuses to ignore a group that does not exist.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_ignores {
    () => {};
    (ignore catalog = $why:literal; $($rest:tt)*) => { $crate::__conformance_ignores!($($rest)*); };
    (ignore contention = $why:literal; $($rest:tt)*) => { $crate::__conformance_ignores!($($rest)*); };
    (ignore cut = $why:literal; $($rest:tt)*) => { $crate::__conformance_ignores!($($rest)*); };
    (ignore deletion = $why:literal; $($rest:tt)*) => { $crate::__conformance_ignores!($($rest)*); };
    (ignore garbage = $why:literal; $($rest:tt)*) => { $crate::__conformance_ignores!($($rest)*); };
    (ignore lost_response = $why:literal; $($rest:tt)*) => { $crate::__conformance_ignores!($($rest)*); };
    (ignore outage = $why:literal; $($rest:tt)*) => { $crate::__conformance_ignores!($($rest)*); };
    (ignore silence = $why:literal; $($rest:tt)*) => { $crate::__conformance_ignores!($($rest)*); };
    (ignore $other:ident = $why:literal; $($rest:tt)*) => {
        compile_error!(concat!("the conformance kit has no group `", stringify!($other), "`"));
    };
}

/// The tests of a group, ignored if one of the groups that it needs is.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_optional {
    (catalog [$($attributes:tt)*] $harness:tt ignore catalog = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(catalog [$($attributes)* #[ignore = $why]] $harness);
    };
    (contention [$($attributes:tt)*] $harness:tt ignore contention = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(contention [$($attributes)* #[ignore = $why]] $harness);
    };
    (cut [$($attributes:tt)*] $harness:tt ignore cut = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(cut [$($attributes)* #[ignore = $why]] $harness);
    };
    (deletion [$($attributes:tt)*] $harness:tt ignore deletion = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(deletion [$($attributes)* #[ignore = $why]] $harness);
    };
    (garbage [$($attributes:tt)*] $harness:tt ignore garbage = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(garbage [$($attributes)* #[ignore = $why]] $harness);
    };
    (lost_response [$($attributes:tt)*] $harness:tt ignore lost_response = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(lost_response [$($attributes)* #[ignore = $why]] $harness);
    };
    (outage [$($attributes:tt)*] $harness:tt ignore outage = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(outage [$($attributes)* #[ignore = $why]] $harness);
    };
    (outage_catalog [$($attributes:tt)*] $harness:tt ignore outage = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(outage_catalog [$($attributes)* #[ignore = $why]] $harness);
    };
    (outage_catalog [$($attributes:tt)*] $harness:tt ignore catalog = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(outage_catalog [$($attributes)* #[ignore = $why]] $harness);
    };
    (silence [$($attributes:tt)*] $harness:tt ignore silence = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(silence [$($attributes)* #[ignore = $why]] $harness);
    };
    (silence_catalog [$($attributes:tt)*] $harness:tt ignore silence = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(silence_catalog [$($attributes)* #[ignore = $why]] $harness);
    };
    (silence_catalog [$($attributes:tt)*] $harness:tt ignore catalog = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_group!(silence_catalog [$($attributes)* #[ignore = $why]] $harness);
    };
    ($group:tt $attributes:tt $harness:tt ignore $other:ident = $why:literal; $($rest:tt)*) => {
        $crate::__conformance_optional!($group $attributes $harness $($rest)*);
    };
    ($group:tt $attributes:tt $harness:tt) => {
        $crate::__conformance_group!($group $attributes $harness);
    };
}
