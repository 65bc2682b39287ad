//! A fake etcd on etcd's own protocol, for behaviours that no real one shows on demand.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::proto::*;
use futures_util::{Stream, StreamExt, stream};
use hither_etcd::EtcdConfig;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// What the server does in answer to a request on a watch stream.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Send(PbWatchResponse),
    /// Sends it over and over.
    Forever(PbWatchResponse),
    Fail(Status),
    /// Ends the stream with success.
    End,
}

type Outcome<T> = Result<T, Status>;
type Ranges = dyn Fn(&PbRangeRequest, PbRangeResponse) -> Outcome<PbRangeResponse> + Send + Sync;
type Grants = dyn Fn(PbLeaseGrantResponse) -> Outcome<PbLeaseGrantResponse> + Send + Sync;
type Renewals = dyn Fn(PbLeaseKeepAliveResponse) -> Option<Outcome<PbLeaseKeepAliveResponse>> + Send + Sync;
type Txns = dyn Fn(PbTxnResponse) -> Outcome<PbTxnResponse> + Send + Sync;
type Watches = dyn Fn(&PbWatchRequestUnion) -> Vec<Answer> + Send + Sync;

/// How the server behaves: each answer may be replaced. By default it has one instance, `svc/a`, at revision 10 of cluster
/// 1, and nothing changes but by its clients.
#[derive(Clone)]
pub(crate) struct Script {
    leader: u64,
    /// Before each range response.
    range_delay: Duration,
    range: Arc<Ranges>,
    grant: Arc<Grants>,
    keep_alive: Arc<Renewals>,
    txn: Arc<Txns>,
    watch: Arc<Watches>,
    /// Does not even answer the call that opens a watch stream.
    hangs_watches: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            leader: 1,
            range_delay: Duration::ZERO,
            range: Arc::new(|_, response| Ok(response)),
            grant: Arc::new(Ok),
            keep_alive: Arc::new(|response| Some(Ok(response))),
            txn: Arc::new(Ok),
            watch: Arc::new(|request| match request {
                PbWatchRequestUnion::CreateRequest(_) => vec![Answer::Send(created(10))],
                PbWatchRequestUnion::ProgressRequest(_) => vec![Answer::Send(progress(10))],
                PbWatchRequestUnion::CancelRequest(_) => vec![],
            }),
            hangs_watches: false,
        }
    }
}

impl Script {
    pub(crate) fn leader(mut self, leader: u64) -> Self {
        self.leader = leader;
        self
    }

    pub(crate) fn range_delay(mut self, delay: Duration) -> Self {
        self.range_delay = delay;
        self
    }

    pub(crate) fn hangs_watches(mut self) -> Self {
        self.hangs_watches = true;
        self
    }

    pub(crate) fn range(
        mut self,
        range: impl Fn(&PbRangeRequest, PbRangeResponse) -> Outcome<PbRangeResponse> + Send + Sync + 'static,
    ) -> Self {
        self.range = Arc::new(range);
        self
    }

    pub(crate) fn grant(
        mut self,
        grant: impl Fn(PbLeaseGrantResponse) -> Outcome<PbLeaseGrantResponse> + Send + Sync + 'static,
    ) -> Self {
        self.grant = Arc::new(grant);
        self
    }

    pub(crate) fn keep_alive(
        mut self,
        keep_alive: impl Fn(PbLeaseKeepAliveResponse) -> Option<Outcome<PbLeaseKeepAliveResponse>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.keep_alive = Arc::new(keep_alive);
        self
    }

    pub(crate) fn txn(
        mut self,
        txn: impl Fn(PbTxnResponse) -> Outcome<PbTxnResponse> + Send + Sync + 'static,
    ) -> Self {
        self.txn = Arc::new(txn);
        self
    }

    /// A watch is answered with these; progress requests as a real etcd does.
    pub(crate) fn watch(self, answers: impl IntoIterator<Item = Answer>) -> Self {
        let answers: Vec<_> = answers.into_iter().collect();
        self.watch_stream(move |request| match request {
            PbWatchRequestUnion::CreateRequest(_) => answers.clone(),
            PbWatchRequestUnion::ProgressRequest(_) => vec![Answer::Send(progress(10))],
            PbWatchRequestUnion::CancelRequest(_) => vec![],
        })
    }

    pub(crate) fn watch_stream(
        mut self,
        watch: impl Fn(&PbWatchRequestUnion) -> Vec<Answer> + Send + Sync + 'static,
    ) -> Self {
        self.watch = Arc::new(watch);
        self
    }
}

pub(crate) fn header(revision: i64) -> Option<PbResponseHeader> {
    Some(PbResponseHeader { cluster_id: 1, revision, ..PbResponseHeader::default() })
}

