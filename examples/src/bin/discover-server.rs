//! A gRPC server that is found through etcd.
//!
//! `cargo run -p hither-examples --features etcd --bin discover-server -- -p 8001`

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hither_core::{Address, RegistrationStatus, Resolver, ServiceName};
use hither_etcd::EtcdRegistry;
use hither_examples::cli::{self, Failure, Place, note, say};
use hither_examples::demo::{self, Demo, SERVICE_NAME};
use hither_tonic::{ErrorKind, Lifecycle};
use tokio::sync::mpsc;
use tonic::transport::Server;

/// Serves discover.DiscoverDemo and registers itself in etcd; SIGTERM or Ctrl-C makes it leave gracefully, a second
/// one at once
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
    /// How long the record outlives a server that died without a word
    #[arg(long, value_name = "DURATION", default_value = "10s", allow_hyphen_values = true, value_parser = cli::duration)]
    ttl: Duration,
    /// How long to go on serving after the record was removed, so that the removal reaches every client
    #[arg(
        long,
        visible_alias = "drain",
        value_name = "DURATION",
        default_value = "2s",
        allow_hyphen_values = true,
        value_parser = cli::duration
    )]
    propagation_delay: Duration,
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
            return Err(Failure::usage_line(why));
        }
        None => Address::host(&args.host, args.port).map_err(|error| Failure::usage(&error))?,
    };
    let registry = args.place.registry.connect().map_err(|error| Failure::usage(&error))?;
    let (reporter, health) = tonic_health::server::health_reporter();
    let (told, statuses) = mpsc::unbounded_channel();

    let mut builder = Lifecycle::builder(registry.clone())
        .service(&args.place.service)
        .advertise(address)
        .ttl(args.ttl)
        .propagation_delay(args.propagation_delay)
        .health(reporter, [SERVICE_NAME])
        .on_status(move |_, status| {
            // Nobody listens any more once the program is at its end.
            let _ = told.send(status.clone());
        });
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
    say(format_args!("listening on {}", server.local_addr()));

    let demo = Demo::service(server.local_addr().port().to_string());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(demo::proto::DESCRIPTORS)
        .build_v1()
        .map_err(|error| Failure::usage(&error))?;
    let address = server.instance().address().clone();
    let serving = server.serve(|incoming, shutdown| {
        let router = Server::builder().add_service(health).add_service(reflection).add_service(demo);
        Ok(router.serve_with_incoming_shutdown(incoming, shutdown))
    });
    tokio::select! {
        served = serving => served.map(|()| ExitCode::SUCCESS).map_err(|error| failure(&error)),
        never = narrate(statuses, &registry, &args.place, &address) => match never {},
    }
}

/// Says how it stands with the registration: each change once.
async fn narrate(
    mut statuses: mpsc::UnboundedReceiver<RegistrationStatus>,
    registry: &EtcdRegistry,
    place: &Place,
    address: &Address,
) -> std::convert::Infallible {
    let Place { registry: url, service } = place;
    let mut registered = false;
    while let Some(status) = statuses.recv().await {
        match status {
            RegistrationStatus::Registered if !registered => {
                registered = true;
                say(format_args!("registered {service} as {address}"));
                say(present(registry, service).await);
            }
            RegistrationStatus::Registered => {
                note(format_args!("registry {url} is back, and we are registered"));
            }
            RegistrationStatus::Retrying { cause, .. } if registered => {
                note(format_args!("registry {url} is lost; serving on, and trying on: {}", cause.report()));
            }
            RegistrationStatus::Retrying { cause, .. } => {
                let cause = cause.report();
                note(format_args!(
                    "registry {url} cannot be reached; serving, and registering when it can: {cause}"
                ));
            }
            RegistrationStatus::Superseded => {
                note(format_args!(
                    "somebody else registered {service} as {address}; serving on, unregistered"
                ));
            }
            RegistrationStatus::Failed(error) => {
                note(format_args!("{service} cannot be registered; serving on: {}", error.report()));
            }
            RegistrationStatus::Deregistering => {
                note(format_args!("leaving: {service} is being deregistered"));
            }
            _ => {}
        }
    }
    std::future::pending().await
}

/// The instances that clients can see now, in one line.
async fn present(registry: &EtcdRegistry, service: &ServiceName) -> String {
    match registry.resolve(service).await {
        Ok(snapshot) => {
            let addresses = snapshot.iter().map(|instance| instance.address().to_string());
            format!("present: {}", addresses.collect::<Vec<_>>().join(", "))
        }
        Err(error) => format!("present: unknown ({})", error.report()),
    }
}

/// `k=v`.
fn entry(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("expected such as shard=3".into()),
    }
}

/// What is wrong with the input is told apart from a server that failed.
fn failure(error: &hither_tonic::Error) -> Failure {
    match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::Bind => Failure::usage(error),
        _ => Failure::at_work(error),
    }
}
