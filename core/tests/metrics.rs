//! What an exporter is given of registrations and watches. The names are written out here once more: a rename breaks dashboards.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hither_core::{
    Discovery, ErrorKind, Instance, Registration, RegistrationConfig, RegistrationHandle, RegistrationStatus,
    ServiceName, keep_registered,
};
use hither_memory::{MemoryRegistry, Operation};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(30);

fn recorder() -> PrometheusRecorder {
    PrometheusBuilder::new().build_recorder()
}

/// All time series, as `name{label="value",…}`.
fn series(recorder: &PrometheusRecorder) -> BTreeMap<String, f64> {
    let text = recorder.handle().render();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let lines = lines.map(|line| line.rsplit_once(' ').unwrap());
    lines.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// The series of the service `greeter` whose names begin so, without those of 0: the rest of the name, and the value.
fn of(recorder: &PrometheusRecorder, name: &str) -> Vec<(String, f64)> {
    let found = series(recorder).into_iter().filter(|(_, value)| *value != 0.0);
    let found = found.filter_map(|(series, value)| {
        let rest = series.strip_prefix(&format!("hither_{name}{{hither_service=\"greeter\""))?;
        let rest = rest.trim_start_matches(',').trim_end_matches('}');
        let rest = rest.split_once('=').map_or(rest, |(_, value)| value.trim_matches('"'));
        Some((rest.to_owned(), value))
    });
    found.collect()
}

fn pairs<const N: usize>(expected: [(&str, f64); N]) -> Vec<(String, f64)> {
    expected.map(|(label, value)| (label.to_owned(), value)).to_vec()
}

fn service() -> ServiceName {
    "greeter".parse().unwrap()
}

fn instance() -> Instance {
    Instance::new("10.0.0.7:8001".parse().unwrap())
}

fn keep(registry: &MemoryRegistry) -> RegistrationHandle {
    let registration = Registration::new(service(), instance()).unwrap().with_ttl(TTL).unwrap();
    keep_registered(registry.clone(), registration, RegistrationConfig::default().with_seed(7))
}

async fn kept(registry: &MemoryRegistry) -> RegistrationHandle {
    let handle = keep(registry);
    handle.registered().await.unwrap();
    handle
}

#[tokio::test(start_paused = true)]
async fn the_names_and_labels_are_those_that_are_documented() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    let mut view = Discovery::new(registry.connect()).service(&service());
    view.wait_ready(SECOND).await.unwrap();
    registry.faults().stop();
    view.changed().await.unwrap();
    sleep(TTL).await;
    registry.faults().start();
    sleep(TTL).await;
    handle.update(instance().with_weight(2)).await.unwrap();
    handle.deregister().await.unwrap();

    let text = recorder.handle().render();
    let kinds: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let found: BTreeSet<_> = series(&recorder)
        .into_keys()
        .map(|series| {
            let (name, labels) = series.split_once('{').unwrap();
            let labels =
                labels.trim_end_matches('}').split(',').map(|label| label.split_once('=').unwrap().0);
            (name.to_owned(), kinds[name].to_owned(), labels.collect::<Vec<_>>().join(" "))
        })
        .collect();
    let expected = [
        ("hither.discovery.snapshots", "counter", "hither.service hither.source"),
        ("hither.discovery.watch_failures", "counter", "hither.service hither.reason"),
        ("hither.discovery.watches", "counter", "hither.service"),
        ("hither.registration.deregistrations", "counter", "hither.service hither.outcome"),
        ("hither.registration.instances", "gauge", "hither.service hither.state"),
        ("hither.registration.registrations", "counter", "hither.service hither.outcome"),
        ("hither.registration.renewals", "counter", "hither.service hither.outcome"),
        ("hither.registration.reregistrations", "counter", "hither.service hither.reason"),
        ("hither.registration.staleness", "gauge", "hither.service"),
        ("hither.registration.updates", "counter", "hither.service hither.outcome"),
    ];
    let for_prometheus = expected
        .map(|(name, kind, labels)| (name.replace('.', "_"), kind.to_owned(), labels.replace('.', "_")));
    assert_eq!(Vec::from_iter(found), for_prometheus);
    let page = include_str!("../../docs/observability.md");
    for (name, kind, labels) in expected {
        let row = page.lines().find(|line| line.starts_with(&format!("| `{name}` | {kind} |")));
        let row = row.unwrap_or_else(|| panic!("{name} is not on the page"));
        for label in labels.split(' ').skip(1) {
            assert!(row.contains(&format!("`{label}`")), "{label} is not in {row}");
        }
    }
    assert!(kinds.keys().all(|name| text.contains(&format!("# HELP {name} "))), "{text}");
}

#[tokio::test(start_paused = true)]
async fn renewals_and_updates_are_counted_by_outcome() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    sleep(10 * TTL).await;
    registry.faults().fail_next_of(Operation::Renew, 2, ErrorKind::Unavailable);
    sleep(TTL).await;
    handle.update(instance().with_weight(2)).await.unwrap();
    registry.faults().fail_next_of(Operation::Update, 1, ErrorKind::Timeout);
    handle.update(instance().with_weight(3)).await.unwrap();
    assert_eq!(of(&recorder, "registration_registrations"), pairs([("ok", 1.0)]));
    let ok = registry.faults().calls_of(Operation::Renew) - 2;
    let ok = f64::from(u32::try_from(ok).unwrap());
    assert_eq!(of(&recorder, "registration_renewals"), pairs([("ok", ok), ("unavailable", 2.0)]));
    assert_eq!(of(&recorder, "registration_updates"), pairs([("ok", 2.0), ("timed out", 1.0)]));
    assert_eq!(of(&recorder, "registration_reregistrations"), []);
}

