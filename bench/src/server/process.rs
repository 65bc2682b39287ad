//! The process that serves.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::Result;
use crate::tls::Identity;

/// A running server, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    addresses: Vec<SocketAddr>,
}

impl ServerProcess {
    /// Starts this program as a server on that many ports.
    pub(crate) fn start(servers: usize, tls: Option<&Identity>) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["server", "--servers", &servers.to_string()])
            .args(tls.into_iter().flat_map(|tls| ["--tls".as_ref(), tls.folder().as_os_str()]))
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

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns how long its one thread was running.
    pub(crate) fn busy(&self) -> Result<Duration> {
        // Nanoseconds on a processor, nanoseconds waiting for one, and how often.
        let statistics = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()))?;
        let busy = statistics.split(' ').next().unwrap_or_default();
        Ok(Duration::from_nanos(busy.parse()?))
    }

    /// Returns how many files it has open: one for each server and connection, and a few more.
    pub(crate) fn open_files(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.child.id()))?.count())
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
