//! Calls on one thread, whose cost is counted from outside.

use tokio::runtime::{Builder, Runtime};

use crate::Result;
use crate::calls::{Amount, Call};
use crate::cell::Cell;
use crate::client::{Client, Feature, Setup, Variant};
use crate::server::ServerProcess;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The channel that makes the calls.
    #[arg(long, value_enum)]
    channel: Variant,
    /// What hither's channel has beside its defaults.
    #[arg(long, value_enum, value_delimiter = ',')]
    with: Vec<Feature>,
    /// How many servers there are.
    #[arg(long, default_value_t = 3)]
    servers: usize,
    /// How many calls are in flight at any time.
    #[arg(long, default_value_t = 16)]
    callers: u64,
    /// How many calls are made and counted.
    #[arg(long, default_value_t = 2000)]
    calls: u64,
    /// The bytes of a request and of a response message.
    #[arg(long, default_value_t = 16)]
    size: u32,
    /// How many messages a response has.
    #[arg(long, default_value_t = 1)]
    messages: u32,
    /// Gives each call a deadline.
    #[arg(long)]
    deadline: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let server = ServerProcess::start(arguments.servers, None)?;
    let cell = Cell {
        servers: arguments.servers,
        callers: arguments.callers,
        size: arguments.size,
        messages: arguments.messages,
        threads: 1,
        deadline: arguments.deadline,
        tls: false,
    };
    let setup = Setup {
        servers: server.addresses(),
        cell: &cell,
        tls: None,
        features: &arguments.with,
        grpc_go: None,
    };
    let mut client = runtime.block_on(Client::connect(arguments.channel, &setup))?;
    let call = cell.call();
    let call = if arguments.with.contains(&Feature::Named) { call.named() } else { call };
    // So that all connections exist, and buffers and maps have the size that they keep.
    runtime.block_on(client.make(&call, arguments.callers, Amount::Calls(warm_up(arguments.servers))))?;
    counted(&runtime, &mut client, &call, arguments)
}

/// Returns how many calls use all connections, whatever the policy.
fn warm_up(servers: usize) -> u64 {
    u64::try_from(servers).unwrap_or(u64::MAX).saturating_mul(10).max(500)
}

/// What is counted: callgrind collects inside of this function alone.
#[inline(never)]
fn counted(runtime: &Runtime, client: &mut Client, call: &Call, arguments: &Arguments) -> Result<()> {
    runtime.block_on(client.make(call, arguments.callers, Amount::Calls(arguments.calls))).map(drop)
}
