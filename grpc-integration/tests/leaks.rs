//! What channels leave behind: tasks, sockets and memory are back where they were. A process of its own, because it counts
//! what the process has; one test at a time.
#![cfg(target_os = "linux")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, unused_imports, reason = "shared with the other tests of the channel")]
#[path = "support/mod.rs"]
mod support;

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use hither_core::{Backoff, Discovery, Instance, ProtectionConfig, WatcherConfig};
use hither_tonic::{Connected, Connector, Destination, DiscoveryChannel};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;

use support::{Client, Registry, SERVICE, Server, ready, until};

/// Tests that count what the whole process has.
static ALONE: Mutex<()> = Mutex::new(());

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn sockets() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let target = |entry: io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
    open.filter_map(target).filter(|target| target.to_string_lossy().starts_with("socket:")).count()
}

/// Resident memory, in KiB: of the pages. The counters behind `VmRSS` are one for each core, and summed up now and then.
fn memory() -> usize {
    let pages = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = pages.lines().find(|line| line.starts_with("Rss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// A release build makes 10,000 channels, and has 100,000 instances come and go (`cargo xtask leaks`); a debug build, which is
/// slow, does a fifth of that.
const ROUNDS: usize = if cfg!(debug_assertions) { 20 } else { 100 };

/// Does something a tenth as often to warm up, and then as often as asked; each round is small, and leaves nothing.
async fn leaves_nothing<F: Future<Output = ()>>(
    rounds: usize,
    at_most_kib: usize,
    mut round: impl FnMut() -> F,
) {
    round().await;
    let (tasks_before, sockets_before) = (tasks(), sockets());
    let mut warm = 0;
    for number in 0..rounds {
        round().await;
        if number == rounds / 10 {
            warm = memory();
        }
    }
    until("the tasks have ended", || tasks() <= tasks_before).await;
    until("the sockets are closed", || sockets() <= sockets_before).await;
    let after = memory();
    println!(
        "after {rounds} rounds: {} tasks of {tasks_before}, {} sockets of {sockets_before}, {after} KiB of {warm} KiB after a \
         tenth of the rounds",
        tasks(),
        sockets()
    );
    let grown = after.saturating_sub(warm);
    assert!(grown <= at_most_kib, "{grown} KiB more than after a tenth of the rounds");
}

/// A connector to peers that send their SETTINGS and read, as many as are wanted.
#[derive(Debug)]
struct Anywhere;

#[async_trait]
impl Connector for Anywhere {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        let number = destination.instance().weight();
        // Most cannot be reached, as when a service is restarted on other machines.
        if number % 10 > 0 {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, mut theirs) = tokio::io::duplex(1024);
        tokio::spawn(async move {
            theirs.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        });
        Ok(ours.into())
    }
}

#[test]
fn channels_by_the_thousand_leave_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut registry = Registry::new();
        registry.put(Instance::new("a:1".parse().unwrap()).with_weight(10)).await;
        registry.put(Instance::new("b:1".parse().unwrap()).with_weight(11)).await;
        leaves_nothing(ROUNDS, 1024, || async {
            for number in 0..100 {
                let builder = DiscoveryChannel::builder(registry.discovery(), SERVICE).connector(Anywhere);
                match number % 3 {
                    0 => drop(builder.connect_lazy().unwrap()),
                    1 => drop(builder.connect().await.unwrap()),
                    _ => {
                        let channel = builder.connect().await.unwrap();
                        let client = Client::new(&channel);
                        let call = tokio::spawn(async move { client.name().await });
                        tokio::task::yield_now().await;
                        drop(channel);
                        call.abort();
                    }
                }
            }
        })
        .await;
        until("the watch has ended", || registry.faults().open_watches() == 0).await;
    });
}

#[test]
fn channels_over_sockets_leave_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::start().await;
        let mut registry = Registry::new();
        registry.up(&server.address).await;
        // Less than 3 KiB a channel in a debug build.
        leaves_nothing(ROUNDS, 512, || async {
            for _ in 0..10 {
                let channel =
                    DiscoveryChannel::builder(registry.discovery(), SERVICE).connect().await.unwrap();
                let client = Client::new(&channel);
                let names = join_all((0..3).map(|_| client.name())).await;
                assert!(names.iter().all(Result::is_ok));
                // Dropped with a response in hand.
                drop(client.stream("Stream", String::new()).await.unwrap());
            }
            until("the connections are closed", || server.open() == 0).await;
        })
        .await;
    });
}

#[test]
fn instances_that_come_and_go_leave_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut registry = Registry::new();
        registry.put(Instance::new("first:1".parse().unwrap()).with_weight(10)).await;
        let backoff = Backoff::proportional(Duration::from_millis(1), 2.0, Duration::from_secs(1), 0.0);
        // Without protection, which would hold instances that leave in bulk, and without a pause between changes.
        let protection = ProtectionConfig::default().with_hold(Duration::ZERO);
        let config = WatcherConfig::default().with_protection(protection).with_coalesce(Duration::ZERO);
        let discovery = Discovery::builder((*registry).clone()).config(config).build();
        let builder = DiscoveryChannel::builder(discovery, SERVICE).connector(Anywhere);
        let channel = builder.backoff(backoff).connect().await.unwrap();
        let registry = tokio::sync::Mutex::new(registry);
        let number = std::cell::Cell::new(0);
        leaves_nothing(ROUNDS, 4096, || async {
            let mut registry = registry.lock().await;
            let mut ids = Vec::new();
            for _ in 0..1000 {
                let next = number.replace(number.get() + 1);
                let address = format!("h{next}:1");
                registry.put(Instance::new(address.parse().unwrap()).with_weight(next)).await;
                ids.push(address);
            }
            // All those that can be reached.
            ready(&channel, 101).await;
            for id in ids {
                registry.leave(&id).await;
            }
            ready(&channel, 1).await;
        })
        .await;
    });
}
