//! Our own clock jumps, and our own process is suspended: each in a process of its own.
#![cfg(target_os = "linux")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hither_etcd::EtcdConfig;
use rustix::process::{Signal, getpid, kill_process};
use tokio::time::sleep;

use crate::report::{self, Row};
use crate::scene::{Lease, Scene, TTL, Truth};
use crate::support::{Etcd, Proxy};

crate::faults! {
    wall_clock_jumps
    process_suspended
}

const DAY: i64 = 24 * 3600;

/// The wall clock of this process.
pub(crate) struct Clock(PathBuf);

/// The process that runs a test whose clock is to jump.
pub(crate) enum ClockProcess {
    /// This process, whose clock the test sets.
    Here(Clock),
    /// Another process, which has ended with this row.
    Elsewhere(Row),
}

impl Clock {
    /// Runs the test that calls this in a process whose clock it can set, unless it is this one.
    pub(crate) fn controlled(test: &str) -> ClockProcess {
        if let Some(file) = std::env::var_os("HELD_CLOCK") {
            return ClockProcess::Here(Self(file.into()));
        }
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let (library, clock, row) = (file("clock.so"), file("ahead"), file("row"));
        std::fs::write(&clock, "0").unwrap();
        compile(&library);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test, "--test-threads", "1"]).stdin(Stdio::null());
        command.env("LD_PRELOAD", &library).env("HELD_CLOCK", &clock).env(report::ROW_FILE, &row);
        let output = command.output().unwrap();
        let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{printed}");
        ClockProcess::Elsewhere(Row::read(&row))
    }

    /// Goes so many seconds ahead of the real one.
    pub(crate) fn jumps(&self, ahead: i64) {
        let real = unix_time() - self.ahead();
        let part = self.0.with_extension("part");
        std::fs::write(&part, ahead.to_string()).unwrap();
        std::fs::rename(part, &self.0).unwrap();
        let off = unix_time() - real - ahead;
        assert!((0..5).contains(&off), "the clock did not jump, it is {off} s off");
    }

    fn ahead(&self) -> i64 {
        std::fs::read_to_string(&self.0).unwrap().trim().parse().unwrap()
    }
}

/// With what Rust itself needs to link.
fn compile(library: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/clock.c");
    let mut command = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    let output = command.args(["-shared", "-fPIC", "-O1", "-o"]).arg(library).arg(source).output();
    let output = output.unwrap_or_else(|error| panic!("this needs a C compiler, `cc` or $CC: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[allow(clippy::disallowed_types, reason = "it is this clock that jumps")]
fn unix_time() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().try_into().unwrap()
}

async fn wall_clock_jumps() -> Row {
    let clock = match Clock::controlled("clocks::wall_clock_jumps") {
        ClockProcess::Here(clock) => clock,
        ClockProcess::Elsewhere(row) => return row,
    };
    let etcd = Etcd::start().await;
    let proxy = Proxy::start(etcd.endpoint()).await;
    let fault = "our clock a day ahead, a day back and ten years ahead, and connections cut";
    let truth = Truth::at([etcd.endpoint()]);
    let mut scene = Scene::new(fault, EtcdConfig::new([proxy.endpoint()]), truth).await;
    for (round, ahead) in [DAY, -DAY, 3650 * DAY].into_iter().enumerate() {
        clock.jumps(ahead);
        scene.joins(&format!("10.0.1.{round}:80")).await;
        scene.shows(&format!("10.0.1.{round}:80")).await;
        proxy.cut();
        scene.joins(&format!("10.0.2.{round}:80")).await;
        scene.shows(&format!("10.0.2.{round}:80")).await;
        sleep(TTL).await;
    }
    scene.over();
    scene.recovers(Lease::Kept).await
}

/// As in a debugger, a virtual machine that is moved, or a laptop that is closed.
async fn process_suspended() -> Row {
    if let ClockProcess::Elsewhere(row) = Clock::controlled("clocks::process_suspended") {
        return row;
    }
    let etcd = Etcd::start().await;
    let fault = "our process stopped for 10 s, more than the TTL";
    let mut scene = Scene::new(fault, etcd.config(), Truth::at([etcd.endpoint()])).await;
    let us = getpid();
    let mut waker = Command::new("sh");
    waker.args(["-c", "sleep 10; kill -CONT \"$0\""]).arg(us.as_raw_nonzero().to_string());
    let mut waker = waker.stdin(Stdio::null()).spawn().unwrap();
    kill_process(us, Signal::STOP).unwrap();
    // The thread that printed it may go on for a moment.
    assert!(waker.wait().unwrap().success());
    scene.over();
    scene.recovers(Lease::New).await
}
