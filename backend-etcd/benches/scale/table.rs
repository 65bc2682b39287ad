//! What was measured: a line each, as soon as it is known.

use std::process::ExitCode;

/// The table, and whether all bounds held so far.
#[derive(Debug, Default)]
pub(crate) struct Table {
    broken: Vec<String>,
}

impl Table {
    pub(crate) fn title(&mut self, title: &str) {
        println!("\n{title}");
    }

    /// Something that has no bound.
    pub(crate) fn line(&mut self, what: &str, value: &str) {
        println!("  {what:68} {value:>24}");
    }

    /// Something that must not be more than `bound`.
    pub(crate) fn bounded(&mut self, what: &str, value: f64, bound: f64) {
        self.judged(what, &format!("{value:.2} (at most {bound:.2})"), value <= bound);
    }

    /// Something that must be more than `bound`, because the bound proves nothing if not even this breaks it.
    pub(crate) fn breaks(&mut self, what: &str, value: f64, bound: f64) {
        self.judged(what, &format!("{value:.2} (more than {bound:.2})"), value > bound);
    }

    fn judged(&mut self, what: &str, value: &str, holds: bool) {
        let verdict = if holds { "holds" } else { "BROKEN" };
        println!("  {what:68} {value:>24} {verdict}");
        if !holds {
            self.broken.push(what.to_owned());
        }
    }

    /// Two times in seconds, side by side, and their ratio.
    pub(crate) fn beside(&mut self, what: &str, raw: f64, ours: f64) {
        println!("  {what:68} {:>11} {:>12} {:>8.2}", shown(raw), shown(ours), ours / raw);
    }

    /// Two times in seconds, side by side, which may be below zero.
    pub(crate) fn apart(&mut self, what: &str, raw: f64, ours: f64) {
        println!("  {what:68} {:>11} {:>12}", shown(raw), shown(ours));
    }

    pub(crate) fn end(self) -> ExitCode {
        if self.broken.is_empty() {
            return ExitCode::SUCCESS;
        }
        eprintln!("bounds that do not hold: {}", self.broken.join("; "));
        ExitCode::FAILURE
    }
}

fn shown(seconds: f64) -> String {
    if seconds.abs() < 1.0 { format!("{:.2} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// The value below which a part of them lies: 0.5 is the median.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}