/// A record of an instance, as of `mod_revision`.
pub(crate) fn kv(key: &str, mod_revision: i64) -> PbKeyValue {
    let value = format!(r#"{{"Op":0,"Addr":"h:{mod_revision}","Metadata":null}}"#).into_bytes();
    PbKeyValue { key: key.into(), value, mod_revision, version: 1, ..PbKeyValue::default() }
}

pub(crate) fn created(revision: i64) -> PbWatchResponse {
    PbWatchResponse { header: header(revision), created: true, ..PbWatchResponse::default() }
}

pub(crate) fn progress(revision: i64) -> PbWatchResponse {
    PbWatchResponse { header: header(revision), watch_id: -1, ..PbWatchResponse::default() }
}

pub(crate) fn event(key: &str, mod_revision: i64) -> PbEvent {
    PbEvent { kv: Some(kv(key, mod_revision)), ..PbEvent::default() }
}

pub(crate) fn events(revision: i64, events: impl IntoIterator<Item = PbEvent>) -> PbWatchResponse {
    let events = events.into_iter().collect();
    PbWatchResponse { header: header(revision), events, ..PbWatchResponse::default() }
}

/// The requests that a server was sent, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) status: usize,
    pub(crate) ranges: usize,
    pub(crate) watches: usize,
    pub(crate) grants: usize,
}

/// A fake etcd, until it is dropped.
pub(crate) struct Fake {
    endpoint: String,
    served: Served,
    server: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Fake {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let records = BTreeMap::from([(b"svc/a".to_vec(), kv("svc/a", 9))]);
        let served = Served {
            script: Arc::new(Mutex::new(script)),
            records: Arc::new(Mutex::new(records)),
            counts: Arc::default(),
        };
        let router = Server::builder()
            .add_service(PbKvServer::new(served.clone()))
            .add_service(PbWatchServer::new(served.clone()))
            .add_service(PbLeaseServer::new(served.clone()))
            .add_service(PbMaintenanceServer::new(served.clone()));
        let server = tokio::spawn(async move {
            let _ = router.serve_with_incoming(TcpIncoming::from(listener)).await;
        });
        Self { endpoint, served, server }
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Settings under which nothing takes long, and a busy machine answers in time.
    pub(crate) fn config(&self) -> EtcdConfig {
        let patience = Duration::from_secs(2);
        super::hasty(self.endpoint()).with_connect_timeout(patience).with_request_timeout(patience)
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.served.counts.lock().unwrap()
    }

    /// How it behaves.
    pub(crate) fn served_script(&self) -> Script {
        self.served.script()
    }

    /// Behaves otherwise from now on.
    pub(crate) fn becomes(&self, script: Script) {
        *self.served.script.lock().unwrap() = script;
    }
}

#[derive(Clone)]
struct Served {
    script: Arc<Mutex<Script>>,
    records: Arc<Mutex<BTreeMap<Vec<u8>, PbKeyValue>>>,
    counts: Arc<Mutex<Counts>>,
}

impl Served {
    fn script(&self) -> Script {
        self.script.lock().unwrap().clone()
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Outcome<T>> + Send>>;

fn unimplemented<T>() -> Outcome<Response<T>> {
    Err(Status::unimplemented("the fake has none"))
}

#[tonic::async_trait]
impl PbKvService for Served {
    async fn range(&self, request: Request<PbRangeRequest>) -> Outcome<Response<PbRangeResponse>> {
        self.counts.lock().unwrap().ranges += 1;
        tokio::time::sleep(self.script().range_delay).await;
        let request = request.into_inner();
        let in_range = |key: &Vec<u8>| match &*request.range_end {
            [] => *key == request.key,
            [0] => *key >= request.key,
            end => *key >= request.key && **key < *end,
        };
        let kvs: Vec<_> = {
            let records = self.records.lock().unwrap();
            records.iter().filter(|(key, _)| in_range(key)).map(|(_, kv)| kv.clone()).collect()
        };
        let count = i64::try_from(kvs.len()).unwrap();
        let response = PbRangeResponse { header: header(10), kvs, more: false, count };
        (self.script().range)(&request, response).map(Response::new)
    }

    type RangeStreamStream = Boxed<PbRangeStreamResponse>;

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Outcome<Response<Self::RangeStreamStream>> {
        unimplemented()
    }

    async fn put(&self, _: Request<PbPutRequest>) -> Outcome<Response<PbPutResponse>> {
        unimplemented()
    }

    async fn delete_range(&self, _: Request<PbDeleteRequest>) -> Outcome<Response<PbDeleteResponse>> {
        unimplemented()
    }

    /// Every condition holds.
    async fn txn(&self, request: Request<PbTxnRequest>) -> Outcome<Response<PbTxnResponse>> {
        for operation in request.into_inner().success {
            if let Some(PbTxnOpRequest::RequestPut(put)) = operation.request {
                let (key, lease) = (put.key.clone(), put.lease);
                let kv = PbKeyValue {
                    key: put.key,
                    value: put.value,
                    lease,
                    mod_revision: 10,
                    version: 1,
                    ..PbKeyValue::default()
                };
                self.records.lock().unwrap().insert(key, kv);
            }
        }
        let response = PbTxnResponse { header: header(10), succeeded: true, ..PbTxnResponse::default() };
        (self.script().txn)(response).map(Response::new)
    }

    async fn compact(&self, _: Request<PbCompactionRequest>) -> Outcome<Response<PbCompactionResponse>> {
        unimplemented()
    }
}

#[tonic::async_trait]
impl PbWatchService for Served {
    type WatchStream = Boxed<PbWatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Outcome<Response<Self::WatchStream>> {
        self.counts.lock().unwrap().watches += 1;
        if self.script().hangs_watches {
            std::future::pending::<()>().await;
        }
        let (script, mut requests) = (self.script(), request.into_inner());
        let (answer, answers) = mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok(Some(request)) = requests.message().await {
                let Some(request) = request.request_union else { continue };
                for next in (script.watch)(&request) {
                    let sent = match next {
                        Answer::Send(response) => answer.send(Ok(response)).await,
                        Answer::Forever(response) => {
                            while answer.send(Ok(response.clone())).await.is_ok() {}
                            return;
                        }
                        Answer::Fail(status) => answer.send(Err(status)).await,
                        Answer::End => return,
                    };
                    if sent.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(received(answers)))
    }
}

fn received<T: Send + 'static>(receiver: mpsc::Receiver<Outcome<T>>) -> Boxed<T> {
    stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) }).boxed()
}

