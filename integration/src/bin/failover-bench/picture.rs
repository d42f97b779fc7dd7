//! The timeline of failovers as a picture. Pure.
//! In: what became of every new connection. Out: SVG, one bar chart per fault and server on a common time axis.

use integration::svg::{rect, text};

use crate::beside::{AFTER, BEFORE, Measured};
use crate::judged::Fate;

/// Milliseconds of one bar.
const BAR_MS: i64 = 500;
const LEFT: f64 = 150.0;
const WIDTH: f64 = 700.0;
const PANEL: f64 = 70.0;
const STEP: f64 = 122.0;
const TOP: f64 = 70.0;

const SERVED: &str = "#4c9f70";
const LATE: &str = "#e0a030";
const FAILED: &str = "#c0392b";
const TOLD: &str = "#5b4fa0";

/// Milliseconds after the fault to pixels.
fn x(ms: f64) -> f64 {
    let before = BEFORE.as_secs_f64() * 1000.0;
    LEFT + (ms + before) / (before + AFTER.as_secs_f64() * 1000.0) * WIDTH
}

/// Draws it.
pub fn draw(all: &[Measured]) -> String {
    let panels = all.len();
    let height = TOP + STEP * panels as f64 + 40.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"900\" height=\"{height}\" fill=\"white\"/>\n"
    );
    text(
        &mut svg,
        20.0,
        24.0,
        "One of three kube-apiservers fails at 0 s: what becomes of connections to the virtual IP",
    );
    for (i, (colour, words)) in [
        (SERVED, "new, served at once"),
        (LATE, "new, served at a later SYN"),
        (FAILED, "new, failed"),
        (TOLD, "established, told"),
    ]
    .into_iter()
    .enumerate()
    {
        let at = 20.0 + 200.0 * i as f64;
        rect(&mut svg, (at, 38.0, 10.0, 10.0), colour);
        text(&mut svg, at + 16.0, 47.0, words);
    }
    for (i, measured) in all.iter().enumerate() {
        panel(&mut svg, TOP + STEP * i as f64, measured);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, top: f64, measured: &Measured) {
    label(svg, top + 10.0, &measured.arm.to_string());
    label(svg, top + 42.0, measured.title);
    let (from, until) = (-BEFORE.as_millis().cast_signed() as i64, AFTER.as_millis().cast_signed() as i64);
    for begin in (from..until).step_by(BAR_MS as usize) {
        let within = measured.judged.fates.iter().filter(|(at, _)| (begin..begin + BAR_MS).contains(at));
        let total = within.clone().count();
        if total == 0 {
            continue;
        }
        let share = |fate| within.clone().filter(|(_, f)| *f == fate).count() as f64 / total as f64;
        bar(svg, top, begin, [share(Fate::Served), share(Fate::Late), share(Fate::Failed)]);
    }
    let mut ends: Vec<u64> = measured.judged.ends.iter().map(|end| end / 20 * 20).collect();
    ends.sort_unstable();
    ends.dedup();
    for end in ends {
        rect(svg, (x(end as f64), top + PANEL + 3.0, 2.0, 8.0), TOLD);
    }
    axis(svg, top);
}

fn bar(svg: &mut String, top: f64, begin: i64, shares: [f64; 3]) {
    let (left, right) = (x(begin as f64), x((begin + BAR_MS) as f64));
    let mut foot = top + PANEL;
    for (share, colour) in shares.into_iter().zip([SERVED, LATE, FAILED]) {
        let height = share * PANEL;
        foot -= height;
        if share > 0.0 {
            rect(svg, (left, foot, right - left - 0.5, height), colour);
        }
    }
}

fn axis(svg: &mut String, top: f64) {
    for second in (0..=AFTER.as_secs()).step_by(5) {
        let at = x(second as f64 * 1000.0);
        text(svg, at - 5.0, top + PANEL + 24.0, &format!("{second} s"));
    }
    rect(svg, (x(0.0) - 0.5, top - 4.0, 1.0, PANEL + 12.0), "black");
}

fn label(svg: &mut String, y: f64, words: &str) {
    // Long titles take two lines.
    match words.split_once(", ") {
        Some((first, second)) if !second.is_empty() => {
            text(svg, 20.0, y, first);
            text(svg, 20.0, y + 14.0, second);
        }
        _ => text(svg, 20.0, y, words),
    }
}