#[tokio::test(start_paused = true)]
async fn reregistrations_are_counted_by_why_the_registration_was_lost() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    let zeros = series(&recorder);
    assert_eq!(
        zeros["hither_registration_reregistrations{hither_service=\"greeter\",hither_reason=\"lease expired\"}"],
        0.0
    );
    registry.faults().expire_all();
    sleep(TTL).await;
    assert_eq!(of(&recorder, "registration_reregistrations"), pairs([("lease expired", 1.0)]));
    handle.withdraw();
    sleep(SECOND).await;
    assert_eq!(of(&recorder, "registration_instances"), pairs([("WITHDRAWN", 1.0)]));
    handle.restore();
    sleep(SECOND).await;
    assert_eq!(
        of(&recorder, "registration_reregistrations"),
        pairs([("lease expired", 1.0), ("withdrawn", 1.0)])
    );
    // A registry that was restored from a copy has the record of a dead process, for as long as its lease lasts.
    registry.faults().fail_next_of(Operation::Register, 3, ErrorKind::Superseded);
    registry.faults().expire_all();
    sleep(2 * TTL).await;
    handle.registered().await.unwrap();
    assert_eq!(
        of(&recorder, "registration_reregistrations"),
        pairs([("lease expired", 1.0), ("superseded", 1.0), ("withdrawn", 1.0)])
    );
}

#[tokio::test(start_paused = true)]
async fn instances_are_counted_by_state_and_no_longer_when_their_handle_is_gone() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let (registry, other) = (MemoryRegistry::new(), MemoryRegistry::new());
    let states = || of(&recorder, "registration_instances");
    let one = kept(&registry).await;
    let two = kept(&other).await;
    assert_eq!(states(), pairs([("REGISTERED", 2.0)]));
    registry.faults().stop();
    sleep(TTL).await;
    assert_eq!(states(), pairs([("REGISTERED", 1.0), ("RETRYING", 1.0)]));
    registry.faults().start();
    sleep(TTL).await;
    assert_eq!(states(), pairs([("REGISTERED", 2.0)]));
    // The task has ended, and the program should know.
    other.faults().take_over(&service(), instance());
    sleep(TTL).await;
    assert!(matches!(two.status(), RegistrationStatus::Superseded));
    assert_eq!(states(), pairs([("REGISTERED", 1.0), ("SUPERSEDED", 1.0)]));
    drop(two);
    one.deregister().await.unwrap();
    assert_eq!(states(), pairs([("DEREGISTERED", 1.0)]));
    assert_eq!(of(&recorder, "registration_deregistrations"), pairs([("ok", 1.0)]));
    drop(one);
    assert_eq!(states(), []);
}

#[tokio::test(start_paused = true)]
async fn staleness_grows_while_the_registry_confirms_nothing() {
    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let registry = MemoryRegistry::new();
    let handle = kept(&registry).await;
    let staleness = || series(&recorder)["hither_registration_staleness{hither_service=\"greeter\"}"];
    sleep(10 * TTL).await;
    assert_eq!(staleness(), 0.0);
    registry.faults().stop();
    for seconds in [100.0, 1000.0] {
        sleep(Duration::from_secs_f64(seconds)).await;
        let stale = staleness();
        assert!((seconds - 20.0..seconds + 120.0).contains(&stale), "{stale} after {seconds} s");
    }
    registry.faults().start();
    sleep(TTL).await;
    assert_eq!(staleness(), 0.0);
    // A registration that ends is stale no longer.
    registry.faults().stop();
    sleep(10 * TTL).await;
    assert!(staleness() > 0.0);
    drop(handle);
    sleep(10 * TTL).await;
    assert_eq!(staleness(), 0.0);
}

#[tokio::test(start_paused = true)]
async fn watches_their_failures_and_snapshots_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let registry = MemoryRegistry::new();
    let _handle = kept(&registry).await;
    let discovery =
        || Discovery::builder(registry.connect()).cache_dir(directory.path()).build().service(&service());
    let view = discovery();
    view.wait_ready(SECOND).await.unwrap();
    while std::fs::read_dir(directory.path())
        .unwrap()
        .all(|file| file.unwrap().path().extension().is_none_or(|name| name != "json"))
    {
        sleep(SECOND).await;
    }
    drop(view);

    let recorder = recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    registry.faults().stop();
    let mut view = discovery();
    view.changed().await.unwrap();
    sleep(SECOND).await;
    assert_eq!(of(&recorder, "discovery_snapshots"), pairs([("disk", 1.0)]));
    assert_eq!(of(&recorder, "discovery_watches"), []);
    registry.faults().start();
    sleep(TTL).await;
    assert_eq!(of(&recorder, "discovery_snapshots"), pairs([("disk", 1.0), ("registry", 1.0)]));
    assert_eq!(of(&recorder, "discovery_watches"), pairs([("", 1.0)]));
    let [(reason, failures)] = <[_; 1]>::try_from(of(&recorder, "discovery_watch_failures")).unwrap();
    assert_eq!(reason, "unavailable");
    registry.faults().cut_watches();
    sleep(TTL).await;
    assert_eq!(of(&recorder, "discovery_watch_failures"), [(reason, failures + 1.0)]);
    assert_eq!(of(&recorder, "discovery_watches"), pairs([("", 2.0)]));
    assert_eq!(of(&recorder, "discovery_snapshots"), pairs([("disk", 1.0), ("registry", 2.0)]));
}
