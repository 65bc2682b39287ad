//! One connection to one endpoint.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, KvClient, LeaseClient, WatchClient};
use tokio::time::{Instant, sleep, timeout};

use super::error::{Failure, Reason};
use super::silence::Silence;
use super::single_flight::{Flight, NoOutcome};
use crate::EtcdConfig;

/// etcd refuses pings more often than every 5 s, and on a connection without streams.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// etcd itself does not limit its responses; some 40,000 instances exceed tonic's default of 4 MiB.
pub(super) const LARGEST_MESSAGE: usize = 64 << 20;

/// Delay between two attempts of a linearizable read during an election.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// A connection to one endpoint that has answered once.
pub(super) struct Connection {
    endpoint: Arc<str>,
    client: Client,
    /// Whether there are credentials, should etcd ask for them.
    has_user: bool,
    opened: Instant,
    last_read: Mutex<Option<Arc<SharedRead>>>,
    silence: Silence,
}

/// A linearizable read that callers share (single flight).
type SharedRead = Flight<Result<(), Failure>>;

impl Connection {
    /// Connects to `endpoint` and asks whether it can serve.
    pub(super) async fn open(endpoint: &Arc<str>, config: &EtcdConfig) -> Result<Self, Failure> {
        let within = config.connect_timeout();
        match timeout(within, Self::connect(endpoint, config)).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::timeout(endpoint, within)),
        }
    }

    async fn connect(endpoint: &Arc<str>, config: &EtcdConfig) -> Result<Self, Failure> {
        // Files are read anew: a password or a certificate may have been replaced meanwhile.
        let (with, without) =
            connect_options(config).map_err(|error| Failure::unusable_files(endpoint, error))?;
        let failed = |error| Failure::of(error, endpoint);
        // One endpoint per client: given several, the crate sends every second request to a dead one.
        let mut client = match Client::connect([&**endpoint], Some(with)).await.map_err(failed) {
            Ok(client) => client,
            Err(failure) if failure.reason == Reason::AuthDisabled => {
                tracing::warn!(%endpoint, "authentication is disabled in etcd; connecting without credentials");
                Client::connect([&**endpoint], Some(without)).await.map_err(failed)?
            }
            Err(failure) => return Err(failure),
        };
        // Connecting is lazy; only a response proves that a server is there.
        match client.status().await.map_err(failed) {
            Ok(status) if status.leader() == 0 => return Err(Failure::unavailable(endpoint, "no leader")),
            Ok(_) => {}
            // With authentication enabled, 3.6.0 to 3.6.11 and 3.5.28 to 3.5.31 give their status to root alone. That is a
            // response too; whether there is a leader is then known from the first request, which requires one.
            Err(failure) if failure.reason == Reason::Denied => {}
            Err(failure) => return Err(failure),
        }
        let (has_user, opened, last_read) = (config.has_user(), Instant::now(), Mutex::default());
        let (endpoint, silence) = (Arc::clone(endpoint), Silence::default());
        Ok(Self { endpoint, client, has_user, opened, last_read, silence })
    }

    /// Linearizable read: proves that this member has caught up with the leader, and the leader with a quorum. Any other
    /// response may be stale: a member gives it without having been in contact with the others for long.
    ///
    /// Callers within `every` share one read.
    pub(super) async fn linearizable_read(
        &self,
        key: &str,
        every: Duration,
        within: Duration,
    ) -> Result<(), Failure> {
        let read = {
            let mut last = self.last_read.lock().unwrap_or_else(PoisonError::into_inner);
            match last.as_ref().filter(|read| read.age() < every) {
                Some(read) => Arc::clone(read),
                None => Arc::clone(last.insert(Arc::new(Flight::new(self.read(key.to_owned()))))),
            }
        };
        match read.join(within).await {
            Ok(outcome) => outcome,
            Err(NoOutcome::Timeout) => Err(Failure::timeout(&self.endpoint, within)),
            Err(NoOutcome::Aborted) => {
                Err(Failure::unavailable(&self.endpoint, "the runtime of the shared read has stopped"))
            }
        }
    }

    pub(super) fn silence(&self) -> &Silence {
        &self.silence
    }

    fn read(&self, key: String) -> impl Future<Output = Result<(), Failure>> + use<> {
        let (mut kv, endpoint) = (self.kv(), Arc::clone(&self.endpoint));
        async move {
            loop {
                let read = kv.get(&*key, Some(GetOptions::new().with_count_only())).await;
                match read.map_err(|error| Failure::of(error, &endpoint)) {
                    // An election is no reason to leave a member; unless it lasts.
                    Err(failure) if failure.reason == Reason::Election => sleep(READ_AGAIN).await,
                    // A refusal is a response; what it means is decided by the request that needs the permission.
                    Err(failure) if !failure.reason.is_refusal() => return Err(failure),
                    _ => return Ok(()),
                }
            }
        }
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    pub(super) fn has_user(&self) -> bool {
        self.has_user
    }

    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(super) fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    pub(super) fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(LARGEST_MESSAGE)
    }
}

/// How to connect with the credentials, if there are any, and without.
fn connect_options(config: &EtcdConfig) -> hither_core::Result<(ConnectOptions, ConnectOptions)> {
    let without = ConnectOptions::new()
        .with_connect_timeout(config.connect_timeout())
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        .with_keep_alive_while_idle(false)
        // A member without a leader must refuse rather than serve stale data.
        .with_require_leader(true);
    #[cfg(feature = "tls")]
    let without = match config.tls() {
        Some(tls) => without.with_tls(tls.to_client()?),
        None => without,
    };
    let with = match config.credentials()? {
        Some((name, password)) => without.clone().with_user(name, password).with_auto_token_refresh(true),
        None => without.clone(),
    };
    Ok((with, without))
}
