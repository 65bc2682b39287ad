//! A client that starts while the registry is down finds its servers on disk.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hither_core::{
    Discovery, ErrorKind, Freshness, Instance, Registration, RegistrationConfig, keep_registered,
};
use hither_memory::MemoryRegistry;
use support::{OpenWatch, SECOND, Script, names, scripted, service, soon};
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::sleep;

fn cached(directory: &Path) -> (Discovery, Script) {
    let (resolver, script) = scripted();
    (Discovery::builder(resolver).cache_dir(directory).build(), script)
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// The one file in the directory, once there is one that `is_so`.
async fn file(directory: &Path, is_so: impl Fn(&str) -> bool) -> PathBuf {
    soon(async {
        loop {
            let files = fs::read_dir(directory).into_iter().flatten().map(|file| file.unwrap().path());
            let files: Vec<_> =
                files.filter(|file| file.extension().is_some_and(|ext| ext == "json")).collect();
            if let [file] = files.as_slice()
                && fs::read_to_string(file).is_ok_and(|text| is_so(&text))
            {
                return file.clone();
            }
            sleep(Duration::from_millis(100)).await;
        }
    })
    .await
}

/// A client that receives these instances, and ends when they are on disk.
async fn client_with_a_cache(directory: &Path, instances: &[&str]) -> PathBuf {
    let (discovery, mut script) = cached(directory);
    let _view = discovery.service(&service());
    let _open: OpenWatch = soon(script.watch()).await.open(instances);
    file(directory, |text| instances.iter().all(|instance| text.contains(&format!("\"{instance}")))).await
}

#[tokio::test(start_paused = true)]
async fn a_client_that_starts_in_an_outage_begins_with_the_last_snapshot() {
    let directory = directory();
    client_with_a_cache(directory.path(), &["a", "b"]).await;

    let (discovery, mut script) = cached(directory.path());
    let mut view = discovery.service(&service());
    let snapshot = view.wait_ready(SECOND).await.unwrap();
    assert_eq!(names(snapshot.iter()), ["a", "b"]);
    let Freshness::Stale { age, cause, .. } = view.current().freshness else { panic!("it is from disk") };
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert_eq!(cause.kind(), ErrorKind::Unavailable);

    // Failures leave it as it is, and its age too.
    soon(script.watch()).await.fail(ErrorKind::Timeout);
    let call = soon(script.watch()).await;
    assert_eq!(names(view.current().instances()), ["a", "b"]);
    assert!(!view.current().freshness.is_fresh());

    // The registry has the last word.
    let _open = call.open(&["b", "c"]);
    while !view.current().freshness.is_fresh() {
        soon(view.changed()).await.unwrap();
    }
    assert_eq!(names(view.current().instances()), ["b", "c"]);
    assert!(
        Arc::ptr_eq(snapshot.iter().nth(1).unwrap(), view.current().instances().next().unwrap()),
        "b is the same b"
    );
}

#[tokio::test(start_paused = true)]
async fn an_unusable_file_is_ignored() {
    let directory = directory();
    let file = client_with_a_cache(directory.path(), &["a"]).await;
    let written = fs::read_to_string(&file).unwrap();
    let mut old: serde_json::Value = serde_json::from_str(&written).unwrap();
    old["confirmed"] = (old["confirmed"].as_u64().unwrap() - 2 * 24 * 3600).into();
    let old = old.to_string();
    for bytes in [&b""[..], b"{", b"\xff\xfe", b"[]", &written.as_bytes()[..40], old.as_bytes()] {
        // Each its own: what a client writes last, it may write when it is gone.
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(file.file_name().unwrap()), bytes).unwrap();
        let (discovery, mut script) = cached(directory.path());
        let view = discovery.service(&service());
        let call = soon(script.watch()).await;
        assert!(view.current().snapshot.is_none(), "{:?}", String::from_utf8_lossy(bytes));
        let _open = call.open(&["b"]);
        assert_eq!(names(view.wait_ready(SECOND).await.unwrap().iter()), ["b"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unusable_directory_is_ignored() {
    let directory = directory();
    let occupied = directory.path().join("a file");
    fs::write(&occupied, "").unwrap();
    let (discovery, mut script) = cached(&occupied.join("below"));
    let view = discovery.service(&service());
    let open = soon(script.watch()).await.open(&["a"]);
    assert_eq!(names(view.wait_ready(SECOND).await.unwrap().iter()), ["a"]);
    sleep(10 * SECOND).await;
    open.send(&["a", "b"]);
    sleep(10 * SECOND).await;
    assert_eq!(names(view.current().instances()), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn changes_are_written_at_most_every_five_seconds() {
    let directory = directory();
    let (discovery, mut script) = cached(directory.path());
    let _view = discovery.service(&service());
    let open = soon(script.watch()).await.open(&["a"]);
    let file = file(directory.path(), |text| text.contains("\"a")).await;
    open.send(&["b"]);
    sleep(4 * SECOND).await;
    assert!(!fs::read_to_string(&file).unwrap().contains("\"b"), "within 5 s of the write before");
    open.send(&["c"]);
    sleep(2 * SECOND).await;
    comes_to_have(&file, "\"c").await;
}

async fn comes_to_have(at: &Path, what: &str) {
    file(at.parent().unwrap(), |text| text.contains(what)).await;
}

#[tokio::test(start_paused = true)]
async fn an_unchanged_snapshot_is_confirmed_every_hour_while_it_is_fresh() {
    let directory = directory();
    let (discovery, mut script) = cached(directory.path());
    let _view = discovery.service(&service());
    let open = soon(script.watch()).await.open(&["a"]);
    let written = file(directory.path(), |text| text.contains("\"a")).await;
    fs::remove_file(&written).unwrap();
    sleep(3700 * SECOND).await;
    comes_to_have(&written, "\"a").await;

    open.fail(ErrorKind::Unavailable);
    let _lost = soon(script.watch()).await;
    fs::remove_file(&written).unwrap();
    sleep(3 * 3600 * SECOND).await;
    assert!(!written.exists(), "the registry has not confirmed it");
}

#[tokio::test(start_paused = true)]
async fn instances_that_the_registry_lost_stay_on_disk_and_are_held() {
    let directory = directory();
    let written = client_with_a_cache(directory.path(), &["a", "b"]).await;
    let (discovery, mut script) = cached(directory.path());
    let mut view = discovery.service(&service());
    view.wait_ready(SECOND).await.unwrap();
    let _open = soon(script.watch()).await.open(&[]);
    while !view.current().freshness.is_fresh() {
        soon(view.changed()).await.unwrap();
    }
    assert_eq!(names(view.current().held.iter()), ["a", "b"]);
    sleep(10 * SECOND).await;
    assert!(fs::read_to_string(&written).unwrap().contains("\"a"));
}

#[tokio::test(start_paused = true)]
async fn no_task_is_left_behind() {
    let directory = directory();
    client_with_a_cache(directory.path(), &["a"]).await;
    let (discovery, mut script) = cached(directory.path());
    yield_now().await;
    let before = Handle::current().metrics().num_alive_tasks();
    let view = discovery.service(&service());
    let _open = soon(script.watch()).await.open(&["a", "b"]);
    file(directory.path(), |text| text.contains("\"b")).await;
    drop((view, discovery));
    soon(script.is_dropped()).await;
    for _ in 0..10 {
        yield_now().await;
    }
    assert_eq!(Handle::current().metrics().num_alive_tasks(), before);
}

/// Several processes of one host may share a directory.
#[tokio::test]
async fn readers_never_find_half_a_file() {
    let directory = directory();
    let registry = MemoryRegistry::new();
    let mut kept = Vec::new();
    for port in 1..200 {
        let instance = Instance::new(format!("10.0.0.1:{port}").parse().unwrap());
        let registration = Registration::new(service(), instance).unwrap();
        kept.push(keep_registered(registry.clone(), registration, RegistrationConfig::default()));
    }
    for handle in &kept {
        handle.registered().await.unwrap();
    }
    let mut writers = Vec::new();
    for _ in 0..50 {
        let discovery = Discovery::builder(registry.clone()).cache_dir(directory.path()).build();
        writers.push(discovery.service(&service()));
    }
    let written = file(directory.path(), |text| text.len() > 1000).await;
    for _ in 0..200 {
        let text = fs::read_to_string(&written).unwrap();
        assert!(text.starts_with('{') && text.ends_with('}'), "{text}");
        yield_now().await;
    }
}
