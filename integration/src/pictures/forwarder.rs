//! The forwarder beside other proxies: a small chart for each figure, each with a scale of its own. Pure.
//! In: the columns of the table. Out: SVG.

use serde::{Deserialize, Serialize};

use super::svg::{Color, Svg, scale};
use super::{Figures, number};

const TOP: f64 = 84.0;
const COLUMNS: [f64; 2] = [20.0, 465.0];
/// Names of proxies are beside their bars.
const NAMES: f64 = 62.0;
const LONGEST: f64 = 250.0;
const BAR: f64 = 12.0;
const BAR_STEP: f64 = 15.0;
/// Above the bars of a chart, and below them.
const HEAD: f64 = 22.0;
const FOOT: f64 = 32.0;

/// The whole table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// Where it was measured.
    pub setting: String,
    /// The first is the connection without a proxy.
    pub columns: Vec<String>,
    /// The lines of the table.
    pub figures: Vec<Figure>,
}

/// A line of the table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// What it is, with its unit.
    pub title: String,
    /// Which direction is the better one.
    pub higher_is_better: bool,
    /// A value of each column, if it has one.
    pub values: Vec<Option<Measured>>,
}

/// A median.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub value: f64,
    /// The median of the ratios to the direct connection of the same round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Measured {
    /// The value, and in parentheses the ratio.
    pub fn words(&self) -> String {
        let ratio = self.ratio.map(|ratio| format!(" (x{ratio:.2})")).unwrap_or_default();
        format!("{}{ratio}", number(self.value))
    }
}

impl Figures for Comparison {
    fn draw(&self) -> String {
        let chart = HEAD + BAR_STEP * self.columns.len() as f64 + FOOT;
        let height = TOP + chart * self.figures.len().div_ceil(COLUMNS.len()) as f64;
        let title = format!("A TCP proxy on the node between a Pod and an API server, {}", self.setting);
        let mut svg = Svg::new(900.0, height, &title, &self.description());
        let mut x = 20.0;
        for column in &self.columns {
            x = svg.legend(x, 56.0, color(column), column);
        }
        svg.text(x, 56.0, "note", "in parentheses: ratio to the direct connection");
        for (i, figure) in self.figures.iter().enumerate() {
            let left = COLUMNS[i % COLUMNS.len()];
            self.chart(&mut svg, left, TOP + chart * (i / COLUMNS.len()) as f64, figure);
        }
        svg.finish()
    }
}

impl Comparison {
    fn chart(&self, svg: &mut Svg, left: f64, top: f64, figure: &Figure) {
        let most = figure.values.iter().flatten().map(|measured| measured.value).fold(0.0, f64::max);
        let (step, whole) = scale(most, 4.0);
        let foot = top + HEAD + BAR_STEP * self.columns.len() as f64;
        let x = |value: f64| left + NAMES + value / whole * LONGEST;
        svg.text(left, top + 10.0, "head", &figure.title);
        let better = if figure.higher_is_better { "higher is better" } else { "lower is better" };
        svg.text(left + 405.0, top + 10.0, "note end", better);
        let mut tick = 0;
        while f64::from(tick) * step <= whole * 1.001 {
            let value = f64::from(tick) * step;
            svg.line((x(value), foot - BAR_STEP * self.columns.len() as f64 - 2.0), (x(value), foot), "grid");
            svg.text(x(value), foot + 12.0, "note middle", &label(value));
            tick += 1;
        }
        for (i, (column, measured)) in self.columns.iter().zip(&figure.values).enumerate() {
            let y = top + HEAD + BAR_STEP * i as f64;
            svg.text(x(0.0) - 6.0, y + BAR - 2.0, "note end", column);
            match measured {
                Some(measured) => {
                    let length = (x(measured.value) - x(0.0)).max(1.5);
                    svg.bar((x(0.0), y, length, BAR), color(column));
                    svg.text(x(0.0) + length + 5.0, y + BAR - 2.0, "note", &measured.words());
                }
                None => svg.text(x(0.0) + 5.0, y + BAR - 2.0, "note", "no proxy"),
            }
        }
        svg.line((x(0.0), top + HEAD - 2.0), (x(0.0), foot), "axis");
    }

    fn description(&self) -> String {
        let lines = self.figures.iter().map(|figure| {
            let values = self.columns.iter().zip(&figure.values);
            let values =
                values.filter_map(|(column, measured)| Some(format!("{column} {}", (*measured)?.words())));
            format!("{}: {}.", figure.title, values.collect::<Vec<_>>().join(", "))
        });
        lines.collect::<Vec<_>>().join(" ")
    }
}

/// By name, so that a proxy keeps its color where another one is left out.
fn color(column: &str) -> Color {
    match column {
        "apivip" => Color::Green,
        "haproxy" => Color::Blue,
        "nginx" => Color::Amber,
        _ => Color::Gray,
    }
}

/// Without the noise of binary fractions.
fn label(tick: f64) -> String {
    if tick >= 1000.0 { number(tick) } else { format!("{}", (tick * 1000.0).round() / 1000.0) }
}
