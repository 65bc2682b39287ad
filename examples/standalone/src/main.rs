//! An application whose registry is chosen by one environment variable.
//!
//! ```console
//! $ REGISTRY=memory://demo cargo run                       # server and client in one process
//!
//! $ export REGISTRY=etcd://127.0.0.1:2379                  # or static://127.0.0.1:8001
//! $ cargo run -- server 127.0.0.1:8001
//! $ cargo run -- client
//! ```

use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hither::tonic::{DiscoveryChannel, Lifecycle, LifecycleBuilder};
use hither::{Discovery, Registry};
use tokio::sync::oneshot;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

mod proto {
    tonic::include_proto!("greeter");
}

use proto::greeter_client::GreeterClient;
use proto::greeter_server::{Greeter, GreeterServer};
use proto::{GreetRequest, GreetResponse};

type BoxError = Box<dyn Error + Send + Sync>;

const SERVICE: &str = "demo/greeter";
const READY_TIMEOUT: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", hither::report(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), BoxError> {
    let registry = hither::connect(&env::var("REGISTRY").unwrap_or_else(|_| "memory://demo".into()))?;
    let mut arguments = env::args().skip(1);
    let role = arguments.next().unwrap_or_else(|| "both".into());
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    match role.as_str() {
        "server" => serve(Lifecycle::builder(registry), &listen).await,
        "client" => call(registry).await,
        "both" => {
            let (stop, stopped) = oneshot::channel::<()>();
            let shutdown = async { drop(stopped.await) };
            let lifecycle =
                Lifecycle::builder(registry.clone()).shutdown_on(shutdown, std::future::pending());
            let client = async {
                call(registry).await?;
                drop(stop);
                Ok(())
            };
            tokio::try_join!(serve(lifecycle, &listen), client).map(drop)
        }
        _ => Err(format!("{role:?} is not one of: server, client, both").into()),
    }
}

/// Serves and stays registered until the shutdown, which SIGTERM or Ctrl-C starts by default.
async fn serve(lifecycle: LifecycleBuilder, listen: &str) -> Result<(), BoxError> {
    let server = lifecycle.service(SERVICE).bind(listen).await?;
    let address = server.local_addr().to_string();
    println!("listening on {address}");
    let greeter = GreeterServer::new(Polite { address });
    server
        .serve(|incoming, shutdown| {
            Ok(Server::builder().add_service(greeter).serve_with_incoming_shutdown(incoming, shutdown))
        })
        .await?;
    Ok(())
}

/// Calls the service by its name.
async fn call(registry: Arc<dyn Registry>) -> Result<(), BoxError> {
    let discovery = Discovery::new(registry);
    let channel =
        DiscoveryChannel::builder(&discovery, SERVICE).ready_timeout(READY_TIMEOUT).connect().await?;
    let mut greeter = GreeterClient::new(channel);
    for name in ["Ada", "Ben"] {
        let response = greeter.greet(GreetRequest { name: name.into() }).await?;
        println!("{}", response.into_inner().greeting);
    }
    Ok(())
}

struct Polite {
    address: String,
}

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<GreetResponse>, Status> {
        let greeting = format!("hello {}, this is {}", request.into_inner().name, self.address);
        Ok(Response::new(GreetResponse { greeting }))
    }
}
