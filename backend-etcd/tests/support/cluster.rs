//! A cluster of three real etcds.

use std::thread;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use hither_etcd::EtcdConfig;
use tokio::time::{Instant, sleep, timeout};

use super::etcd::{Etcd, Frozen, Member};
use super::{LONG, Proxy};

/// A cluster of three, whose members talk to each other through proxies.
#[derive(Debug)]
pub(crate) struct Cluster {
    members: Vec<Etcd>,
    /// The proxy of each member for the others.
    peers: Vec<Proxy>,
    /// How the members are asked for the leader.
    connect: Option<ConnectOptions>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[], None).await
    }

    /// The same with more arguments for each member, and a way to be asked.
    pub(crate) async fn start_with(arguments: &[&str], connect: Option<ConnectOptions>) -> Self {
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let mut members: Vec<_> = (0..3).map(|_| Etcd::new(arguments.clone())).collect();
        let mut peers = Vec::new();
        for member in &members {
            peers.push(Proxy::start(member.peer_endpoint()).await);
        }
        let names = peers.iter().enumerate().map(|(at, peer)| format!("m{at}=http://{}", peer.endpoint()));
        let cluster = names.collect::<Vec<_>>().join(",");
        for (at, (member, peer)) in members.iter_mut().zip(&peers).enumerate() {
            let (name, advertised) = (format!("m{at}"), peer.endpoint());
            member.join(Member { name, advertised, cluster: cluster.clone() });
        }
        let (started, members) = launch(members).await;
        started.unwrap_or_else(|log| {
            panic!(
                "a member does not start; its log:
{log}"
            )
        });
        Self { members, peers, connect }
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Etcd::endpoint).collect()
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        EtcdConfig::new(self.endpoints())
    }

    /// Another way to be asked.
    pub(crate) fn set_connect(&mut self, connect: ConnectOptions) {
        self.connect = Some(connect);
    }

    /// The number of the leader, and those of the other two.
    pub(crate) async fn leader(&self) -> (usize, [usize; 2]) {
        let begun = Instant::now();
        loop {
            for at in 0..3 {
                if let Some((member, leader)) = self.status(at).await
                    && member == leader
                {
                    return (at, [(at + 1) % 3, (at + 2) % 3]);
                }
            }
            assert!(begun.elapsed() < LONG, "no member is the leader");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// The member's id, and that of its leader.
    async fn status(&self, at: usize) -> Option<(u64, u64)> {
        let asked = async {
            let mut client =
                Client::connect([self.members[at].endpoint()], self.connect.clone()).await.ok()?;
            let status = client.status().await.ok()?;
            Some((status.header()?.member_id(), status.leader()))
        };
        timeout(Duration::from_secs(1), asked).await.ok()?
    }

    /// Kills one.
    pub(crate) fn kill(&mut self, at: usize) {
        self.members[at].kill();
    }

    /// Lets those that were killed have their ports and their data back.
    pub(crate) async fn start_again(&mut self, which: &[usize]) {
        let members = std::mem::take(&mut self.members);
        let (mut killed, mut others) = (Vec::new(), Vec::new());
        for (at, member) in members.into_iter().enumerate() {
            if which.contains(&at) { killed.push((at, member)) } else { others.push((at, member)) }
        }
        let (numbers, killed): (Vec<_>, Vec<_>) = killed.into_iter().unzip();
        let (started, killed) = launch(killed).await;
        started.unwrap();
        others.extend(numbers.into_iter().zip(killed));
        others.sort_by_key(|(at, _)| *at);
        self.members = others.into_iter().map(|(_, member)| member).collect();
    }

    /// Freezes one (SIGSTOP).
    pub(crate) fn freeze(&self, at: usize) -> Frozen {
        self.members[at].freeze()
    }

    /// Lets nothing through any more between one and the other two, and waits until it knows; clients still come to it.
    pub(crate) async fn isolate(&self, at: usize) {
        let (id, _) = self.status(at).await.unwrap();
        // Members identify themselves in the first request of each connection.
        let from = format!("X-Server-From: {id:x}\r\n");
        for (other, peer) in self.peers.iter().enumerate() {
            if other == at {
                peer.freeze();
            } else {
                peer.freeze_with(from.as_bytes());
            }
        }
        let begun = Instant::now();
        while self.status(at).await.is_none_or(|(_, leader)| leader != 0) {
            assert!(begun.elapsed() < LONG, "it still has a leader");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Lets a follower receive heartbeats of the leader, but no entries: as one whose disk has stopped.
    pub(crate) async fn starve(&self, at: usize) {
        let (id, _) = self.status(at).await.unwrap();
        // It fetches what is written on a connection of its own from each of the others, where also comes, in a chunk of
        // HTTP's, a number of 0 that keeps the connection alive.
        let fetches = format!("GET /raft/stream/msgapp/{id:x} ");
        let alive = b"8\r\n\0\0\0\0\0\0\0\0\r\n";
        for (other, peer) in self.peers.iter().enumerate() {
            if other != at {
                peer.starve_with(fetches.as_bytes(), alive);
            }
        }
        let client = |member: usize| Client::connect([self.members[member].endpoint()], self.connect.clone());
        client((at + 1) % 3).await.unwrap().put("starved", "", None).await.unwrap();
        let mut starved = client(at).await.unwrap();
        let read = timeout(Duration::from_secs(1), starved.get("starved", None)).await;
        assert!(read.is_err(), "it has learnt of the newest revision: {read:?}");
        assert_ne!(starved.status().await.unwrap().leader(), 0, "it has a leader");
    }

    /// Lets it learn all that it missed.
    pub(crate) fn feed(&self) {
        self.peers.iter().for_each(Proxy::thaw);
    }

    /// Lets everything through between all of them.
    pub(crate) fn heal(&self) {
        self.peers.iter().for_each(Proxy::heal);
    }
}

/// All at once: the first start of a member waits for another one.
async fn launch(mut members: Vec<Etcd>) -> (Result<(), String>, Vec<Etcd>) {
    tokio::task::spawn_blocking(move || {
        let started = thread::scope(|scope| {
            let starting: Vec<_> =
                members.iter_mut().map(|member| scope.spawn(move || member.launch())).collect();
            starting.into_iter().try_for_each(|starting| starting.join().unwrap())
        });
        (started, members)
    })
    .await
    .unwrap()
}
