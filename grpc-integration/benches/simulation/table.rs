//! The tables, as Markdown.

use std::fmt::Write;

use crate::fleet::{CHANNELS, Experiment, FAST, IN_ZONES, Outcomes, POLICIES};

/// Runs the experiment with each of the channels.
pub(crate) fn degraded_zone(experiment: &Experiment) -> String {
    let mut table = "\
| channel | p50, ms | p99, ms | p999, ms | failed | attempts at the degraded zone |
|---|---:|---:|---:|---:|---:|
"
    .to_owned();
    for (name, configure) in CHANNELS {
        let outcome = experiment.run(*configure);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| milliseconds(&outcome.calls, share));
        let (failed, share) = (100.0 * outcome.calls.failed(), 100.0 * outcome.share);
        let _ = writeln!(table, "| {name} | {p50} | {p99} | {p999} | {failed:.2} % | {share:.1} % |");
    }
    table
}

/// Runs an experiment for each kind of bad server: one that is slow, one that fails each call, one that does so now and then,
/// and one that is frozen.
pub(crate) fn bad_server(experiments: &[Experiment; 4]) -> String {
    let mut table = "\
| channel | slow: attempts | p99, ms | failing: attempts | failed | flapping: failed | frozen: failed |
|---|---:|---:|---:|---:|---:|---:|
"
    .to_owned();
    for (name, configure) in CHANNELS {
        let [slow, failing, flapping, frozen] = experiments.each_ref().map(|experiment| {
            let outcome = experiment.run(*configure);
            (outcome.calls.during(experiment.middle()), 100.0 * outcome.share)
        });
        let p99 = milliseconds(&slow.0, 0.99);
        let [a, b, c] = [failing.0, flapping.0, frozen.0].map(|calls| 100.0 * calls.failed());
        let (slow, failing) = (slow.1, failing.1);
        let _ = writeln!(
            table,
            "| {name} | {slow:.1} % | {p99} | {failing:.1} % | {a:.1} % | {b:.1} % | {c:.1} % |"
        );
    }
    table
}

/// Runs an experiment with servers of two speeds for each policy: where weights do not tell of them, and where they do.
pub(crate) fn two_speeds(experiments: &[Experiment; 2]) -> String {
    let mut table = "\
| channel | equal weights: p50, ms | p99, ms | calls at the fast half | weights 2 and 1: p50, ms | p99, ms | calls at the fast half |
|---|---:|---:|---:|---:|---:|---:|
"
    .to_owned();
    for (name, configure) in POLICIES {
        let [equal, weighted] = experiments.each_ref().map(|experiment| {
            let calls = experiment.run(*configure).calls;
            let [p50, p99] = [0.5, 0.99].map(|share| milliseconds(&calls, share));
            let fast: f64 = (0..FAST).map(|server| 100.0 * calls.share(server)).sum();
            format!("{p50} | {p99} | {fast:.1} %")
        });
        let _ = writeln!(table, "| {name} | {equal} | {weighted} |");
    }
    table
}

/// Runs the experiment for channels that are in a zone each, the first of them in the one that degrades.
pub(crate) fn zones(experiment: &Experiment) -> String {
    let mut table = "\
| channel | callers in other zones: p99, ms | failed | in the degraded zone: p99, ms | failed | attempts at the degraded zone |
|---|---:|---:|---:|---:|---:|
"
    .to_owned();
    for (name, configure) in IN_ZONES {
        let outcome = experiment.run(*configure);
        let all = outcome.calls.during(experiment.middle());
        let [others, there] = [1..experiment.channels, 0..1].map(|callers| {
            let calls = all.of(callers);
            format!("{} | {:.2} %", milliseconds(&calls, 0.99), 100.0 * calls.failed())
        });
        let _ = writeln!(table, "| {name} | {others} | {there} | {:.1} % |", 100.0 * outcome.share);
    }
    table
}

fn milliseconds(calls: &Outcomes, share: f64) -> u128 {
    calls.quantile(share).as_millis()
}
