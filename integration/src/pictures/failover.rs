//! Failovers of real API servers, for each fault and each program that serves the virtual IP: three charts side by side. Pure.
//! In: the lines of the table. Out: SVG.

use serde::{Deserialize, Serialize};

use super::Figures;
use super::svg::{Color, Svg, scale};

const WIDTH: f64 = 900.0;
/// The first bar.
const TOP: f64 = 122.0;
const BAR: f64 = 13.0;
const BAR_STEP: f64 = 16.0;
const GROUP_GAP: f64 = 14.0;
/// Where the charts begin, and how long the longest bar of each is: the rest is for the figure beside it.
const CHARTS: [f64; 3] = [168.0, 408.0, 648.0];
const LONGEST: f64 = 140.0;
/// Bars of next to nothing are seen.
const SHORTEST: f64 = 1.5;

/// The whole table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failovers {
    /// After this a client gives a new connection up.
    pub client_timeout_seconds: f64,
    /// How long clients were observed after each fault.
    pub observed_seconds: f64,
    /// All lines; those of one fault are drawn together.
    pub rows: Vec<Row>,
}

/// What one fault did on one node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What happened to one of three API servers.
    pub fault: String,
    /// The program that served the virtual IP.
    pub served_by: String,
    /// New connections.
    pub new: usize,
    /// Those of them that failed.
    pub failed: usize,
    /// By how much the slowest of them was slower than usual.
    pub extra_wait_ms: u64,
    /// Established connections to the API server that failed.
    pub established: usize,
    /// Those of them that were reset or closed, so that the client knew.
    pub notified: usize,
    /// When the last of these was.
    pub last_notified_ms: u64,
}

/// A bar, and the words beside it.
struct Bar {
    value: f64,
    words: String,
    measured: bool,
}

struct Chart {
    title: &'static str,
    axis: String,
    bar: fn(&Failovers, &Row) -> Bar,
}

impl Figures for Failovers {
    fn draw(&self) -> String {
        let faults = distinct(self.rows.iter().map(|row| row.fault.as_str()));
        let programs = distinct(self.rows.iter().map(|row| row.served_by.as_str()));
        let group = BAR_STEP * programs.len() as f64 + GROUP_GAP;
        let foot = TOP + group * faults.len() as f64 - GROUP_GAP / 2.0;
        let title = "One of three kube-apiservers fails: what clients of the virtual IP see";
        let mut svg = Svg::new(WIDTH, foot + 52.0, title, &self.description());
        let mut x = 20.0;
        for (i, program) in programs.iter().enumerate() {
            x = svg.legend(x, 56.0, color(i), program);
        }
        let observed = self.observed_seconds;
        svg.hatched_legend(x, 56.0, Color::Gray, &format!("not measured: later than {observed} s, or never"));
        for (i, fault) in faults.iter().enumerate() {
            let middle = TOP + group * i as f64 + (group - GROUP_GAP) / 2.0;
            match fault.split_once(", ").or_else(|| fault.split_once(" (")) {
                Some((first, second)) => {
                    svg.text(20.0, middle - 3.0, "head", first);
                    svg.text(20.0, middle + 12.0, "note", second.trim_end_matches(')'));
                }
                None => svg.text(20.0, middle + 4.0, "head", fault),
            }
        }
        let new = self.rows.iter().map(|row| row.new).min().unwrap_or(0);
        let charts = [
            Chart {
                title: "New connections that fail",
                axis: format!("% of {} new connections", super::number(new as f64)),
                bar: Self::failed,
            },
            Chart {
                title: "Longest extra wait",
                axis: format!("seconds; clients give up after {} s", self.client_timeout_seconds),
                bar: Self::waited,
            },
            Chart {
                title: "Open connections are reset",
                axis: "seconds from the fault to the last reset".to_owned(),
                bar: Self::notified,
            },
        ];
        for (left, chart) in CHARTS.into_iter().zip(&charts) {
            self.chart(&mut svg, (left, foot), chart, (&faults, &programs));
        }
        svg.finish()
    }
}

