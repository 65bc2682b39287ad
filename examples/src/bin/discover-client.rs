//! A gRPC client that finds its servers through etcd.
//!
//! `cargo run -p hither-examples --features etcd --bin discover-client -- --count 10 --interval 100ms`

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use hither_core::{Discovery, Freshness, ServiceView};
use hither_examples::cli::{self, Failure, Place, note, say};
use hither_examples::demo::DiscoverDemoClient;
use hither_examples::demo::proto::{Request, Response};
use hither_examples::text::{code_name, quoted};
use hither_tonic::{DiscoveryChannel, RoundRobin};
use tokio::time::{sleep, timeout};
use tonic::Status;

/// Calls discover.DiscoverDemo by name, one server after the other; exits with 1 if a call failed, and with 2 if no
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
    let discovery = Discovery::new(registry);
    let view = discovery.service(service);

    let calls = async {
        note(format_args!("waiting for a server of {service} at {url}"));
        let connecting = DiscoveryChannel::builder(discovery.clone(), service)
            .policy(RoundRobin::default())
            .default_timeout(args.timeout)
            .connect();
        let channel = match timeout(args.timeout, connecting).await {
            Ok(connected) => connected.map_err(|error| Failure::usage(&error))?,
            Err(_) => return Err(nobody(&view, &args)),
        };
        let mut client = DiscoverDemoClient::new(channel);
        let mut code = ExitCode::SUCCESS;
        for i in 0..args.count {
            if i > 0 {
                sleep(args.interval).await;
            }
            match client.discover(Request { name: "DDDD".into() }).await {
                Ok(response) => say(format_args!("{i}: {}", answer(response.get_ref()))),
                Err(status) => {
                    code = ExitCode::FAILURE;
                    say(format_args!("{i}: {}", error(&status)));
                }
            }
        }
        Ok(code)
    };
    tokio::select! {
        code = calls => code,
        never = narrate(view.clone(), &args.place) => match never {},
    }
}

/// Says when the registry is lost and when it is back: each once.
async fn narrate(mut view: ServiceView, place: &Place) -> std::convert::Infallible {
    let Place { registry: url, service } = place;
    let mut lost = false;
    while let Ok(update) = view.changed().await {
        match update.freshness {
            Freshness::Stale { cause, .. } if !lost => {
                lost = true;
                let cause = cause.report();
                match update.snapshot {
                    Some(_) => {
                        note(format_args!(
                            "registry {url} is lost; going on with the servers known: {cause}"
                        ));
                    }
                    None => {
                        note(format_args!("registry {url} cannot be reached; waiting for it: {cause}"));
                    }
                }
            }
            Freshness::Fresh if lost => {
                lost = false;
                note(format_args!(
                    "registry {url} is back: {service} has {} server(s)",
                    update.instances().count()
                ));
            }
            _ => {}
        }
    }
    std::future::pending().await
}

/// Why nobody was ready.
fn nobody(view: &ServiceView, args: &Args) -> Failure {
    let service = &args.place.service;
    let update = view.current();
    let addresses: Vec<_> = update.callable().map(|instance| instance.address().to_string()).collect();
    let why = match &update.freshness {
        _ if !addresses.is_empty() => {
            format!("none of those registered can be reached: {}", addresses.join(", "))
        }
        Freshness::Stale { cause, .. } => {
            format!("registry {} cannot be reached: {}", args.place.registry, cause.report())
        }
        _ => "nobody is registered".into(),
    };
    let within = humantime::format_duration(args.timeout);
    Failure::usage_line(format!("no server of {service} was ready within {within}: {why}"))
}

/// The answer as Go's protobuf prints it.
fn answer(response: &Response) -> String {
    match response.content.as_str() {
        "" => String::new(),
        content => format!("content:{}", quoted(content)),
    }
}

fn error(status: &Status) -> String {
    // One line, whatever a server writes.
    format!("error: {}: {}", code_name(status.code()), cli::one_line(status.message()))
}
