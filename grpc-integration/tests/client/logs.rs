//! What an operator reads of a channel: one line for each instance that cannot be reached, and never a storm.

use hither_tonic::Selection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use crate::support::{Client, Log, Net, Registry, Server};
use crate::{SECOND, channel};

/// How many lines begin with this.
fn count(lines: &[String], start: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(start)).count()
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_instance_is_logged_after_its_second_failed_attempt_and_when_it_is_back() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("a:1").await;
    let _channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(SECOND / 2).await;
    assert_eq!((net.dials("a:1").len(), log.take()), (1, vec![]), "one failure is normal");
    sleep(SECOND).await;
    let unreachable = "WARN instance unreachable; retrying service=greeter instance=a:1 address=a:1 attempts=2 \
                       cause=\"connection refused at a:1\"";
    assert_eq!((net.dials("a:1").len(), log.take()), (2, vec![unreachable.to_owned()]));
    sleep(600 * SECOND).await;
    assert_eq!(log.take(), [""; 0], "however long it lasts");

    let server = Server::on(&net, "a:1");
    sleep(300 * SECOND).await;
    let lines = log.take();
    let reachable = "INFO instance reachable again service=greeter instance=a:1 address=a:1 after=";
    assert!(lines.len() == 1 && lines[0].starts_with(reachable), "{lines:?}");

    server.break_connections();
    sleep(60 * SECOND).await;
    assert_eq!(
        (server.accepted(), log.take()),
        (2, vec![]),
        "a lost connection that is made anew is no outage"
    );
}

/// Each walk has a subchannel of its own for each server, which makes one attempt.
#[tokio::test(start_paused = true)]
async fn with_pick_first_an_unreachable_instance_is_logged_once_over_all_walks_and_when_it_is_back() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    for address in ["a:1", "b:1"] {
        registry.up(address).await;
    }
    let server = Server::on(&net, "b:1");
    let selection = Selection::default().pick_first().with_seed(1);
    let channel = channel(&registry, &net).selection(selection).connect_lazy().unwrap();
    let client = Client::new(&channel);
    // Walks that begin with the one that is down, and end with the other.
    while net.dials("a:1").len() < 10 {
        assert_eq!(client.name().await.unwrap(), "b:1");
        server.break_connections();
        sleep(30 * SECOND).await;
    }
    let lines = log.take();
    let unreachable = "WARN instance unreachable; retrying service=greeter instance=a:1 address=a:1 attempts=2 \
                       cause=\"connection refused at a:1\"";
    assert_eq!(lines, [unreachable]);

    drop(server);
    let _server = Server::on(&net, "a:1");
    sleep(300 * SECOND).await;
    let mut lines = log.take();
    lines.retain(|line| line.contains("instance=a:1 "));
    let reachable = "INFO instance reachable again service=greeter instance=a:1 address=a:1 after=";
    assert!(lines.len() == 1 && lines[0].starts_with(reachable), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_left_while_it_was_unreachable_is_not_logged_again() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    registry.up("a:1").await;
    let _channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(10 * SECOND).await;
    assert_eq!(count(&log.take(), "WARN instance unreachable"), 1);
    registry.leave("a:1").await;
    sleep(600 * SECOND).await;
    assert_eq!(log.take(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn two_hundred_instances_that_fail_at_once_are_ten_lines_and_a_count() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    let addresses: Vec<_> = (0..200).map(|i| format!("a{i}:1")).collect();
    for address in &addresses {
        registry.up(address).await;
    }
    let _channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(3 * SECOND).await;
    let lines = log.take();
    assert_eq!((count(&lines, "WARN instance unreachable; retrying"), lines.len()), (10, 10), "{lines:#?}");
    sleep(3600 * SECOND).await;
    let summary = "WARN more instances unreachable; retrying service=greeter instances=190 unreachable=200";
    assert_eq!(log.take(), [summary]);

    let _servers: Vec<_> = addresses.iter().map(|address| Server::on(&net, address)).collect();
    sleep(600 * SECOND).await;
    let lines = log.take();
    let (single, more) = ("INFO instance reachable again", "INFO more instances reachable again");
    // The jitter of their backoff spreads them over some minutes.
    assert!((20..=100).contains(&count(&lines, single)), "{lines:#?}");
    assert!((1..=10).contains(&count(&lines, more)), "{lines:#?}");
    assert_eq!(lines.len(), count(&lines, single) + count(&lines, more));
    let counted: usize = lines
        .iter()
        .filter_map(|line| {
            line.strip_prefix(more)?.split("instances=").nth(1)?.split(' ').next()?.parse::<usize>().ok()
        })
        .sum();
    assert_eq!(count(&lines, single) + counted, 200, "all are accounted for");
    assert!(lines.last().unwrap().contains("reachable"), "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn servers_that_speak_tls_are_logged_with_the_cause() {
    let log = Log::capture();
    let (mut registry, net) = (Registry::new(), Net::new());
    for address in ["a:1", "b:1"] {
        registry.up(address).await;
        let mut incoming = net.listen(address);
        tokio::spawn(async move {
            while let Some(mut io) = incoming.recv().await {
                // Not a ClientHello: a fatal alert, as every TLS server answers.
                io.read_exact(&mut [0; 24]).await.unwrap();
                io.write_all(&[0x15, 3, 3, 0, 2, 2, 10]).await.unwrap();
            }
        });
    }
    let channel = channel(&registry, &net).connect_lazy().unwrap();
    sleep(60 * SECOND).await;
    let mut lines = log.take();
    lines.sort();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    for (line, address) in lines.iter().zip(["a:1", "b:1"]) {
        assert!(line.starts_with("WARN instance unreachable; retrying"), "{line}");
        assert!(line.contains(address) && line.contains("cause=\""), "{line}");
    }
    let error = channel.wait_ready(SECOND).await.unwrap_err();
    assert!(error.to_string().contains("last error: "), "{error}");
}
