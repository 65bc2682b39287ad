//! Keep-alive pings beside a real server: tonic's, on hyper and h2, at its defaults.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use hither_tonic::{ChannelBuilder, Connected, Connector, Destination};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, duplex, split};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::sleep;

use super::SECOND;
use super::keepalive::{MINUTE, channel_within};
use super::raw::{ACK, PING};
use super::support::{Client, Net, Server};

/// A network to one server, that counts the pings of clients.
#[derive(Debug, Clone)]
struct Counting {
    server: UnboundedSender<DuplexStream>,
    pings: Arc<AtomicUsize>,
}

#[async_trait]
impl Connector for Counting {
    async fn connect(&self, _destination: Destination<'_>) -> io::Result<Connected> {
        let ((ours, client), (server, theirs)) = (duplex(64 * 1024), duplex(64 * 1024));
        self.server.send(theirs).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        tokio::spawn(relay(client, server, Arc::clone(&self.pings)));
        Ok(ours.into())
    }
}

async fn relay(client: DuplexStream, server: DuplexStream, pings: Arc<AtomicUsize>) -> io::Result<()> {
    let ((mut client, mut to_client), (mut server, mut to_server)) = (split(client), split(server));
    let requests = async {
        let mut preface = [0; 24];
        client.read_exact(&mut preface).await?;
        to_server.write_all(&preface).await?;
        loop {
            let mut header = [0; 9];
            client.read_exact(&mut header).await?;
            let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
            client.read_exact(&mut payload).await?;
            if header[3] == PING && header[4] & ACK == 0 {
                pings.fetch_add(1, Ordering::SeqCst);
            }
            to_server.write_all(&[&header[..], &payload].concat()).await?;
        }
    };
    tokio::select! {
        ended = copy(&mut server, &mut to_client) => ended.map(drop),
        ended = requests => ended,
    }
}

/// A stream that is silent for so long, and then ends; returns how many pings there were.
async fn pings_of_a_silent_stream(
    silence: Duration,
    describe: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
) -> usize {
    let (accept, incoming) = unbounded_channel();
    let server = Server::taking(incoming, "a:1", |server| server);
    let network = Counting { server: accept, pings: Arc::default() };
    let (_registry, builder) = channel_within(&Net::new(), &["a:1"]).await;
    let builder = describe(builder.connector(network.clone()));
    let client = Client::new(&builder.connect().await.unwrap());
    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    assert_eq!(stream.message().await.unwrap().as_deref(), Some("a:1"));
    sleep(silence).await;
    server.open_gate();
    assert_eq!(stream.message().await.unwrap().as_deref(), Some("end"));
    assert_eq!(stream.message().await.unwrap(), None);
    assert_eq!(client.name().await.unwrap(), "a:1");
    assert_eq!(server.accepted(), 1, "it was lost, and made again");
    network.pings.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn tonic_finds_not_too_many_pings_at_the_defaults() {
    let pings = pings_of_a_silent_stream(180 * MINUTE, |builder| builder).await;
    assert!((20..=38).contains(&pings), "{pings}");
}

/// It has no rule on pings: one a second for an hour is not too many.
#[tokio::test(start_paused = true)]
async fn tonic_finds_not_too_many_pings_at_a_short_interval() {
    let short = |builder: ChannelBuilder| {
        builder.keepalive_interval(Some(SECOND)).keepalive_timeout(SECOND).keepalive_while_idle(true)
    };
    let pings = pings_of_a_silent_stream(60 * MINUTE, short).await;
    assert!(pings > 2000, "{pings}");
}
