//! The age of a node's lease while API servers are unplugged in turn: a row of charts for each program that serves the virtual
//! IP. Pure.
//! In: the ages that were seen. Out: SVG.

use serde::{Deserialize, Serialize};

use super::Figures;
use super::svg::{Color, Svg};

const LEFT: f64 = 142.0;
const TOP: f64 = 92.0;
/// Of one outage.
const WIDTH: f64 = 222.0;
const GAP: f64 = 28.0;
const HEIGHT: f64 = 120.0;
/// Below a chart: its axis, and a line for each lease that was lost.
const AXIS: f64 = 58.0;
const LINE: f64 = 15.0;
/// Outages that are drawn of each row.
const COLUMNS: usize = 3;
/// What is drawn of each outage after its end, in seconds.
const AFTERWARDS: f64 = 10.0;
/// The oldest lease that is drawn, in seconds.
const OLDEST: f64 = 50.0;
/// The length of a node's lease, in seconds: kubelet's default.
const EXPIRED: f64 = 40.0;

/// All rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Leases {
    /// How long each API server was unplugged.
    pub unplugged_seconds: f64,
    /// The outages, one after the other.
    pub outages: Vec<Outage>,
}

/// One API server is unplugged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outage {
    /// The program that served the virtual IP.
    pub served_by: String,
    /// Which API server.
    pub api_server: usize,
    /// Seconds since it was unplugged, and the age of the node's lease.
    pub ages: Vec<(f64, f64)>,
    /// The controllers that lost their lease, and after how many seconds.
    pub lost: Vec<(String, f64)>,
}

impl Figures for Leases {
    fn draw(&self) -> String {
        let mut rows: Vec<(&str, Vec<&Outage>)> = Vec::new();
        for outage in &self.outages {
            match rows.iter_mut().find(|(program, _)| *program == outage.served_by) {
                Some((_, outages)) => outages.push(outage),
                None => rows.push((&outage.served_by, vec![outage])),
            }
        }
        let lasting = self.unplugged_seconds;
        let title =
            format!("Each of three kube-apiservers is unplugged for {lasting} s: the age of a node's lease");
        let below = |outages: &[&Outage]| {
            let lines = outages.iter().take(COLUMNS).map(|outage| outage.lost.len()).max().unwrap_or(0);
            HEIGHT + AXIS + LINE * lines as f64
        };
        let height = TOP + rows.iter().map(|(_, outages)| below(outages)).sum::<f64>() - 10.0;
        let mut svg = Svg::new(900.0, height, &title, &self.description());
        let mut x = 20.0;
        for (i, (program, _)) in rows.iter().enumerate() {
            x = svg.legend(x, 56.0, color(i), program);
        }
        x = svg.legend(x, 56.0, Color::Shade, "unplugged");
        x = svg.legend(x, 56.0, Color::Red, "expired: the node may become NotReady");
        x = svg.hatched_legend(x, 56.0, Color::Gray, "not measured");
        svg.text(x, 56.0, "note", "lower is better");
        let mut top = TOP;
        for (i, (program, outages)) in rows.iter().enumerate() {
            for (line, words) in program.split(", ").enumerate() {
                let class = if line == 0 { "head" } else { "note" };
                svg.text(20.0, top + 12.0 + 16.0 * line as f64, class, words);
            }
            svg.text(20.0, top + 64.0, "note", "age of the lease,");
            svg.text(20.0, top + 78.0, "note", "seconds");
            for (column, outage) in outages.iter().take(COLUMNS).enumerate() {
                let left = LEFT + (WIDTH + GAP) * column as f64;
                self.chart(&mut svg, (left, top), outage, color(i));
            }
            top += below(outages);
        }
        svg.finish()
    }
}

impl Leases {
    fn chart(&self, svg: &mut Svg, (left, top): (f64, f64), outage: &Outage, color: Color) {
        let whole = self.unplugged_seconds + AFTERWARDS;
        let x = |at: f64| left + at.min(whole) / whole * WIDTH;
        let y = |age: f64| top + HEIGHT - age.min(OLDEST) / OLDEST * HEIGHT;
        svg.bar((left, top, x(self.unplugged_seconds) - left, HEIGHT), Color::Shade);
        for age in (0..=OLDEST as u32).step_by(10).map(f64::from) {
            svg.line((left, y(age)), (left + WIDTH, y(age)), "grid");
            svg.text(left - 5.0, y(age) + 4.0, "note end", &format!("{age}"));
        }
        // The observation ends when the API server is published again.
        let seen = outage.ages.last().map_or(0.0, |(at, _)| *at);
        if seen < whole {
            svg.hatched((x(seen), top, x(whole) - x(seen), HEIGHT), Color::Gray);
        }
        for (expired, run) in runs(&outage.ages, whole) {
            let points: Vec<_> = run.iter().map(|(at, age)| (x(*at), y(*age))).collect();
            svg.curve(top + HEIGHT, &points, if expired { Color::Red } else { color });
        }
        svg.line((left, y(EXPIRED)), (left + WIDTH, y(EXPIRED)), "limit");
        svg.line((left, top + HEIGHT), (left + WIDTH, top + HEIGHT), "axis");
        for second in (0..=whole as u32).step_by(10).map(f64::from) {
            svg.text(x(second), top + HEIGHT + 15.0, "note middle", &format!("{second}"));
        }
        let words = format!("seconds since API server {} was unplugged", outage.api_server);
        svg.text(left, top + HEIGHT + 32.0, "note", &words);
        for (i, (name, at)) in outage.lost.iter().enumerate() {
            let words = format!("lost lease: {name} ({at} s)");
            svg.text(left, top + HEIGHT + 50.0 + LINE * i as f64, "note", &words);
        }
    }

    fn description(&self) -> String {
        let lines = self.outages.iter().map(|outage| {
            let oldest = outage.ages.iter().map(|(_, age)| *age).fold(0.0, f64::max);
            let lost: Vec<&str> = outage.lost.iter().map(|(name, _)| name.as_str()).collect();
            let lost = if lost.is_empty() { "none".to_owned() } else { lost.join(" and ") };
            format!(
                "{}, API server {}: the lease of the node was {oldest:.1} s old at most; leases lost: {lost}.",
                outage.served_by, outage.api_server
            )
        });
        lines.collect::<Vec<_>>().join(" ")
    }
}

/// The parts of the curve before and after the lease expired. An age counts until the next one that was seen.
fn runs(ages: &[(f64, f64)], whole: f64) -> Vec<(bool, Vec<(f64, f64)>)> {
    let mut runs: Vec<(bool, Vec<(f64, f64)>)> = Vec::new();
    for pair in ages.windows(2) {
        let [(from, age), (until, _)] = pair else { continue };
        if *from >= whole {
            break;
        }
        let expired = *age >= EXPIRED;
        let step = [(*from, *age), (*until, *age)];
        match runs.last_mut() {
            Some((same, run)) if *same == expired => run.extend(step),
            _ => runs.push((expired, step.to_vec())),
        }
    }
    runs
}

fn color(row: usize) -> Color {
    [Color::Green, Color::Blue, Color::Amber, Color::Gray][row.min(3)]
}