impl Failovers {
    fn chart(
        &self,
        svg: &mut Svg,
        (left, foot): (f64, f64),
        chart: &Chart,
        (faults, programs): (&[&str], &[&str]),
    ) {
        let bars: Vec<(&Row, Bar)> = self.rows.iter().map(|row| (row, (chart.bar)(self, row))).collect();
        let most = bars.iter().map(|(_, bar)| bar.value).fold(0.0, f64::max);
        let (step, whole) = scale(most, 5.0);
        let x = |value: f64| left + value / whole * LONGEST;
        svg.text(left, 86.0, "head", chart.title);
        svg.text(left, 102.0, "note", "lower is better");
        let mut tick = 0.0;
        while tick <= whole * 1.001 {
            svg.line((x(tick), TOP - 8.0), (x(tick), foot), "grid");
            svg.text(x(tick), foot + 16.0, "note middle", &format!("{tick}"));
            tick += step;
        }
        let group = BAR_STEP * programs.len() as f64 + GROUP_GAP;
        for (row, bar) in bars {
            let index = |all: &[&str], one: &str| all.iter().position(|other| *other == one).unwrap_or(0);
            let (fault, program) = (index(faults, &row.fault), index(programs, &row.served_by));
            let top = TOP + group * fault as f64 + BAR_STEP * program as f64;
            let length = if bar.value > 0.0 { (x(bar.value) - left).max(SHORTEST) } else { 0.0 };
            match bar.measured {
                true => svg.bar((left, top, length, BAR), color(program)),
                false => svg.hatched((left, top, length, BAR), color(program)),
            }
            svg.text(left + length + 5.0, top + BAR - 3.0, "note", &bar.words);
        }
        svg.line((left, TOP - 8.0), (left, foot), "axis");
        svg.text(left, foot + 34.0, "note", &chart.axis);
    }

    fn failed(&self, row: &Row) -> Bar {
        let value = row.failed as f64 * 100.0 / row.new.max(1) as f64;
        let words = match value {
            _ if row.failed == 0 => "0".to_owned(),
            small if small < 1.0 => format!("{small:.2} %"),
            _ => format!("{value:.0} %"),
        };
        Bar { value, words, measured: true }
    }

    fn waited(&self, row: &Row) -> Bar {
        Bar { value: row.extra_wait_ms as f64 / 1000.0, words: time(row.extra_wait_ms), measured: true }
    }

    fn notified(&self, row: &Row) -> Bar {
        if row.notified == 0 {
            let words = format!("none in {} s", self.observed_seconds);
            return Bar { value: self.observed_seconds, words, measured: false };
        }
        let all = row.notified == row.established;
        let part = if all { String::new() } else { format!(" ({} of {})", row.notified, row.established) };
        let words = format!("{}{part}", time(row.last_notified_ms));
        Bar { value: row.last_notified_ms as f64 / 1000.0, words, measured: true }
    }

    fn description(&self) -> String {
        let lines = self.rows.iter().map(|row| {
            let (failed, waited, notified) = (self.failed(row), self.waited(row), self.notified(row));
            format!(
                "{}, {}: {} of new connections fail, the longest extra wait is {}, open connections are reset: {}.",
                row.fault, row.served_by, failed.words, waited.words, notified.words
            )
        });
        lines.collect::<Vec<_>>().join(" ")
    }
}

fn color(program: usize) -> Color {
    [Color::Green, Color::Blue, Color::Amber, Color::Gray][program.min(3)]
}

fn time(ms: u64) -> String {
    if ms < 1000 { format!("{ms} ms") } else { format!("{:.1} s", ms as f64 / 1000.0) }
}

/// Each once, in the order in which it comes first.
fn distinct<'a>(all: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found = Vec::new();
    for one in all {
        if !found.contains(&one) {
            found.push(one);
        }
    }
    found
}
