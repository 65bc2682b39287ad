//! A gRPC server that registers itself.
//!
//! `cargo run -p hither-examples --features etcd --bin discover-server -- -p 8001`

use std::convert::Infallible;
use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use hither::tonic::{ErrorKind, Lifecycle};
use hither::{Address, RegistrationStatus, Registry, Resolver, ServiceName};
use hither_examples::cli::{self, Failure, Place, eprint, print};
use hither_examples::demo::{self, Demo, SERVICE_NAME};
use tokio::sync::{mpsc, oneshot};
use tonic::transport::Server;

/// Serves discover.DiscoverDemo and registers itself; SIGTERM or Ctrl-C starts a graceful shutdown, a second one
/// ends it at once
#[derive(Debug, Parser)]
#[command(disable_version_flag = true)]
struct Args {
    #[command(flatten)]
    place: Place,
    /// The port to listen on; 0 takes a free one
    #[arg(short, long, default_value_t = 8000)]
    port: u16,
    /// The host to listen on, as clients reach it
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// The address to register, where clients reach the server at another one than it listens on
    #[arg(long, value_name = "ADDRESS")]
    advertise: Option<Address>,
    /// How long the record outlives a server that died without deregistering
    #[arg(long, value_name = "DURATION", default_value = "10s", allow_hyphen_values = true, value_parser = cli::duration)]
    ttl: Duration,
    /// How long to stay registered as draining after the signal, before the record is removed: time for clients that
    /// honour that state to move their new calls to other servers
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "500ms",
        allow_hyphen_values = true,
        value_parser = cli::duration
    )]
    announce_delay: Duration,
    /// How long to go on accepting new calls after the record was removed, so that the removal reaches every client
    #[arg(
        long,
        visible_alias = "drain",
        value_name = "DURATION",
        default_value = "2s",
        allow_hyphen_values = true,
        value_parser = cli::duration
    )]
    propagation_delay: Duration,
    /// How long calls in flight may take to finish once no new ones are accepted; connections that are still open
    /// then are cut
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "20s",
        allow_hyphen_values = true,
        value_parser = cli::duration
    )]
    drain_timeout: Duration,
    /// The age, ±10 %, at which a connection is ended without losing a call, so that clients spread again
    #[arg(long, value_name = "DURATION", allow_hyphen_values = true, value_parser = cli::duration)]
    max_connection_age: Option<Duration>,
    /// The version of the software, as clients see it
    #[arg(long)]
    version: Option<String>,
    /// The zone, as clients see it
    #[arg(long)]
    zone: Option<String>,
    /// An entry of metadata, as clients see it; may be given several times
    #[arg(long, value_name = "K=V", value_parser = entry)]
    meta: Vec<(String, String)>,
}

fn main() -> ExitCode {
    cli::run(serve)
}

async fn serve(args: Args) -> Result<ExitCode, Failure> {
    let address = match args.advertise {
        Some(address) => address,
        None if args.host.parse::<IpAddr>().is_ok_and(|host| host.is_unspecified()) => {
            let why = format!(
                "--host {} is no address that a client can call: name one of this machine's, here or with --advertise",
                args.host
            );
            return Err(Failure::usage_message(why));
        }
        None => Address::host(&args.host, args.port).map_err(|error| Failure::usage(&error))?,
    };
    let registry = args.place.registry.connect().map_err(|error| Failure::usage(&error))?;
    let (reporter, health) = tonic_health::server::health_reporter();
    let (changes, statuses) = mpsc::unbounded_channel();

    let mut builder = Lifecycle::builder(registry.clone())
        .service(&args.place.service)
        .advertise(address)
        .ttl(args.ttl)
        .announce_delay(args.announce_delay)
        .propagation_delay(args.propagation_delay)
        .drain_timeout(args.drain_timeout)
        .health(reporter, [SERVICE_NAME])
        .on_status(move |_, status| {
            // The receiver is gone when the program ends.
            let _ = changes.send(status.clone());
        });
    if let Some(age) = args.max_connection_age {
        builder = builder.max_connection_age(age);
    }
    if let Some(version) = args.version {
        builder = builder.instance(|instance| instance.with_version(version));
    }
    if let Some(zone) = args.zone {
        builder = builder.instance(|instance| instance.with_zone(zone));
    }
    for (key, value) in args.meta {
        builder = builder.instance(|instance| instance.with_metadata(key, value));
    }
    let server = builder.bind((args.host.as_str(), args.port)).await.map_err(|error| failure(&error))?;
    print(format_args!("listening on {}", server.local_addr()));

    let demo = Demo::service(server.local_addr().port().unwrap_or_default().to_string());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(demo::proto::DESCRIPTORS)
        .build_v1()
        .map_err(|error| Failure::usage(&error))?;
    let address = server.registrations()[0].instance().address().clone();
    let serving = server.serve(|incoming, shutdown| {
        let router = Server::builder().add_service(health).add_service(reflection).add_service(demo);
        Ok(router.serve_with_incoming_shutdown(incoming, shutdown))
    });
    tokio::select! {
        served = serving => served.map(|()| ExitCode::SUCCESS).map_err(|error| failure(&error)),
        (never, ()) = print_registration(statuses, &registry, &args.place, &address) => match never {},
    }
}

