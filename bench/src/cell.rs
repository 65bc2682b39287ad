//! One row of a table: the load that all channels are compared under.

use std::fmt;
use std::time::Duration;

use crate::calls::Call;

/// A load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) servers: usize,
    /// How many calls are in flight.
    pub(crate) callers: u64,
    /// The bytes of a message.
    pub(crate) size: u32,
    /// The messages of a response.
    pub(crate) messages: u32,
    /// The threads that the client has.
    pub(crate) threads: usize,
    pub(crate) deadline: bool,
    pub(crate) tls: bool,
}

impl Cell {
    /// What differs from row to row is shown against this.
    pub(crate) const BASE: Self =
        Self { servers: 3, callers: 16, size: 16, messages: 1, threads: 1, deadline: false, tls: false };

    pub(crate) fn call(&self) -> Call {
        Call::new(self.size, self.messages, self.deadline.then_some(Duration::from_secs(60)))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |count: u64| if count == 1 { "" } else { "s" };
        let servers = u64::try_from(self.servers).unwrap_or(u64::MAX);
        write!(f, "{servers} server{}, {} caller{}", plural(servers), self.callers, plural(self.callers))?;
        if self.threads != 1 {
            write!(f, ", {} threads", self.threads)?;
        }
        match self.size {
            16 => {}
            size if size % 1024 == 0 => write!(f, ", {} KiB", size / 1024)?,
            size => write!(f, ", {size} B")?,
        }
        if self.messages != 1 {
            write!(f, ", streams of {}", self.messages)?;
        }
        if self.deadline {
            f.write_str(", deadline")?;
        }
        if self.tls {
            f.write_str(", TLS")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_its_load_and_what_is_unusual() {
        assert_eq!(Cell::BASE.to_string(), "3 servers, 16 callers");
        let unusual = Cell {
            servers: 1,
            callers: 1,
            size: 65_536,
            messages: 100,
            threads: 2,
            deadline: true,
            tls: true,
        };
        assert_eq!(
            unusual.to_string(),
            "1 server, 1 caller, 2 threads, 64 KiB, streams of 100, deadline, TLS"
        );
    }
}
