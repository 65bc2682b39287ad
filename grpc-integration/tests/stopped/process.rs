//! The test, and the process that it stops.

use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use hither_tonic::{DiscoveryChannel, RoundRobin};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};
use tonic::{Code, Request};

use crate::support::{Client, Registry, SERVICE, SOON, Server, ready};

/// The argument with which this program is a server.
pub(crate) const SERVE: &str = "--serve";

/// Serves, until the process that has started it is gone.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn serve() {
    let server = Server::start().await;
    println!("{}", server.address);
    let gone = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let _ = gone.await;
}

/// A server in a process of its own, which is killed when this is dropped.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    async fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(SERVE).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = timeout(SOON, lines.next_line()).await.unwrap().unwrap().expect("it listens");
        Self { child, address }
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().expect("it runs")).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn calls_leave_a_stopped_process_and_return_when_it_goes_on() {
    let (stopped, fine) = (Process::start().await, Process::start().await);
    let mut registry = Registry::new();
    for process in [&stopped, &fine] {
        registry.up(&process.address).await;
    }
    let (interval, within) = (Duration::from_millis(200), Duration::from_millis(300));
    let builder = DiscoveryChannel::builder(registry.discovery(), SERVICE)
        .policy(RoundRobin::default())
        .keepalive_interval(Some(interval))
        .keepalive_timeout(within);
    let channel = builder.connect().await.unwrap();
    let client = Client::new(&channel);
    ready(&channel, 2).await;

    stopped.signal(Signal::STOP);
    let began = Instant::now();
    let calls = join_all((0..10).map(|_| client.call("Name", deadline()))).await;
    let took = began.elapsed();
    // The silence is measured to half of the interval. Two seconds are for a slow machine, and less than any other limit.
    assert!(took < interval * 3 / 2 + within + Duration::from_secs(2), "{took:?}");
    let failed: Vec<_> = calls.iter().filter_map(|call| call.as_ref().err()).collect();
    assert_eq!(failed.len(), 5, "{calls:?}");
    for status in failed {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(status.message().contains("ping"), "{status:?}");
        assert!(status.message().contains(&stopped.address), "{status:?}");
    }
    // It accepts connections, but answers nothing on them.
    for _ in 0..20 {
        assert_eq!(client.call("Name", deadline()).await.unwrap().into_inner(), fine.address);
    }

    stopped.signal(Signal::CONT);
    let answers = async { while client.name().await.unwrap() != stopped.address {} };
    timeout(SOON, answers).await.expect("it is called again");
}

/// It reads all resets at once when it goes on, and h2's defence in it against rapid resets counts those of calls that it has
/// not begun.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn calls_given_up_while_a_process_is_stopped_harm_no_others() {
    let process = Process::start().await;
    let mut registry = Registry::new();
    registry.up(&process.address).await;
    let builder = DiscoveryChannel::builder(registry.discovery(), SERVICE).max_connections(1);
    let client = Client::new(&builder.connect().await.unwrap());
    client.name().await.unwrap();

    process.signal(Signal::STOP);
    let calls: Vec<_> = (0..150)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call("Name", deadline()).await })
        })
        .collect();
    let given_up = join_all((0..50).map(|_| {
        let mut request = Request::new(String::new());
        request.set_timeout(Duration::from_millis(100));
        client.call("Name", request)
    }));
    for call in given_up.await {
        assert_eq!(call.unwrap_err().code(), Code::DeadlineExceeded);
    }
    // As long as the channel might try to reset more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    process.signal(Signal::CONT);
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn only_the_calls_in_flight_at_a_process_fail_when_it_is_killed() {
    let (killed, fine) = (Process::start().await, Process::start().await);
    let mut registry = Registry::new();
    for process in [&killed, &fine] {
        registry.up(&process.address).await;
    }
    let builder = DiscoveryChannel::builder(registry.discovery(), SERVICE).policy(RoundRobin::default());
    let channel = builder.connect().await.unwrap();
    let client = Client::new(&channel);
    ready(&channel, 2).await;
    // Each has answered the first message of a stream, and holds back the rest.
    let mut streams = Vec::new();
    for _ in 0..16 {
        let mut stream = client.stream("Stream", String::new()).await.unwrap();
        streams.push((stream.message().await.unwrap().unwrap(), stream));
    }

    killed.signal(Signal::KILL);
    for (server, stream) in &mut streams {
        if *server == killed.address {
            let status = timeout(SOON, stream.message()).await.expect("it fails").unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
    }
    let at_killed = streams.iter().filter(|(server, _)| *server == killed.address).count();
    assert_eq!(at_killed, 8);
    for _ in 0..100 {
        assert_eq!(client.call("Name", deadline()).await.unwrap().into_inner(), fine.address);
    }
    for (server, stream) in &mut streams {
        if *server == fine.address {
            let next = timeout(Duration::from_millis(1), stream.message()).await;
            assert!(next.is_err(), "it goes on: {next:?}");
        }
    }
}

fn deadline() -> Request<String> {
    let mut request = Request::new(String::new());
    request.set_timeout(SOON);
    request
}
