//! Limits of this process, and the processors that processes run on.

use rustix::process::{Pid, Resource, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Result;

/// Allows as many open files as can be: there may be a thousand servers, times the channels that each have a connection
/// to all of them. Processes that are started later have the same limit.
pub(crate) fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it stays too low, connections fail and are reported.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Returns the processors that this thread may run on.
pub(crate) fn processors() -> Result<CpuSet> {
    Ok(sched_getaffinity(None)?)
}

/// Lets a process, or without one this thread and those that it starts, run on these processors alone.
pub(crate) fn run_on(process: Option<u32>, processors: &CpuSet) -> Result<()> {
    let process = process.map(i32::try_from).transpose()?.and_then(Pid::from_raw);
    Ok(sched_setaffinity(process, processors)?)
}

/// Returns one processor.
pub(crate) fn only(processor: usize) -> CpuSet {
    let mut processors = CpuSet::new();
    processors.set(processor);
    processors
}
