//! The server: as cheap as a server can be, in a process of its own.

mod connection;
mod frames;
mod process;

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

pub(crate) use process::ServerProcess;

use crate::{Result, tls};
use connection::Connection;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many ports to listen on.
    #[arg(long, default_value_t = 1)]
    servers: usize,
    /// The folder of a certificate and its key: TLS.
    #[arg(long)]
    tls: Option<PathBuf>,
}

/// Prints a line with the address of each server, and serves until the standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let tls = arguments.tls.as_deref().map(tls::acceptor).transpose()?;
    runtime.block_on(async {
        let mut servers = JoinSet::new();
        for _ in 0..arguments.servers {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            println!("{}", listener.local_addr()?);
            servers.spawn(accept(listener, tls.clone()));
        }
        let mut input = [0; 16];
        let mut parent = tokio::io::stdin();
        while parent.read(&mut input).await? > 0 {}
        servers.shutdown().await;
        Ok(())
    })
}

/// Serves all connections, which end with this task.
async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // A connection that breaks ends the calls on it, which the client reports.
        connections.spawn(serve(stream, tls.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        Some(tls) => Connection::new(tls.accept(stream).await?).serve().await,
        None => Connection::new(stream).serve().await,
    }
}
