//! Calls on one thread, whose cost is counted from outside.

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::Result;
use crate::calls::Call;
use crate::client::{Client, Variant};
use crate::server::ServerProcess;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The channel that makes the calls.
    #[arg(long, value_enum)]
    channel: Variant,
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
    let server = ServerProcess::start(arguments.servers)?;
    let client = runtime.block_on(Client::connect(arguments.channel, server.addresses()))?;
    let deadline = arguments.deadline.then_some(Duration::from_secs(60));
    let call = Call::new(arguments.size, arguments.messages, deadline);
    // So that all connections exist, and buffers and maps have the size that they keep.
    runtime.block_on(client.make(&call, arguments.callers, warm_up(arguments)))?;
    counted(&runtime, &client, &call, arguments)
}

/// All connections have to be in use, whatever the policy.
fn warm_up(arguments: &Arguments) -> u64 {
    let servers = u64::try_from(arguments.servers).unwrap_or(u64::MAX);
    servers.saturating_mul(10).max(500)
}

/// What is counted: callgrind collects inside of this function alone.
#[inline(never)]
fn counted(runtime: &Runtime, client: &Client, call: &Call, arguments: &Arguments) -> Result<()> {
    runtime.block_on(client.make(call, arguments.callers, arguments.calls))
}
