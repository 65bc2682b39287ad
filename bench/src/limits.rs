//! Limits of this process, and the processors that processes run on.

use rustix::process::{Pid, Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Result;

/// Allows as many open files as can be: there may be a thousand servers, times the channels that each have a connection
/// to all of them. Processes that are started later have the same limit.
pub(crate) fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it stays too low, connections fail and are reported.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Lets a process, or without one this thread, run on this processor alone.
pub(crate) fn pin(process: Option<u32>, processor: usize) -> Result<()> {
    let process = process.map(i32::try_from).transpose()?.and_then(Pid::from_raw);
    let mut processors = CpuSet::new();
    processors.set(processor);
    Ok(sched_setaffinity(process, &processors)?)
}