#[tonic::async_trait]
impl PbLeaseService for Served {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Outcome<Response<PbLeaseGrantResponse>> {
        self.counts.lock().unwrap().grants += 1;
        let request = request.into_inner();
        let response = PbLeaseGrantResponse {
            header: header(10),
            id: request.id,
            ttl: request.ttl,
            ..Default::default()
        };
        (self.script().grant)(response).map(Response::new)
    }

    async fn lease_revoke(
        &self,
        _: Request<PbLeaseRevokeRequest>,
    ) -> Outcome<Response<PbLeaseRevokeResponse>> {
        Ok(Response::new(PbLeaseRevokeResponse { header: header(10) }))
    }

    type LeaseKeepAliveStream = Boxed<PbLeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Outcome<Response<Self::LeaseKeepAliveStream>> {
        let script = self.script();
        let renewed = request.into_inner().filter_map(move |request| {
            let answer = request.ok().and_then(|request| {
                let response = PbLeaseKeepAliveResponse { header: header(10), id: request.id, ttl: 10 };
                (script.keep_alive)(response)
            });
            std::future::ready(answer)
        });
        Ok(Response::new(renewed.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        _: Request<PbLeaseTimeToLiveRequest>,
    ) -> Outcome<Response<PbLeaseTimeToLiveResponse>> {
        unimplemented()
    }

    async fn lease_leases(
        &self,
        _: Request<PbLeaseLeasesRequest>,
    ) -> Outcome<Response<PbLeaseLeasesResponse>> {
        unimplemented()
    }
}

#[tonic::async_trait]
impl PbMaintenanceService for Served {
    async fn status(&self, _: Request<PbStatusRequest>) -> Outcome<Response<PbStatusResponse>> {
        self.counts.lock().unwrap().status += 1;
        let leader = self.script().leader;
        Ok(Response::new(PbStatusResponse { header: header(10), leader, ..PbStatusResponse::default() }))
    }

    async fn alarm(&self, _: Request<PbAlarmRequest>) -> Outcome<Response<PbAlarmResponse>> {
        unimplemented()
    }

    async fn defragment(&self, _: Request<PbDefragmentRequest>) -> Outcome<Response<PbDefragmentResponse>> {
        unimplemented()
    }

    async fn hash(&self, _: Request<PbHashRequest>) -> Outcome<Response<PbHashResponse>> {
        unimplemented()
    }

    async fn hash_kv(&self, _: Request<PbHashKvRequest>) -> Outcome<Response<PbHashKvResponse>> {
        unimplemented()
    }

    type SnapshotStream = Boxed<PbSnapshotResponse>;

    async fn snapshot(&self, _: Request<PbSnapshotRequest>) -> Outcome<Response<Self::SnapshotStream>> {
        unimplemented()
    }

    async fn move_leader(&self, _: Request<PbMoveLeaderRequest>) -> Outcome<Response<PbMoveLeaderResponse>> {
        unimplemented()
    }

    async fn downgrade(&self, _: Request<PbDowngradeRequest>) -> Outcome<Response<PbDowngradeResponse>> {
        unimplemented()
    }
}
