//! Prints every update of a service: who comes, who changes, who goes, and whether the registry is heard.
//!
//! `cargo run -p hither-examples --features etcd --bin watch`

use std::process::ExitCode;

use clap::Parser;
use hither_core::{Change, Discovery, Freshness, Instance, InstanceState, Snapshot};
use hither_examples::cli::{self, Failure, Place, say};

/// Prints every update of a service, until Ctrl-C
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    place: Place,
}

fn main() -> ExitCode {
    cli::run(watch)
}

async fn watch(args: Args) -> Result<ExitCode, Failure> {
    let Place { registry: url, service } = &args.place;
    let registry = url.connect().map_err(|error| Failure::usage(&error))?;
    let mut view = Discovery::new(registry).service(service);
    say(format_args!("watching {service} at {url}"));

    let mut last = Snapshot::new(service.clone(), []);
    let mut held = Vec::new();
    let mut freshness = None;
    while let Ok(update) = view.changed().await {
        let fresh = match &update.freshness {
            Freshness::Fresh => "fresh: this is what the registry says now".to_owned(),
            Freshness::Stale { cause, .. } => format!("stale: the registry is not heard: {}", cause.report()),
            _ => "unknown".to_owned(),
        };
        if freshness.as_ref() != Some(&fresh) {
            say(&fresh);
            freshness = Some(fresh);
        }
        if let Some(snapshot) = update.snapshot {
            for change in snapshot.diff(&last) {
                match change {
                    Change::Insert(instance) => say(format_args!("  + {}", describe(&instance))),
                    Change::Update { to, .. } => say(format_args!("  ~ {}", describe(&to))),
                    Change::Remove(instance) => say(format_args!("  - {}", instance.id())),
                }
            }
            say(format_args!("  {} registered", snapshot.len()));
            last = snapshot;
        }
        let ids: Vec<_> = update.held.iter().map(|instance| instance.id().to_string()).collect();
        if ids != held {
            say(format_args!("  held (called over open connections only): {}", ids.join(", ")));
            held = ids;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An instance in one line: what is at its default is left out.
fn describe(instance: &Instance) -> String {
    let mut text = instance.id().to_string();
    let addresses: Vec<_> = instance.addresses().iter().map(ToString::to_string).collect();
    if addresses != [text.as_str()] {
        text += &format!(" at {}", addresses.join(", "));
    }
    if instance.state() == InstanceState::Draining {
        text += " draining";
    }
    if instance.weight() != Instance::DEFAULT_WEIGHT {
        text += &format!(" weight={}", instance.weight());
    }
    for (name, value) in [("zone", instance.zone()), ("version", instance.version())] {
        if let Some(value) = value {
            text += &format!(" {name}={value}");
        }
    }
    for (key, value) in instance.metadata() {
        text += &format!(" {key}={value:?}");
    }
    text
}
