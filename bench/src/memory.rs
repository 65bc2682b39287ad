//! The memory that a connection takes: each channel in a process of its own, against servers in another.

use std::fs;
use std::process::Command;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

use crate::calls::Amount;
use crate::cell::Cell;
use crate::client::{Client, Setup, Variant};
use crate::limits::raise_open_files;
use crate::server::ServerProcess;
use crate::{Error, Result};

/// Calls on each connection, so that its buffers have the size that they keep.
const CALLS: u64 = 20;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many connections are made.
    #[arg(long, default_value_t = 1000)]
    connections: usize,
    /// Measures one channel, in this process.
    #[arg(long, value_enum, hide = true)]
    channel: Option<Variant>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    raise_open_files();
    if let Some(channel) = arguments.channel {
        return measure(channel, arguments.connections);
    }
    println!("| channel | KiB per connection, connected | after calls |\n|---|---:|---:|");
    for (channel, name) in
        [(Variant::Direct, "direct"), (Variant::BalanceList, "balance-list"), (Variant::Hither, "hither")]
    {
        let output = Command::new(std::env::current_exe()?)
            .args(["memory", "--channel", name, "--connections", &arguments.connections.to_string()])
            .output()?;
        if !output.status.success() {
            return Err(format!("{channel}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        print!("| {channel} {}", String::from_utf8_lossy(&output.stdout));
    }
    Ok(())
}

/// Prints the rest of one row.
fn measure(variant: Variant, connections: usize) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let server = ServerProcess::start(connections, None)?;
    let cell = Cell { servers: connections, ..Cell::BASE };
    runtime.block_on(async {
        let (before, files) = (resident()?, server.open_files()?);
        // A direct channel has one connection, so there are as many of these as servers.
        let channels = if variant == Variant::Direct { connections } else { 1 };
        let mut clients = Vec::with_capacity(channels);
        for servers in server.addresses().chunks(connections / channels) {
            let setup = Setup { servers, cell: &cell, tls: None, features: &[], grpc_go: None };
            let mut client = Client::connect(variant, &setup).await?;
            // Some channels connect when they are called.
            client.make(&cell.call(), 1, Amount::Calls(1)).await?;
            clients.push(client);
        }
        timeout(Duration::from_secs(30), async {
            // The servers know best how many connections there are.
            while server.open_files()? < files + connections {
                sleep(Duration::from_millis(10)).await;
            }
            Ok::<_, Error>(())
        })
        .await??;
        let connected = resident()?;
        let calls = CALLS * u64::try_from(connections / channels)?;
        for client in &mut clients {
            client.make(&cell.call(), cell.callers, Amount::Calls(calls)).await?;
        }
        let kibibytes = |now: u32| -> Result<f64> {
            Ok(f64::from(now.saturating_sub(before)) / f64::from(u32::try_from(connections)?))
        };
        println!("| {:.1} | {:.1} |", kibibytes(connected)?, kibibytes(resident()?)?);
        Ok(())
    })
}

/// Returns the memory of this process, in KiB.
fn resident() -> Result<u32> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS is known")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
