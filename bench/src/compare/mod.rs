//! Channels side by side in one process: in each round each makes calls for a short time, and only ratios within a round
//! count.

mod picture;
mod plan;
mod ratios;
mod rounds;
mod table;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::Result;
use crate::cell::Cell;
use crate::client::Variant;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The channels that are compared with the direct one [default: all].
    #[arg(long, value_enum, value_delimiter = ',')]
    channels: Vec<Variant>,
    #[command(flatten)]
    plan: plan::Arguments,
    /// How often each channel has its turn.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How many milliseconds a turn is.
    #[arg(long, default_value_t = 100)]
    slice: u64,
    /// Only shows that everything works: three short rounds of one load.
    #[arg(long)]
    quick: bool,
    /// Pins a client of one thread to the first processor, and the server to the second.
    #[arg(long)]
    pin: bool,
    /// The program that `bench/go` is compiled to; without it grpc-go is left out.
    #[arg(long)]
    grpc_go: Option<PathBuf>,
    /// Draws the ratios into this file, as SVG.
    #[arg(long)]
    picture: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (cells, rounds, slice) = if arguments.quick {
        (vec![Cell::BASE], 3, 20)
    } else {
        (arguments.plan.cells(), arguments.rounds, arguments.slice)
    };
    let settings = rounds::Settings {
        variants: variants(arguments),
        rounds,
        slice: Duration::from_millis(slice),
        grpc_go: arguments.grpc_go.clone(),
        pin: arguments.pin,
    };
    println!("{}", table::head(&settings.variants));
    let mut outcomes = Vec::new();
    for cell in &cells {
        let outcome = rounds::measure(cell, &settings)?;
        println!("{}", table::row(&outcome));
        outcomes.push(outcome);
    }
    if let Some(file) = &arguments.picture {
        fs::write(file, picture::draw(&outcomes))?;
    }
    Ok(())
}

/// The direct channel is always the first.
fn variants(arguments: &Arguments) -> Vec<Variant> {
    let all = Variant::value_variants().iter().copied();
    all.filter(|variant| match variant {
        Variant::Direct => true,
        Variant::GrpcGo if arguments.grpc_go.is_none() => false,
        variant => arguments.channels.is_empty() || arguments.channels.contains(variant),
    })
    .collect()
}
