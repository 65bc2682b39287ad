//! The table, as Markdown.

use super::rounds::Outcome;
use crate::client::Variant;

/// The first two lines.
pub(super) fn head(variants: &[Variant]) -> String {
    let names: String = variants.iter().skip(1).map(|variant| format!(" {variant} |")).collect();
    let columns = "---:|".repeat(variants.len() + 1);
    format!("| load | tonic `Channel`, calls/s |{names} server busy |\n|---|{columns}")
}

/// One load.
pub(super) fn row(outcome: &Outcome) -> String {
    let ratios: String = outcome.ratios.iter().skip(1).map(|(_, ratio)| format!(" {ratio} |")).collect();
    let (calls, server) = (outcome.first.median, 100.0 * outcome.server);
    format!("| {} | {calls:.0} |{ratios} {server:.0} % |", outcome.cell)
}
