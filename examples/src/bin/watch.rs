//! Prints every update of a service: instances that join, change and leave, and whether the list is current.
//!
//! `cargo run -p hither-examples --features etcd --bin watch`

use std::process::ExitCode;

use clap::Parser;
use hither::{Change, Discovery, Freshness, Instance, InstanceState, Snapshot};
use hither_examples::cli::{self, Failure, Place, print};

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
    print(format_args!("watching {service} at {url}"));

    let mut last = Snapshot::new(service.clone(), []);
    let mut held = Vec::new();
    let mut freshness = None;
    while let Ok(update) = view.changed().await {
        let fresh = match &update.freshness {
            Freshness::Fresh => "fresh: the registry is being watched".to_owned(),
            Freshness::Stale { cause, .. } => {
                format!("stale: the registry cannot be watched: {}", cause.report())
            }
            _ => "unknown".to_owned(),
        };
        if freshness.as_ref() != Some(&fresh) {
            print(&fresh);
            freshness = Some(fresh);
        }
        if let Some(snapshot) = update.snapshot {
            for change in snapshot.diff(&last) {
                match change {
                    Change::Insert(instance) => print(format_args!("  + {}", describe(&instance))),
                    Change::Update { to, .. } => print(format_args!("  ~ {}", describe(&to))),
                    Change::Remove(instance) => print(format_args!("  - {}", instance.id())),
                }
            }
            print(format_args!("  {} registered", snapshot.len()));
            last = snapshot;
        }
        let ids: Vec<_> = update.held.iter().map(|instance| instance.id().to_string()).collect();
        if ids != held {
            match ids.as_slice() {
                [] => print("  none held"),
                ids => print(format_args!("  held (called over open connections only): {}", ids.join(", "))),
            }
            held = ids;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Formats an instance in one line, without what is at its default.
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
