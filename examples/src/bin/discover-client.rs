//! A gRPC client that finds its servers in a registry.
//!
//! `cargo run -p hither-examples --features etcd --bin discover-client -- --count 10 --interval 100ms`

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hither::tonic::{DiscoveryChannel, RoundRobin};
use hither::{Discovery, Freshness, ServiceView, Update};
use hither_examples::cli::{self, Failure, Place, eprint, print};
use hither_examples::demo::DiscoverDemoClient;
use hither_examples::demo::proto::{Request, Response};
use hither_examples::text::{code_name, quoted};
use tokio::time::{sleep, timeout};
use tonic::Status;

/// Calls discover.DiscoverDemo by name, round robin over its servers; exits with 1 if a call failed, and with 2 if no
/// server was ready in time
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    place: Place,
    /// How many calls to make
    #[arg(long, value_name = "N", default_value_t = 10, allow_hyphen_values = true)]
    count: u64,
    /// How long to pause between calls
    #[arg(long, value_name = "DURATION", default_value = "1s", allow_hyphen_values = true, value_parser = cli::duration)]
    interval: Duration,
    /// How long to wait for the first ready server, and for each call
    #[arg(long, value_name = "DURATION", default_value = "5s", allow_hyphen_values = true, value_parser = cli::duration)]
    timeout: Duration,
}

fn main() -> ExitCode {
    cli::run(call)
}

async fn call(args: Args) -> Result<ExitCode, Failure> {
    let Place { registry: url, service } = &args.place;
    let registry = url.connect().map_err(|error| Failure::usage(&error))?;
    // One Discovery for everything in this program: one watch of the service.
    let discovery = Discovery::new(registry);
    let view = discovery.service(service);

    let calls = async {
        eprint(format_args!("waiting for a server of {service} at {url}"));
        let connecting = DiscoveryChannel::builder(&discovery, service)
            .policy(RoundRobin::default())
            .default_timeout(args.timeout)
            .connect();
        let channel = match timeout(args.timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| Failure::usage(&error))?,
            Err(_) => return Err(no_server_ready(&view.current(), &args)),
        };
        let mut client = DiscoverDemoClient::new(channel);
        let mut code = ExitCode::SUCCESS;
        for i in 0..args.count {
            if i > 0 {
                sleep(args.interval).await;
            }
            match client.discover(Request { name: "DDDD".into() }).await {
                Ok(response) => print(format_args!("{i}: {}", answer(response.get_ref()))),
                Err(status) => {
                    code = ExitCode::FAILURE;
                    print(format_args!("{i}: {}", error(&status)));
                }
            }
        }
        Ok(code)
    };
    tokio::select! {
        code = calls => code,
        never = print_outages(view.clone(), &args.place) => match never {},
    }
}

/// Prints when the registry is lost and when it is back: each once.
async fn print_outages(mut view: ServiceView, place: &Place) -> Infallible {
    let Place { registry: url, service } = place;
    let mut is_lost = false;
    while let Ok(update) = view.changed().await {
        match update.freshness {
            Freshness::Stale { cause, .. } if !is_lost => {
                is_lost = true;
                let cause = cause.report();
                match update.snapshot {
                    Some(_) => {
                        eprint(format_args!("registry {url} is lost; calling the servers known: {cause}"));
                    }
                    None => {
                        eprint(format_args!("registry {url} cannot be reached; waiting for it: {cause}"));
                    }
                }
            }
            Freshness::Fresh if is_lost => {
                is_lost = false;
                eprint(format_args!("registry {url} is back: {service} has {}", servers(&update)));
            }
            _ => {}
        }
    }
    std::future::pending().await
}

/// How many servers can be called, and how many of them are held.
fn servers(update: &Update) -> String {
    let callable = update.callable().count();
    match update.held.len() {
        0 => format!("{callable} server(s)"),
        // They may have lost their registration in the outage, and work.
        held => format!("{callable} server(s), {held} of them held: removed from the registry, still called"),
    }
}

/// Why no server was ready in time.
fn no_server_ready(update: &Update, args: &Args) -> Failure {
    let service = &args.place.service;
    let addresses: Vec<_> = update.callable().map(|instance| instance.address().to_string()).collect();
    let why = match &update.freshness {
        _ if !addresses.is_empty() => {
            format!("no registered server can be reached: {}", addresses.join(", "))
        }
        Freshness::Stale { cause, .. } => {
            format!("registry {} cannot be reached: {}", args.place.registry, cause.report())
        }
        _ => "no server is registered".into(),
    };
    Failure::usage_message(format!("no server of {service} was ready within {:?}: {why}", args.timeout))
}

/// Formats the answer as Go's protobuf does.
fn answer(response: &Response) -> String {
    match response.content.as_str() {
        "" => String::new(),
        content => format!("content:{}", quoted(content)),
    }
}

fn error(status: &Status) -> String {
    // One line, also when the message of the server has several.
    format!("error: {}: {}", code_name(status.code()), cli::one_line(status.message()))
}
