//! The etcd walkthrough of the README: real processes, real signals, and a real etcd for each test.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "these are tests")]

#[allow(dead_code, reason = "it is shared with the tests of hither-etcd")]
#[path = "../../../backend-etcd/tests/support/etcd.rs"]
mod etcd;
#[path = "../../../backend-etcd/tests/support/port.rs"]
mod port;
mod program;

mod bad_input;
mod departures;
mod meeting;
mod outages;

use std::time::Duration;

use etcd_client::{Client, GetOptions};
use tokio::time::{Instant, sleep};

use etcd::Etcd;
use program::{LONG, Program};

const SERVICE: &str = "grpc-demo/grpc/discover-demo";

fn registry(etcd: &Etcd) -> String {
    format!("etcd://{}", etcd.endpoint())
}

fn key(port: u16) -> String {
    format!("{SERVICE}/127.0.0.1:{port}")
}

/// A record in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    key: String,
    value: String,
    lease: i64,
}

/// Returns all records in etcd.
async fn records(client: &Client) -> Vec<Record> {
    let all = GetOptions::new().with_all_keys();
    let answer = client.clone().get("", Some(all)).await.unwrap();
    let record = |kv: &etcd_client::KeyValue| Record {
        key: kv.key_str().unwrap().to_owned(),
        value: kv.value_str().unwrap().to_owned(),
        lease: kv.lease(),
    };
    answer.kvs().iter().map(record).collect()
}

async fn record(client: &Client, port: u16) -> Option<Record> {
    records(client).await.into_iter().find(|record| record.key == key(port))
}

/// Reads etcd until the record is there, or is gone; returns how long that took.
async fn until_record(client: &Client, port: u16, there: bool) -> Duration {
    let began = Instant::now();
    while record(client, port).await.is_some() != there {
        assert!(
            began.elapsed() < LONG,
            "{} is {}there after {LONG:?}",
            key(port),
            if there { "not " } else { "still " }
        );
        sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

/// Returns what the client prints for an answer of the server on this port.
fn answer_of(port: u16) -> String {
    format!("content:\"request content from {port} => DDDD\"")
}

/// Starts a client that calls for longer than any test, and waits for its first answers.
async fn busy_client(registry: &str) -> Program {
    let client = Program::client(registry, &["--count", "1000000", "--interval", "5ms"]);
    client.stdout.more(20).await;
    client
}

fn failures(client: &Program) -> Vec<String> {
    client.stdout.all().into_iter().filter(|line| line.contains("error")).collect()
}

/// Returns whether the server on this port answers one of the next calls.
async fn answers_soon(client: &Program, port: u16, calls: usize) -> bool {
    let before = client.stdout.all().len();
    client.stdout.more(calls).await;
    client.stdout.all()[before..].iter().any(|line| line.contains(&answer_of(port)))
}
