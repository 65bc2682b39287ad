//! Service discovery in one process: three servers, one client that knows only a name, and a registry in memory.
//!
//! `cargo quickstart`

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use hither::memory::MemoryRegistry;
use hither::tonic::{DiscoveryChannel, Lifecycle, RoundRobin};
use hither::{Address, Discovery, RegistrationStatus};
use hither_examples::demo::proto::Request;
use hither_examples::demo::{Demo, DiscoverDemoClient};
use hither_examples::logging;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tonic::transport::Server;

type BoxError = Box<dyn Error + Send + Sync>;

/// All that the client knows.
const SERVICE: &str = "greeter";
/// How long the record of a server outlives it when it dies.
const TTL: Duration = Duration::from_secs(2);
/// How long the client calls in each part, and its pause between calls.
const A_WHILE: Duration = Duration::from_millis(600);
const BETWEEN_CALLS: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> ExitCode {
    logging::init();
    match run().await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns how many calls failed that must not fail.
async fn run() -> Result<u32, BoxError> {
    println!("hither quickstart: servers join and leave; a client calls them by name.");
    let registry = MemoryRegistry::new();

    println!("\n1. Three servers start. Each listens on a free port and registers as {SERVICE:?}.");
    let _ada = Process::start("ada", &registry).await?;
    let ben = Process::start("ben", &registry).await?;
    let cleo = Process::start("cleo", &registry).await?;

    println!("\n2. A client connects to {SERVICE:?}. It is given no address.");
    let discovery = Discovery::new(registry.clone());
    let channel =
        DiscoveryChannel::builder(&discovery, SERVICE).policy(RoundRobin::default()).connect().await?;
    let mut client = Client::new(channel);
    client.call_until(sleep(A_WHILE)).await;
    client.print_answers();

    println!(
        "\n3. ben shuts down gracefully, as on SIGTERM: it announces that it is draining, removes its record,"
    );
    println!("   finishes the calls in flight, and only then closes. The client calls all the time.");
    client.call_until(ben.terminate()).await;
    client.print_answers();

    println!("\n4. dora joins. The client finds it without a restart.");
    let _dora = Process::start("dora", &registry).await?;
    client.call_until(sleep(A_WHILE)).await;
    client.print_answers();
    let graceful = (client.calls, client.failed);

    println!(
        "\n5. cleo dies, as on SIGKILL. Its record stays until its TTL of {TTL:?} has passed, but the client"
    );
    println!("   notices the broken connection, and calls the others at once.");
    let died = Instant::now();
    cleo.kill().await;
    let mut view = discovery.service(&SERVICE.try_into()?);
    let expired = async { while view.changed().await.is_ok_and(|update| update.instances().count() > 2) {} };
    client.call_until(expired).await;
    println!("   {:.1} s later the registry has removed cleo, too.", died.elapsed().as_secs_f32());
    client.print_answers();

    println!(
        "\n{} calls: {} failed calls while servers joined and left gracefully, {} when one died.",
        client.calls,
        graceful.1,
        client.failed - graceful.1,
    );
    Ok(graceful.1)
}

/// Calls the service, and counts the answers of each server.
struct Client {
    stub: DiscoverDemoClient<DiscoveryChannel>,
    answers: BTreeMap<String, u32>,
    calls: u32,
    failed: u32,
}

impl Client {
    fn new(channel: DiscoveryChannel) -> Self {
        Self { stub: DiscoverDemoClient::new(channel), answers: BTreeMap::new(), calls: 0, failed: 0 }
    }

    /// Calls again and again until `event` has happened.
    async fn call_until<T>(&mut self, event: impl Future<Output = T>) -> T {
        let mut event = std::pin::pin!(event);
        loop {
            self.call().await;
            tokio::select! {
                happened = &mut event => return happened,
                () = sleep(BETWEEN_CALLS) => {}
            }
        }
    }

    async fn call(&mut self) {
        self.calls += 1;
        match self.stub.discover(Request { name: "hello".into() }).await {
            Ok(response) => {
                let content = response.into_inner().content;
                let server = content.split_whitespace().nth(3).unwrap_or("?");
                *self.answers.entry(server.to_owned()).or_default() += 1;
            }
            Err(status) => {
                self.failed += 1;
                println!("   a call failed: {status}");
            }
        }
    }

    /// Prints how many answers came from each server since the last time.
    fn print_answers(&mut self) {
        let answers = std::mem::take(&mut self.answers);
        let answers: Vec<_> = answers.iter().map(|(server, count)| format!("{server} {count}")).collect();
        println!("   -> answers: {}", answers.join(", "));
    }
}

/// A server on a thread and a runtime of its own, so that it can be killed like a process: nothing in it runs any
/// more.
struct Process {
    name: &'static str,
    terminate: oneshot::Sender<()>,
    kill: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Process {
    /// Starts it, and waits until it is registered.
    async fn start(name: &'static str, registry: &MemoryRegistry) -> Result<Self, BoxError> {
        let (terminate, terminated) = oneshot::channel();
        let (kill, killed) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let (registered, mut address) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let server = serve(name, registry.connect(), terminated, registered);
        std::thread::Builder::new().name(name.into()).spawn(move || {
            let served = runtime.block_on(async {
                tokio::select! {
                    served = server => served,
                    _ = killed => Ok(()),
                }
            });
            drop(runtime);
            if let Err(error) = served {
                eprintln!("{name}: {error}");
            }
            let _ = end.send(());
        })?;
        let address = address.recv().await.ok_or("a server ended before it was registered")?;
        println!("   {name:<4} listens on {address} and is registered");
        Ok(Self { name, terminate, kill, ended })
    }

    /// Starts its graceful shutdown, and waits for the end.
    async fn terminate(self) {
        let _ = self.terminate.send(());
        let _ = self.ended.await;
        println!("   {} has shut down", self.name);
        drop(self.kill);
    }

    /// Ends it as SIGKILL does.
    async fn kill(self) {
        let _ = self.kill.send(());
        let _ = self.ended.await;
    }
}

/// All that a server has to do. Its address is sent to `registered` once it is registered.
async fn serve(
    name: &str,
    registry: MemoryRegistry,
    terminated: oneshot::Receiver<()>,
    registered: mpsc::UnboundedSender<Address>,
) -> Result<(), BoxError> {
    let shutdown = async {
        let _ = terminated.await;
    };
    let server = Lifecycle::builder(registry)
        .service(SERVICE)
        .ttl(TTL)
        .propagation_delay(A_WHILE)
        .shutdown_on(shutdown, std::future::pending())
        .on_status(move |registration, status| {
            if let RegistrationStatus::Registered = status {
                // Only the first one is received.
                let _ = registered.send(registration.instance().address().clone());
            }
        })
        .bind("127.0.0.1:0")
        .await?;
    server
        .serve(|incoming, shutdown| {
            Ok(Server::builder()
                .add_service(Demo::service(name))
                .serve_with_incoming_shutdown(incoming, shutdown))
        })
        .await?;
    Ok(())
}
