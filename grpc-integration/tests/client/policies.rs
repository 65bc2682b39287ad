//! What a channel asks its load balancing policy, and what it tells it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use hither_core::SortedById;
use hither_tonic::{
    CallInfo, LoadBalancingPolicy, Outcome, OutlierDetection, Pick, Picked, Picker, ReadyInstance,
};
use tokio::time::{Instant, sleep};
use tonic::{Code, Request, Status};

use crate::scripted::{Fleet, Reply, Script};
use crate::support::{Client, Net, Registry, Server, until};
use crate::{SECOND, channel};

/// A policy whose pickers are due so long after each other. A call is queued until the third.
#[derive(Debug)]
struct Due {
    after: Duration,
    pickers: Vec<Instant>,
    /// The same, for the test.
    seen: Arc<Mutex<Vec<Instant>>>,
}

#[derive(Debug)]
struct DuePicker(Option<ReadyInstance>);

impl LoadBalancingPolicy for Due {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        self.pickers.push(Instant::now());
        self.seen.lock().unwrap().clone_from(&self.pickers);
        Arc::new(DuePicker((self.pickers.len() >= 3).then(|| ready[0].clone())))
    }

    fn due(&self) -> Option<Instant> {
        Some(*self.pickers.last()? + self.after)
    }
}

impl Picker for DuePicker {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        self.0.clone().map_or(Pick::Queue, |instance| Pick::Instance(instance.into()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_picker_is_made_anew_when_it_is_due_and_gets_the_calls_that_were_queued() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let pickers = Arc::<Mutex<Vec<Instant>>>::default();
    let policy = Due { after: 2 * SECOND, pickers: Vec::new(), seen: Arc::clone(&pickers) };
    let client = Client::new(&channel(&registry, &net).policy(policy).connect().await.unwrap());
    assert_eq!(client.name().await.unwrap(), "a:1");
    sleep(7 * SECOND).await;
    let pickers = pickers.lock().unwrap();
    assert_eq!(pickers.len(), 6, "{pickers:?}");
    for pair in pickers.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap >= 2 * SECOND && gap < 2 * SECOND + SECOND / 100, "{gap:?}");
    }
}

/// Nor is what outlier detection looks at in each interval.
#[tokio::test(start_paused = true)]
async fn a_new_picker_is_no_change_of_the_status() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let policy = Due { after: SECOND, pickers: Vec::new(), seen: Arc::default() };
    let builder = channel(&registry, &net).policy(policy).outlier_detection(OutlierDetection::default());
    let channel = builder.connect().await.unwrap();
    let mut changes = Box::pin(channel.status_changes());
    sleep(SECOND).await;
    while changes.next().now_or_never().is_some() {}
    sleep(60 * SECOND).await;
    assert!(changes.next().now_or_never().is_none());
    drop(server);
    assert!(changes.next().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_is_always_due_is_paced_and_not_asked_while_nothing_is_ready() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let pickers = Arc::<Mutex<Vec<Instant>>>::default();
    let policy = Due { after: Duration::ZERO, pickers: Vec::new(), seen: Arc::clone(&pickers) };
    let _channel = channel(&registry, &net).policy(policy).connect().await.unwrap();
    let made = || pickers.lock().unwrap().len();
    sleep(SECOND).await;
    assert!((50..=101).contains(&made()), "{} pickers in a second", made());
    drop(server);
    sleep(SECOND).await;
    let before = made();
    sleep(60 * SECOND).await;
    assert_eq!(made(), before);
}

/// Picks the instance whose address is in the request's extensions, and records what it is told.
#[derive(Debug, Clone, Default)]
struct ByExtension(Arc<Mutex<Vec<Told>>>, Arc<Mutex<Vec<Begun>>>, Arc<AtomicUsize>);

/// Instance, token, code, and what the trailers have of `grpc-message`.
type Told = (String, usize, Code, Option<String>);