/// Prints what becomes of the registration, and once what clients can see with it. The registry may take its time to
/// answer that, and meanwhile statuses are printed.
async fn print_registration(
    statuses: mpsc::UnboundedReceiver<RegistrationStatus>,
    registry: &Arc<dyn Registry>,
    place: &Place,
    address: &Address,
) -> (Infallible, ()) {
    let (registered, first) = oneshot::channel();
    let print_present = async {
        if first.await.is_ok() {
            print(present(registry, &place.service).await);
        }
    };
    tokio::join!(print_statuses(statuses, registered, place, address), print_present)
}

/// Prints each change of the registration's status once.
async fn print_statuses(
    mut statuses: mpsc::UnboundedReceiver<RegistrationStatus>,
    registered: oneshot::Sender<()>,
    place: &Place,
    address: &Address,
) -> Infallible {
    let Place { registry: url, service } = place;
    let mut registered = Some(registered);
    while let Some(status) = statuses.recv().await {
        match status {
            RegistrationStatus::Registered => match registered.take() {
                Some(registered) => {
                    print(format_args!("registered {service} as {address}"));
                    let _ = registered.send(());
                }
                None => eprint(format_args!("registry {url} is back; registered")),
            },
            RegistrationStatus::Retrying { cause, .. } if registered.is_none() => {
                eprint(format_args!("registry {url} is lost; still serving, retrying: {}", cause.report()));
            }
            RegistrationStatus::Retrying { cause, .. } => {
                let cause = cause.report();
                eprint(format_args!(
                    "registry {url} cannot be reached; serving unregistered, retrying: {cause}"
                ));
            }
            RegistrationStatus::Superseded => {
                eprint(format_args!(
                    "another server registered {service} as {address}; still serving, unregistered"
                ));
            }
            RegistrationStatus::Failed(error) => {
                eprint(format_args!("registration of {service} failed; still serving: {}", error.report()));
            }
            RegistrationStatus::Deregistering => {
                eprint(format_args!("shutting down: deregistering {service}"));
            }
            _ => {}
        }
    }
    std::future::pending().await
}

/// The instances that clients can see now, in one line.
async fn present(registry: &Arc<dyn Registry>, service: &ServiceName) -> String {
    match registry.resolve(service).await {
        Ok(snapshot) => {
            let addresses = snapshot.iter().map(|instance| instance.address().to_string());
            format!("present: {}", addresses.collect::<Vec<_>>().join(", "))
        }
        Err(error) => format!("present: unknown ({})", error.report()),
    }
}

/// Parses `k=v`.
fn entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("expected for example shard=3".into()),
    }
}

/// Invalid input exits with 2, a server that failed with 1.
fn failure(error: &hither::tonic::Error) -> Failure {
    match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::Bind => Failure::usage(error),
        _ => Failure::failed(error),
    }
}
