//! What an operator reads: one line for each trouble, and one when it is over, however long it lasts.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use hither_core::{
    Claim, Discovery, ErrorKind, Instance, KeepAliveConfig, Registrar, Registration, ServiceName,
    keep_registered,
};
use hither_memory::MemoryRegistry;
use tempfile::NamedTempFile;
use tokio::time::sleep;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;

/// The lines that the tasks of one test log.
struct Log(NamedTempFile);

/// What this thread logs from now on, on which everything runs.
fn listen() -> (Log, DefaultGuard) {
    let log = Log(NamedTempFile::new().unwrap());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::INFO)
        .with_writer(Arc::new(log.0.reopen().unwrap()))
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .finish();
    (log, tracing::subscriber::set_default(subscriber))
}

impl Log {
    /// What was logged since it was last asked, sorted: the level and the words of each line.
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
async fn an_outage_of_an_hour_is_two_lines_for_a_registration_and_two_for_a_view() {
    let (mut log, _listening) = listen();
    let (registry, service) = (MemoryRegistry::new(), "svc".parse::<ServiceName>().unwrap());
    let registration = Registration::new(service.clone(), Instance::new("10.0.0.1:80".parse().unwrap()));
    let handle = keep_registered(registry.clone(), registration, KeepAliveConfig::default());
    handle.registered().await.unwrap();
    let view = Discovery::from(registry.clone()).service(&service);
    view.ready(Duration::from_secs(5)).await.unwrap();
    assert_lines(&mut log, &[&["INFO", "svc", "registered"]]);

    for _ in 0..2 {
        registry.faults().stop();
        sleep(Duration::from_secs(3600)).await;
        let cause = "registry";
        assert_lines(
            &mut log,
            &[&["WARN", "svc", "not registered as wished", cause], &["WARN", "svc", "watch lost", cause]],
        );
        registry.faults().start();
        sleep(Duration::from_secs(60)).await;
        assert_lines(
            &mut log,
            &[&["INFO", "svc", "registered as before"], &["INFO", "svc", "watched again"]],
        );
    }

    // A refusal that only a person can mend is no more than that.
    registry.faults().fail_next(u64::MAX, ErrorKind::PermissionDenied);
    registry.faults().cut_watches();
    sleep(Duration::from_secs(3600)).await;
    assert_lines(&mut log, &[&["WARN", "not registered as wished"], &["WARN", "svc", "watch lost"]]);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_from_disk_makes_no_outage_and_hides_none() {
    let (mut log, _listening) = listen();
    let directory = tempfile::tempdir().unwrap();
    let (registry, service) = (MemoryRegistry::new(), "svc".parse::<ServiceName>().unwrap());
    let registration = Registration::new(service.clone(), Instance::new("10.0.0.1:80".parse().unwrap()));
    let _lease = registry.register(&registration, Claim::TakeOver).await.unwrap();
    let expected: [&[&[&str]]; 3] = [&[], &[], &[&["WARN", "svc", "watch lost"]]];
    for (start, lines) in expected.iter().enumerate() {
        if start == 2 {
            registry.faults().stop();
        }
        let discovery = Discovery::from(registry.clone()).with_cache_dir(directory.path());
        let view = discovery.service(&service);
        view.ready(Duration::from_secs(5)).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        assert_lines(&mut log, lines);
    }
}