/// After how long a response had begun, and whether one that has ended had.
#[derive(Debug, PartialEq)]
enum Begun {
    Responding(Duration),
    Done(bool),
}

#[derive(Debug, Clone)]
struct Address(&'static str);

#[derive(Debug)]
struct ByExtensionPicker(SortedById<ReadyInstance>, ByExtension);

impl LoadBalancingPolicy for ByExtension {
    fn picker(&mut self, ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        Arc::new(ByExtensionPicker(ready.clone(), self.clone()))
    }
}

impl Picker for ByExtensionPicker {
    fn pick(&self, call: &CallInfo<'_>) -> Pick {
        self.1.2.fetch_add(1, Ordering::SeqCst);
        let Address(address) = call.extensions().get().unwrap();
        match self.0.position(&address.parse().unwrap()) {
            Ok(at) => Pick::Instance(Picked::from(self.0[at].clone()).with_token(at)),
            Err(_) => Pick::Queue,
        }
    }

    fn responding(&self, picked: &Picked, after: Duration) {
        assert_ne!(picked.token(), Picked::NO_TOKEN);
        self.1.1.lock().unwrap().push(Begun::Responding(after));
    }

    fn done(&self, picked: &Picked, outcome: &Outcome<'_>) {
        self.1.1.lock().unwrap().push(Begun::Done(outcome.was_responding()));
        let message = outcome.trailers().map(|trailers| {
            let message = trailers.get("grpc-message").map(|message| message.to_str().unwrap());
            message.unwrap_or_default().to_owned()
        });
        let instance = picked.instance().instance().id().to_string();
        self.1.0.lock().unwrap().push((instance, picked.token(), outcome.code(), message));
    }
}

impl ByExtension {
    fn picks(&self) -> usize {
        self.2.load(Ordering::SeqCst)
    }

    fn told(&self) -> Vec<Told> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn to(address: &'static str) -> Request<String> {
    let mut request = Request::new(String::new());
    request.extensions_mut().insert(Address(address));
    request
}

fn to_count(address: &'static str, messages: u32) -> Request<String> {
    to(address).map(|_| messages.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_picker_sees_the_extensions_of_a_call_each_time_and_is_given_back_its_token() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _servers = [Server::on(&net, "a:1"), Server::on(&net, "b:1")];
    registry.up("a:1").await;
    let policy = ByExtension::default();
    let client = Client::new(&channel(&registry, &net).policy(policy.clone()).connect().await.unwrap());
    client.call("Name", to("a:1")).await.unwrap();
    assert_eq!(policy.told(), [("a:1".to_owned(), 0, Code::Ok, Some(String::new()))]);
    // Queued by one picker, and given to the next.
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call("Name", to("b:1")).await }
    });
    sleep(SECOND).await;
    assert!(!call.is_finished());
    registry.up("b:1").await;
    assert_eq!(call.await.unwrap().unwrap().into_inner(), "b:1");
    assert_eq!(policy.told(), [("b:1".to_owned(), 1, Code::Ok, Some(String::new()))]);
}

#[tokio::test(start_paused = true)]
async fn a_picker_is_told_the_trailers_of_what_has_ended_by_itself() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let policy = ByExtension::default();
    let client = Client::new(&channel(&registry, &net).policy(policy.clone()).connect().await.unwrap());
    client.call("Fail", to("a:1")).await.unwrap_err();
    let message = Some("not%20today".to_owned());
    assert_eq!(policy.told(), [("a:1".to_owned(), 0, Code::Unavailable, message)]);
    let mut stream = client.stream("Stream", to("a:1")).await.unwrap();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    assert_eq!(policy.told(), [("a:1".to_owned(), 0, Code::Cancelled, None)]);
}

