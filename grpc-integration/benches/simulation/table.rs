//! The tables, as Markdown.

use std::fmt::Write;

use crate::fleet::{CHANNELS, Experiment};

/// Runs the experiment with each of the channels.
pub(crate) fn degraded_zone(experiment: &Experiment) -> String {
    let mut table = "\
| channel | p50, ms | p99, ms | p999, ms | failed | attempts at the degraded zone |
|---|---:|---:|---:|---:|---:|
"
    .to_owned();
    for (name, configure) in CHANNELS {
        let outcome = experiment.run(*configure);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| outcome.calls.quantile(share).as_millis());
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
        let p99 = slow.0.quantile(0.99).as_millis();
        let [a, b, c] = [failing.0, flapping.0, frozen.0].map(|calls| 100.0 * calls.failed());
        let (slow, failing) = (slow.1, failing.1);
        let _ = writeln!(
            table,
            "| {name} | {slow:.1} % | {p99} | {failing:.1} % | {a:.1} % | {b:.1} % | {c:.1} % |"
        );
    }
    table
}
