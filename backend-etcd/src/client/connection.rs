//! One connection to one endpoint, and the deadline on every call over it.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions, KvClient, LeaseClient, WatchClient};
use futures_util::future::{BoxFuture, FutureExt, Shared};
use hither_core::{Error, ErrorKind};
use tokio::time::{Instant, sleep, timeout};

use super::error::{Failure, Reason, Recovery};
use crate::EtcdConfig;

/// etcd refuses pings more often than every 5 s, and on a connection without streams.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// etcd itself does not limit its answers; tonic's default of 4 MiB is passed by some 40,000 instances.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Between two tries of a read that only has to succeed in time.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// A connection to one endpoint that has answered once.
pub(crate) struct Connection {
    endpoint: Arc<str>,
    client: Client,
    /// Whether we can say who we are, if etcd asks.
    has_user: bool,
    opened: Instant,
    confirming: Mutex<Option<(Instant, Confirming)>>,
}

type Confirming = Shared<BoxFuture<'static, Result<(), Failure>>>;

impl Connection {
    /// Connects to `endpoint` and hears whether it can serve.
    pub(crate) async fn open(endpoint: &Arc<str>, config: &EtcdConfig) -> Result<Self, Failure> {
        let within = config.connect_timeout();
        match timeout(within, Self::connect(endpoint, config)).await {
            Ok(opened) => opened,
            Err(_) => Err(Failure::timeout(endpoint, within)),
        }
    }

    async fn connect(endpoint: &Arc<str>, config: &EtcdConfig) -> Result<Self, Failure> {
        // What stands in files is read anew: a password or a certificate may have been changed meanwhile.
        // They were right once, so they may be again: no reason to give a registration up.
        let (with, without) = settings(config).map_err(|error| {
            let unusable = Failure::unavailable(endpoint, "the files of the settings cannot be used");
            Failure::new(unusable.error.with_source(error), Recovery::Keep)
        })?;
        let failed = |error| Failure::of(error, endpoint);
        // One endpoint per client: given several, the crate sends every second request to a dead one.
        let mut client = match Client::connect([&**endpoint], Some(with)).await.map_err(failed) {
            Ok(client) => client,
            Err(failure) if failure.reason == Reason::AuthOff => {
                tracing::warn!(%endpoint, "etcd asks nobody who they are: going on without a user");
                Client::connect([&**endpoint], Some(without)).await.map_err(failed)?
            }
            Err(failure) => return Err(failure),
        };
        // Connecting is lazy; only an answer says that somebody is there.
        match client.status().await.map_err(failed) {
            Ok(status) if status.leader() == 0 => return Err(Failure::unavailable(endpoint, "no leader")),
            Ok(_) => {}
            // Where etcd has users, 3.6.0 to 3.6.11 and 3.5.28 to 3.5.31 tell their status to root alone. That is an
            // answer too; whether there is a leader is then said by the first call, which requires one.
            Err(failure) if failure.is_denial() => {}
            Err(failure) => return Err(failure),
        }
        let (has_user, opened, confirming) = (config.has_user(), Instant::now(), Mutex::default());
        Ok(Self { endpoint: Arc::clone(endpoint), client, has_user, opened, confirming })
    }

    /// Hears from the member that it is not left behind: by a read that its leader has to confirm, and before which it has
    /// to apply all that the leader knew of. Whatever else it says, it may say without having heard of anybody for long.
    ///
    /// Who asks within `every` of another one is told the same.
    pub(crate) async fn confirms(&self, key: &str, every: Duration, within: Duration) -> Result<(), Failure> {
        let confirming = {
            let mut last = self.confirming.lock().unwrap_or_else(PoisonError::into_inner);
            let recent = last.as_ref().filter(|(since, _)| since.elapsed() < every);
            let confirming = recent.map(|(_, confirming)| confirming.clone());
            confirming.unwrap_or_else(|| {
                let confirming = self.read(key.to_owned()).boxed().shared();
                *last = Some((Instant::now(), confirming.clone()));
                confirming
            })
        };
        // Each who asks has a deadline of its own: the first of them may have gone, and its runtime be at rest.
        timeout(within, confirming).await.unwrap_or_else(|_| Err(Failure::timeout(&self.endpoint, within)))
    }

    fn read(&self, key: String) -> impl Future<Output = Result<(), Failure>> + use<> {
        let (mut kv, endpoint) = (self.kv(), Arc::clone(&self.endpoint));
        async move {
            loop {
                let read = kv.get(&*key, Some(GetOptions::new().with_count_only())).await;
                match read.map_err(|error| Failure::of(error, &endpoint)) {
                    // An election is no reason to leave a member; unless it lasts.
                    Err(failure) if failure.reason == Reason::Election => sleep(READ_AGAIN).await,
                    // Who is refused has been answered; what that means is said where it matters.
                    Err(failure) if !failure.is_refusal() => return Err(failure),
                    _ => return Ok(()),
                }
            }
        }
    }

    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Whether the next connection may do better, though the call as such is not worth a retry: who was let in once, and
    /// is not any more, reads the password anew, or learns that etcd has begun or ceased to ask.
    pub(crate) fn mends(&self, failure: &Failure) -> bool {
        self.has_user && failure.recovery == Recovery::Reauthenticate
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(crate) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(crate) fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    pub(crate) fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(LARGEST_MESSAGE)
    }

    /// Awaits `answer` for at most `within`: none of the client's own timeouts bounds every call.
    pub(crate) async fn call<T>(
        &self,
        within: Duration,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Failure> {
        match timeout(within, answer).await {
            Ok(answer) => answer.map_err(|error| Failure::of(error, &self.endpoint)),
            Err(_) => Err(Failure::timeout(&self.endpoint, within)),
        }
    }

    /// An answer that lacks what every answer has.
    pub(crate) fn nonsense(&self, what: &str) -> Failure {
        let message = format!("etcd at {}: {what}", self.endpoint);
        Failure::new(Error::new(ErrorKind::InvalidData, message).with_retryable(true), Recovery::Rotate)
    }
}

/// How to connect with the user, if there is one, and without.
fn settings(config: &EtcdConfig) -> hither_core::Result<(ConnectOptions, ConnectOptions)> {
    let without = ConnectOptions::new()
        .with_connect_timeout(config.connect_timeout())
        .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
        .with_keep_alive_while_idle(false)
        // A member that lost its cluster must not go on serving what it knew.
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