#[tokio::test(start_paused = true)]
async fn a_picker_is_told_once_that_a_response_has_begun_if_the_caller_waits_for_the_rest() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let policy = ByExtension::default();
    let client = Client::new(&channel(&registry, &net).policy(policy.clone()).connect().await.unwrap());
    let told = || std::mem::take(&mut *policy.1.lock().unwrap());
    client.call("Name", to("a:1")).await.unwrap();
    client.call("Fail", to("a:1")).await.unwrap_err();
    assert_eq!(told(), [Begun::Done(false), Begun::Done(false)]);
    // Its headers come after ten milliseconds.
    let mut stream = client.stream("Count", to_count("a:1", 3)).await.unwrap();
    while stream.message().await.unwrap().is_some() {}
    let [Begun::Responding(after), Begun::Done(true)] = told()[..] else { panic!("not told once") };
    assert!((10..13).contains(&after.as_millis()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_another_instance_takes_has_no_token() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let full = Server::described(&net, "a:1", |server| server.max_concurrent_streams(1));
    let _other = Server::on(&net, "b:1");
    registry.up("a:1").await;
    registry.up("b:1").await;
    let policy = ByExtension::default();
    let builder = channel(&registry, &net).policy(policy.clone()).max_connections(1);
    let client = Client::new(&builder.connect().await.unwrap());
    sleep(SECOND).await;
    let stream = client.stream("Stream", to("a:1")).await.unwrap();
    assert_eq!(client.call("Name", to("a:1")).await.unwrap().into_inner(), "b:1");
    // A policy that counts its picks can take back each.
    let mut told = policy.told();
    assert_eq!(told.pop(), Some(("b:1".to_owned(), Picked::NO_TOKEN, Code::Ok, Some(String::new()))));
    assert_eq!(told, vec![("a:1".to_owned(), 0, Code::Cancelled, None); 3], "each pick");
    assert_eq!(policy.picks(), 1 + 3);
    drop(stream);
    until("the stream's end was told", || !policy.0.lock().unwrap().is_empty()).await;
    assert_eq!(policy.told(), [("a:1".to_owned(), 0, Code::Cancelled, None)]);
    assert_eq!(full.calls(), 1);
}

/// As nginx passes a trailers-only response on. The caller reads no further, so that it looked like a call that was given up.
#[tokio::test(start_paused = true)]
async fn a_status_in_the_headers_is_the_outcome_though_the_stream_ends_later() {
    let fleet = Fleet::of(1, Script::of([Reply::InHeaders(Code::Unavailable)])).await;
    let client = Client::new(&fleet.channel().connect().await.unwrap());
    let status = client.name().await.unwrap_err();
    assert_eq!((status.code(), fleet.recorder.codes()), (Code::Unavailable, vec![Code::Unavailable]));
    // An empty stream that has succeeded.
    fleet.script.push([Reply::InHeaders(Code::Ok)]);
    let mut stream = client.stream("Stream", String::new()).await.unwrap();
    assert_eq!(stream.message().await.unwrap(), None);
    assert_eq!(fleet.recorder.codes(), [Code::Ok]);
}

/// Ends all calls, as its function says.
#[derive(Debug, Clone, Copy)]
struct Ends(fn() -> Pick);

impl LoadBalancingPolicy for Ends {
    fn picker(&mut self, _ready: &SortedById<ReadyInstance>) -> Arc<dyn Picker> {
        Arc::new(*self)
    }
}

impl Picker for Ends {
    fn pick(&self, _call: &CallInfo<'_>) -> Pick {
        self.0()
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_policy_fails_with_ok_has_not_succeeded() {
    let (mut registry, net) = (Registry::new(), Net::new());
    let _server = Server::on(&net, "a:1");
    registry.up("a:1").await;
    let [fail, drop]: [fn() -> Pick; 2] = [
        || Pick::Fail(Status::new(Code::Ok, "over quota")),
        || Pick::Drop(Status::new(Code::Ok, "over quota")),
    ];
    for ends in [fail, drop].map(Ends) {
        let client = Client::new(&channel(&registry, &net).policy(ends).connect().await.unwrap());
        let status = client.name().await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().ends_with("Ends has failed the call with OK: over quota"), "{status:?}");
    }
}
