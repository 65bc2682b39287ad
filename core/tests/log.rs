//! The log: one line for each outage, and one for its end, however long it lasts.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{
    Claim, Discovery, ErrorKind, Instance, Registrar, Registration, RegistrationConfig, ServiceName,
    keep_registered,
};
use hither_memory::{MemoryRegistry, Operation};
use tempfile::NamedTempFile;
use tokio::time::sleep;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;

/// The log lines of one test.
struct Log(NamedTempFile);

/// Captures the log of this thread, on which the whole test runs.
fn capture() -> (Log, DefaultGuard) {
    capture_to(LevelFilter::INFO)
}

fn capture_to(level: LevelFilter) -> (Log, DefaultGuard) {
    let log = Log(NamedTempFile::new().unwrap());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(Arc::new(log.0.reopen().unwrap()))
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

impl Log {
    /// The lines since the last call, sorted.
    fn take(&mut self) -> Vec<String> {
        let mut text = String::new();
        self.0.read_to_string(&mut text).unwrap();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

fn assert_lines(log: &mut Log, expected: &[&[&str]]) {
    let lines = log.take();
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, words) in lines.iter().zip(expected) {
        assert!(words.iter().all(|word| line.contains(word)), "{line} has not {words:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_an_hour_logs_two_lines_for_a_registration_and_two_for_a_view() {
    let (mut log, _guard) = capture();
    let (registry, service) = (MemoryRegistry::new(), "svc".parse::<ServiceName>().unwrap());
    let registration =
        Registration::new(service.clone(), Instance::new("10.0.0.1:80".parse().unwrap())).unwrap();
    let handle = keep_registered(registry.clone(), registration, RegistrationConfig::default());
    handle.registered().await.unwrap();
    let view = Discovery::new(registry.clone()).service(&service);
    view.wait_ready(Duration::from_secs(5)).await.unwrap();
    assert_lines(&mut log, &[&["INFO", "svc", "registered"]]);

    for _ in 0..2 {
        registry.faults().stop();
        sleep(Duration::from_secs(3600)).await;
        let cause = "registry";
        assert_lines(
            &mut log,
            &[
                &["WARN", "svc", "renewal failed; retrying", cause],
                &["WARN", "svc", "watch lost; retrying", cause],
            ],
        );
        registry.faults().start();
        sleep(Duration::from_secs(60)).await;
        assert_lines(
            &mut log,
            &[&["INFO", "svc", "registration restored"], &["INFO", "svc", "watch re-established"]],
        );
    }

    // Neither does a refusal that only an operator can correct log more.
    registry.faults().fail_next(u64::MAX, ErrorKind::PermissionDenied);
    registry.faults().cut_watches();
    sleep(Duration::from_secs(3600)).await;
    assert_lines(
        &mut log,
        &[&["WARN", "renewal failed; retrying"], &["WARN", "svc", "watch lost; retrying"]],
    );
}

#[tokio::test(start_paused = true)]
async fn what_has_failed_is_named() {
    let (mut log, _guard) = capture();
    let (registry, instance) = (MemoryRegistry::new(), Instance::new("10.0.0.1:80".parse().unwrap()));
    let registration = Registration::new("svc".parse().unwrap(), instance.clone()).unwrap();
    let fail_once = |operation| registry.faults().fail_next_of(operation, 1, ErrorKind::Unavailable);
    fail_once(Operation::Register);
    let handle = keep_registered(registry.clone(), registration, RegistrationConfig::default());
    handle.registered().await.unwrap();
    assert_lines(&mut log, &[&["INFO", "registered"], &["WARN", "registration failed; retrying"]]);

    fail_once(Operation::Update);
    handle.update(instance.with_weight(2)).await.unwrap();
    assert_lines(&mut log, &[&["INFO", "registration restored"], &["WARN", "update failed; retrying"]]);

    fail_once(Operation::Revoke);
    handle.withdraw();
    sleep(Duration::from_secs(60)).await;
    assert_lines(&mut log, &[&["INFO", "registration withdrawn"], &["WARN", "withdrawal failed; retrying"]]);
}

/// So a task that stands still differs in the log from one whose registry is well.
#[tokio::test(start_paused = true)]
async fn each_renewal_is_a_line_at_debug() {
    let (mut log, _guard) = capture_to(LevelFilter::DEBUG);
    let registry = MemoryRegistry::new();
    let registration =
        Registration::new("svc".parse().unwrap(), Instance::new("10.0.0.1:80".parse().unwrap())).unwrap();
    let _handle = keep_registered(registry.clone(), registration, RegistrationConfig::default());
    sleep(Duration::from_secs(600)).await;
    let renewals = usize::try_from(registry.faults().calls_of(Operation::Renew)).unwrap();
    assert!(renewals > 10, "{renewals}");
    let mut lines: Vec<&[&str]> = vec![&["INFO", "svc", "registered"]];
    lines.resize(1 + renewals, &["DEBUG", "svc", "renewed"]);
    assert_lines(&mut log, &lines);
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_ends_by_itself_is_one_error_with_service_address_and_cause() {
    let (mut log, _guard) = capture();
    let (registry, service) = (MemoryRegistry::new(), "svc".parse::<ServiceName>().unwrap());
    let registration = Registration::new(service, Instance::new("10.0.0.1:80".parse().unwrap())).unwrap();
    let keep = || keep_registered(registry.clone(), registration.clone(), RegistrationConfig::default());
    let fields = ["ERROR", "service=svc", "address=10.0.0.1:80", "cause="];

    registry.faults().fail_next(1, ErrorKind::InvalidArgument);
    keep().registered().await.unwrap_err();
    assert_lines(&mut log, &[&[&fields[..], &["registration failed; not retrying"]].concat()]);

    let handle = keep();
    handle.registered().await.unwrap();
    assert_lines(&mut log, &[&["INFO", "registered"]]);
    let _successor = registry.connect().register(&registration, Claim::TakeOver).await.unwrap();
    sleep(Duration::from_secs(3600)).await;
    assert_lines(&mut log, &[&[&fields[..], &["superseded by another owner; not registered"]].concat()]);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_from_disk_logs_no_outage_and_hides_none() {
    let (mut log, _guard) = capture();
    let directory = tempfile::tempdir().unwrap();
    let (registry, service) = (MemoryRegistry::new(), "svc".parse::<ServiceName>().unwrap());
    let registration =
        Registration::new(service.clone(), Instance::new("10.0.0.1:80".parse().unwrap())).unwrap();
    let registration = registration.with_ttl(Duration::from_secs(3600)).unwrap();
    let _lease = registry.register(&registration, Claim::TakeOver).await.unwrap();
    let expected: [&[&[&str]]; 3] = [&[], &[], &[&["WARN", "svc", "watch lost; retrying"]]];
    for (start, lines) in expected.iter().enumerate() {
        if start == 2 {
            registry.faults().stop();
        }
        let discovery = Discovery::builder(registry.clone()).cache_dir(directory.path()).build();
        let view = discovery.service(&service);
        view.wait_ready(Duration::from_secs(5)).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        assert_lines(&mut log, lines);
    }
}

#[tokio::test(start_paused = true)]
async fn holding_instances_is_logged_with_their_ids_and_once_more_at_its_end() {
    let (mut log, _guard) = capture();
    let (registry, service) = (MemoryRegistry::new(), "svc".parse::<ServiceName>().unwrap());
    let register = async |id: usize| {
        let instance = Instance::new(format!("10.0.0.{id}:80").parse().unwrap());
        let registration = Registration::new(service.clone(), instance).unwrap();
        let registration = registration.with_ttl(Duration::from_secs(24 * 3600)).unwrap();
        registry.register(&registration, Claim::TakeOver).await.unwrap()
    };
    for id in 1..=12 {
        register(id).await;
    }
    let mut view = Discovery::new(registry.clone()).service(&service);
    view.wait_ready(Duration::from_secs(5)).await.unwrap();
    assert_lines(&mut log, &[]);

    registry.faults().wipe();
    while view.changed().await.unwrap().held.is_empty() {}
    let update = view.current();
    assert_eq!((update.instances().count(), update.callable().count()), (0, 12));
    let held = ["WARN", "svc", "removed in bulk", "held=12", "registered=0", "10.0.0.1:80, ", " and 2 more"];
    assert_lines(&mut log, &[&held]);

    // One that returns is no news of its own; the end of the hold is.
    register(1).await;
    sleep(Duration::from_secs(60)).await;
    assert_lines(&mut log, &[]);
    sleep(Duration::from_secs(300)).await;
    assert_lines(&mut log, &[&["INFO", "svc", "no instance held any more", "released=11"]]);
    assert!(view.current().held.is_empty());
}

/// A registry that can be listed and not watched: each attempt brings a snapshot, and then an error.
#[tokio::test(start_paused = true)]
async fn a_watch_that_is_lost_after_each_listing_logs_one_outage() {
    let (mut log, _guard) = capture();
    let (resolver, mut script) = support::scripted();
    let view = Discovery::new(resolver).service(&support::service());
    for attempt in 0..40 {
        let open = support::soon(script.watch()).await.open(&["a"]);
        view.wait_ready(Duration::from_secs(5)).await.unwrap();
        if attempt == 39 {
            sleep(Duration::from_secs(60)).await;
            assert_lines(
                &mut log,
                &[&["INFO", "svc", "watch re-established"], &["WARN", "svc", "watch lost; retrying"]],
            );
        }
        open.fail(ErrorKind::Unavailable);
    }
}
