//! The ratios as a picture.

use std::fmt::Write;

use super::rounds::Outcome;
use crate::client::Variant;

const WIDTH: f64 = 900.0;
/// Where the bars begin, after the names of the loads.
const LEFT: f64 = 250.0;
const BAR: f64 = 9.0;
const GAP: f64 = 14.0;
const TOP: f64 = 60.0;

/// One bar for each channel under each load, with a line from the least to the greatest ratio.
pub(super) fn draw(outcomes: &[Outcome]) -> String {
    let shown: Vec<_> = outcomes.first().map_or(Vec::new(), |outcome| {
        let variants = outcome.ratios.iter().map(|(variant, _)| *variant);
        variants.filter(|variant| color(*variant).is_some()).collect()
    });
    let ratios = outcomes.iter().flat_map(|outcome| &outcome.ratios);
    let most = ratios.map(|(_, ratio)| ratio.greatest).fold(1.0, f64::max).ceil().min(4.0);
    let scale = (WIDTH - LEFT - 20.0) / most;
    let group = BAR * f64::from(u32::try_from(shown.len()).unwrap_or(0)) + GAP;
    let rows = f64::from(u32::try_from(outcomes.len()).unwrap_or(0));
    let height = TOP + group * rows + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">Calls per second, as a multiple of tonic's direct channel in the same \
         round</text>\n"
    );
    legend(&mut svg, &shown);
    let mut y = TOP;
    for outcome in outcomes {
        let middle = y + (group - GAP) / 2.0 + 4.0;
        let load = outcome.cell.to_string();
        // Writing to a string does not fail.
        let _ = writeln!(svg, "<text x=\"10\" y=\"{middle:.0}\" font-size=\"10\">{load}</text>");
        for (variant, ratio) in &outcome.ratios {
            let Some(color) = color(*variant) else { continue };
            let (length, center) = (ratio.median.min(most) * scale, y + BAR / 2.0);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{:.1}\" fill=\"{color}\"/>\
                 <path d=\"M{:.1} {center:.1}H{:.1}\" stroke=\"#333\"/>",
                BAR - 1.5,
                LEFT + ratio.least * scale,
                LEFT + ratio.greatest.min(most) * scale,
            );
            y += BAR;
        }
        y += GAP;
    }
    axis(&mut svg, most, scale, height - 25.0);
    svg.push_str("</svg>\n");
    svg
}

fn legend(svg: &mut String, shown: &[Variant]) {
    let mut x = 10.0;
    for variant in shown {
        let name = variant.to_string().replace('`', "");
        let color = color(*variant).unwrap_or_default();
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.0}\" y=\"32\" width=\"10\" height=\"10\" fill=\"{color}\"/><text x=\"{:.0}\" y=\"41\">{name}</text>",
            x + 14.0
        );
        x += 34.0 + 6.6 * f64::from(u32::try_from(name.len()).unwrap_or(0));
    }
}

/// A line for each half, and a thick one at the direct channel.
fn axis(svg: &mut String, most: f64, scale: f64, bottom: f64) {
    let mut ratio = 0.0;
    while ratio <= most {
        let x = LEFT + ratio * scale;
        let width = if ratio == 1.0 { 2 } else { 1 };
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {:.0}V{bottom:.0}\" stroke=\"#888\" stroke-width=\"{width}\" stroke-opacity=\"0.5\"/>\
             <text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{ratio}</text>",
            TOP - 6.0,
            bottom + 15.0,
        );
        ratio += 0.5;
    }
}

/// The direct channel is the line at 1, and the same again only noise.
fn color(variant: Variant) -> Option<&'static str> {
    match variant {
        Variant::Direct | Variant::DirectAgain => None,
        Variant::BalanceList => Some("#9aa5b1"),
        #[cfg(feature = "ginepro")]
        Variant::Ginepro => Some("#c9b18a"),
        Variant::Hither => Some("#1f6feb"),
        Variant::RoundRobin => Some("#58a6ff"),
        Variant::Sticky => Some("#a5d2ff"),
        Variant::GrpcGo => Some("#2da44e"),
    }
}
