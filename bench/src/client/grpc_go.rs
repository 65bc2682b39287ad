//! grpc-go's round_robin, in a process of its own.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::Setup;
use crate::Result;
use crate::calls::Amount;

/// A running client, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct GrpcGo {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl GrpcGo {
    /// Starts `program`, which `bench/go` is compiled to, and returns when it is connected.
    pub(crate) fn start(program: &Path, setup: &Setup<'_>) -> Result<Self> {
        let cell = setup.cell;
        let servers: Vec<_> = setup.servers.iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new(program);
        command
            .args(["-servers", &servers.join(",")])
            .args(["-size", &cell.size.to_string()])
            .args(["-messages", &cell.messages.to_string()])
            .args(["-callers", &cell.callers.to_string()])
            .args(["-threads", &cell.threads.to_string()])
            .args(cell.deadline.then_some("-deadline"));
        if let Some(tls) = setup.tls {
            command.arg("-ca").arg(tls.certificate());
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the client in Go has no pipes".into());
        };
        let mut started = Self { child, input, output: BufReader::new(output).lines() };
        started.line()?;
        Ok(started)
    }

    /// Makes calls, and returns how many.
    pub(crate) fn make(&mut self, amount: Amount) -> Result<u64> {
        let Amount::For(length) = amount else {
            return Err("the client in Go makes calls for a length of time".into());
        };
        writeln!(self.input, "{}", length.as_millis())?;
        Ok(self.line()?.parse()?)
    }

    fn line(&mut self) -> Result<String> {
        Ok(self.output.next().ok_or("the client in Go has ended")??)
    }
}

impl Drop for GrpcGo {
    fn drop(&mut self) {
        // Either fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
