//! The turns that the channels take.

use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use super::ratios::Spread;
use crate::Result;
use crate::calls::{Amount, Call};
use crate::cell::Cell;
use crate::client::{Client, Setup, Variant};
use crate::limits::{only, processors, raise_open_files, run_on};
use crate::server::ServerProcess;
use crate::tls::Identity;

/// What is the same for all cells.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) variants: Vec<Variant>,
    pub(super) rounds: usize,
    pub(super) slice: Duration,
    pub(super) grpc_go: Option<PathBuf>,
    pub(super) pin: bool,
}

/// What was measured under one load.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) cell: Cell,
    /// The calls per second of the first variant.
    pub(super) first: Spread,
    /// The calls per second of each variant, as multiples of those of the first in the same round.
    pub(super) ratios: Vec<(Variant, Spread)>,
    /// The largest part of the time that the server was busy with one of the variants.
    pub(super) server: f64,
}

struct Turn {
    calls_per_second: f64,
    server: f64,
}

struct Contestant {
    variant: Variant,
    client: Client,
    turns: Vec<Turn>,
}

/// Compares all variants under one load.
pub(super) fn measure(cell: &Cell, settings: &Settings) -> Result<Outcome> {
    raise_open_files();
    let before = processors()?;
    let outcome = compare(cell, settings);
    // The next load may have more threads.
    run_on(None, &before)?;
    outcome
}

fn compare(cell: &Cell, settings: &Settings) -> Result<Outcome> {
    let tls = cell.tls.then(Identity::new).transpose()?;
    let server = ServerProcess::start(cell.servers, tls.as_ref())?;
    if settings.pin && cell.threads == 1 {
        run_on(None, &only(0))?;
        run_on(Some(server.id()), &only(1))?;
    }
    let runtime = runtime(cell.threads)?;
    let grpc_go = settings.grpc_go.as_ref();
    let setup = Setup { servers: server.addresses(), cell, tls: tls.as_ref(), features: &[], grpc_go };
    let call = cell.call();
    let mut contestants = Vec::new();
    for variant in &settings.variants {
        let client = runtime.block_on(Client::connect(*variant, &setup))?;
        contestants.push(Contestant { variant: *variant, client, turns: Vec::new() });
    }
    let milliseconds = u64::try_from(cell.servers).unwrap_or(u64::MAX);
    let warm_up = settings.slice * 2 + Duration::from_millis(milliseconds);
    for contestant in &mut contestants {
        contestant.turn(&runtime, &server, cell, &call, warm_up)?;
    }
    for round in 0..settings.rounds {
        // Each of them comes after each of the others about equally often.
        contestants.rotate_left(1 + round % 2);
        for contestant in &mut contestants {
            let turn = contestant.turn(&runtime, &server, cell, &call, settings.slice)?;
            contestant.turns.push(turn);
        }
    }
    contestants.sort_by_key(|contestant| {
        settings.variants.iter().position(|variant| *variant == contestant.variant)
    });
    outcome(*cell, &contestants).ok_or_else(|| "there was no round".into())
}

impl Contestant {
    fn turn(
        &mut self,
        runtime: &Runtime,
        server: &ServerProcess,
        cell: &Cell,
        call: &Call,
        length: Duration,
    ) -> Result<Turn> {
        let (started, busy) = (Instant::now(), server.busy()?);
        let making = self.client.make(call, cell.callers, Amount::For(length));
        let calls = runtime.block_on(making).map_err(|error| format!("{}: {error}", self.variant))?;
        let (took, busy) = (started.elapsed().as_secs_f64(), server.busy()?.saturating_sub(busy));
        let calls = u32::try_from(calls)?;
        Ok(Turn { calls_per_second: f64::from(calls) / took, server: busy.as_secs_f64() / took })
    }
}

fn outcome(cell: Cell, contestants: &[Contestant]) -> Option<Outcome> {
    let first = &contestants.first()?.turns;
    let ratios = contestants.iter().map(|contestant| {
        let rounds = contestant.turns.iter().zip(first);
        let ratios = rounds.map(|(turn, first)| turn.calls_per_second / first.calls_per_second);
        Some((contestant.variant, Spread::of(ratios)?))
    });
    let server = contestants.iter().filter_map(|contestant| {
        Spread::of(contestant.turns.iter().map(|turn| turn.server)).map(|spread| spread.median)
    });
    Some(Outcome {
        cell,
        first: Spread::of(first.iter().map(|turn| turn.calls_per_second))?,
        ratios: ratios.collect::<Option<_>>()?,
        server: server.fold(0.0, f64::max),
    })
}

fn runtime(threads: usize) -> Result<Runtime> {
    if threads == 1 {
        return Ok(Builder::new_current_thread().enable_all().build()?);
    }
    Ok(Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}
