//! The process that serves.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use crate::Result;

/// A running server, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    addresses: Vec<SocketAddr>,
}

impl ServerProcess {
    /// Starts this program as a server on that many ports.
    pub(crate) fn start(servers: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["server", "--servers", &servers.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("the server has no output")?;
        let mut started = Self { child, addresses: Vec::new() };
        for line in BufReader::new(output).lines().take(servers) {
            started.addresses.push(line?.parse()?);
        }
        if started.addresses.len() < servers {
            return Err(format!("only {} of {servers} servers started", started.addresses.len()).into());
        }
        Ok(started)
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Either fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
