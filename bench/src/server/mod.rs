//! The server: as cheap as a server can be, in a process of its own.

mod connection;
mod frames;
mod process;

use std::net::Ipv4Addr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::task::JoinSet;

pub(crate) use process::ServerProcess;

use crate::Result;
use connection::Connection;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many ports to listen on.
    #[arg(long, default_value_t = 1)]
    servers: usize,
}

/// Prints a line with the address of each server, and serves until the standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut servers = JoinSet::new();
        for _ in 0..arguments.servers {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            println!("{}", listener.local_addr()?);
            servers.spawn(accept(listener));
        }
        let mut input = [0; 16];
        let mut parent = tokio::io::stdin();
        while parent.read(&mut input).await? > 0 {}
        servers.shutdown().await;
        Ok(())
    })
}

/// Serves all connections, which end with this task.
async fn accept(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // A connection that breaks ends the calls on it, which the client reports.
        connections.spawn(Connection::new(stream).serve());
        while connections.try_join_next().is_some() {}
    }
}
