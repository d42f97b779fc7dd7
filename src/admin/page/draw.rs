//! The path of connections as a drawing: clients, the virtual IP, apiservers. Once for broad windows, from left to
//! right, and once for narrow ones, from top to bottom, where text keeps its size; the style sheet shows one of them.

use std::fmt::{self, Write};

use super::{Escaped, class};
use crate::admin::trend::{SAMPLES, Sample, Trend};

use crate::status::{BackendStatus, FrontendStatus, milliseconds};

/// Width and height of an apiserver's box, and from one to the next.
const BOX: (i32, i32) = (318, 58);
const STEP: i32 = 70;
/// The room for a sparkline.
const SPARK: (i32, i32) = (96, 24);

pub(super) fn both(out: &mut String, frontend: &FrontendStatus, way: &str, trend: &Trend) -> fmt::Result {
    let count = i32::try_from(frontend.backends.len()).unwrap_or(i32::MAX / STEP).max(1);
    let drawing = Drawing { frontend, way, trend };
    drawing.broad(out, (count * STEP).max(2 * STEP))?;
    drawing.narrow(out, 150 + count * STEP)
}

struct Drawing<'a> {
    frontend: &'a FrontendStatus,
    way: &'a str,
    trend: &'a Trend,
}

impl Drawing<'_> {
    fn broad(&self, out: &mut String, height: i32) -> fmt::Result {
        self.begin(out, "broad", 960, height)?;
        let middle = height / 2;
        for (name, y) in [("Pods", middle - 36), ("This host", middle + 36)] {
            curve(out, "ok", 2.0, (140, y), (290, middle))?;
            node(out, "", (0, y - 22, 140, 44))?;
            text(out, "", (70, y + 5), "middle", name)?;
        }
        for (i, backend) in (0..).zip(&self.frontend.backends) {
            let y = self.row(i, height);
            curve(out, class(&backend.state, backend.used), width(backend), (530, middle), (960 - BOX.0, y))?;
        }
        self.vip(out, (290, middle - 30, 240, 60))?;
        for (i, backend) in (0..).zip(&self.frontend.backends) {
            self.backend(out, backend, (960 - BOX.0, self.row(i, height) - BOX.1 / 2))?;
        }
        out.write_str("</svg>")
    }

    fn narrow(&self, out: &mut String, height: i32) -> fmt::Result {
        self.begin(out, "narrow", 360, height)?;
        for (name, x) in [("Pods", 1), ("This host", 183)] {
            write!(out, "<path class=\"edge ok\" stroke-width=\"2\" d=\"M{0} 40V64\"/>", x + 88)?;
            node(out, "", (x, 1, 176, 40))?;
            text(out, "", (x + 88, 26), "middle", name)?;
        }
        for (i, backend) in (0..).zip(&self.frontend.backends) {
            let (class, y) = (class(&backend.state, backend.used), 150 + i * STEP + BOX.1 / 2);
            // Side by side, as far as there is room.
            let (width, x) = (width(backend), 34 - 8 * i.min(4));
            write!(out, "<path class=\"edge {class}\" stroke-width=\"{width:.1}\" d=\"M{x} 122V{y}H41\"/>")?;
        }
        self.vip(out, (1, 64, 358, 60))?;
        for (i, backend) in (0..).zip(&self.frontend.backends) {
            self.backend(out, backend, (41, 150 + i * STEP))?;
        }
        out.write_str("</svg>")
    }

    fn begin(&self, out: &mut String, name: &str, width: i32, height: i32) -> fmt::Result {
        write!(out, "<svg class=\"{name}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"")?;
        write!(out, "Pods and this host reach {} by {}", self.frontend.vip, Escaped(self.words()))?;
        for backend in &self.frontend.backends {
            write!(out, ", which leads to {}: {}, ", backend.address, Escaped(&backend.state))?;
            write!(out, "{} of new connections", share(backend))?;
        }
        out.write_str("\">")
    }

    fn words(&self) -> &str {
        match self.way {
            "nftables" => "the kernel's rules",
            "forwarder" => "the forwarder",
            other => other,
        }
    }

    /// The middle of an apiserver's box; all of them are in the middle of the drawing.
    fn row(&self, i: i32, height: i32) -> i32 {
        let count = i32::try_from(self.frontend.backends.len()).unwrap_or(i32::MAX / STEP);
        (height - count * STEP) / 2 + i * STEP + STEP / 2
    }

    fn vip(&self, out: &mut String, place: (i32, i32, i32, i32)) -> fmt::Result {
        node(out, "vip", place)?;
        let (middle, y) = (place.0 + place.2 / 2, place.1);
        text(out, "mono", (middle, y + 26), "middle", &self.frontend.vip.to_string())?;
        text(out, "small", (middle, y + 45), "middle", self.words())
    }

    fn backend(&self, out: &mut String, backend: &BackendStatus, (x, y): (i32, i32)) -> fmt::Result {
        let class = class(&backend.state, backend.used);
        node(out, class, (x, y, BOX.0, BOX.1))?;
        text(out, "mono", (x + 12, y + 23), "start", &backend.address.to_string())?;
        let reason = backend.failing.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
        let share = match share(backend).as_str() {
            "none" => String::new(),
            share => format!(" \u{b7} {share}"),
        };
        text(out, class, (x + 12, y + 44), "start", &format!("{}{reason}{share}", backend.state))?;
        let right = x + BOX.0 - 12;
        if let Some(trip) = backend.round_trip_us {
            text(out, "small", (right, y + 18), "end", &milliseconds(trip))?;
        }
        spark(out, &self.trend.of(backend.address), (right - SPARK.0, y + 22))
    }
}

fn share(backend: &BackendStatus) -> String {
    if backend.used { format!("{:.0} %", backend.share * 100.0) } else { "none".to_owned() }
}

fn width(backend: &BackendStatus) -> f64 {
    1.5 + 5.5 * backend.share
}

/// The round trip as a line that begins at zero, and below it the state as a strip.
fn spark(out: &mut String, samples: &[Sample], (x, y): (i32, i32)) -> fmt::Result {
    let most = samples.iter().filter_map(|(_, trip)| *trip).max().unwrap_or(0).max(1);
    // The latest is at the right end.
    let missing = SAMPLES.saturating_sub(samples.len());
    let at = |i: usize| f64::from(x) + f64::from(SPARK.0) * (missing + i) as f64 / SAMPLES as f64;
    let strip = y + SPARK.1 + 3;
    write!(out, "<rect class=\"track\" x=\"{x}\" y=\"{strip}\" width=\"{}\" height=\"4\"/>", SPARK.0)?;
    let mut begin = 'M';
    let mut line = String::new();
    for (i, (_, trip)) in samples.iter().enumerate() {
        let Some(trip) = trip else {
            begin = 'M';
            continue;
        };
        let height = f64::from(SPARK.1 - 4) * f64::from(*trip) / f64::from(most);
        write!(line, "{begin}{:.1} {:.1}", at(i), f64::from(y + SPARK.1) - height)?;
        begin = 'L';
    }
    if line.contains('L') {
        write!(out, "<path class=\"spark\" d=\"{line}\"/>")?;
    }
    let mut from = 0;
    while let Some((state, _)) = samples.get(from) {
        let length = samples[from..].iter().take_while(|(other, _)| other == state).count();
        let class = class(state.label(), !state.is_out());
        let (left, width) = (at(from), at(from + length) - at(from));
        write!(
            out,
            "<rect class=\"bar {class}\" x=\"{left:.1}\" y=\"{strip}\" width=\"{width:.1}\" height=\"4\"/>"
        )?;
        from += length;
    }
    Ok(())
}

fn node(out: &mut String, class: &str, (x, y, width, height): (i32, i32, i32, i32)) -> fmt::Result {
    let (x, y) = (f64::from(x) + 0.5, f64::from(y) + 0.5);
    let (width, height) = (width - 1, height - 1);
    write!(
        out,
        "<rect class=\"box {class}\" x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>"
    )
}

fn text(out: &mut String, class: &str, (x, y): (i32, i32), anchor: &str, words: &str) -> fmt::Result {
    write!(
        out,
        "<text class=\"{class}\" x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{}</text>",
        Escaped(words)
    )
}

fn curve(out: &mut String, class: &str, width: f64, from: (i32, i32), to: (i32, i32)) -> fmt::Result {
    let bend = (from.0 + to.0) / 2;
    write!(out, "<path class=\"edge {class}\" stroke-width=\"{width:.1}\" d=\"M{} {}", from.0, from.1)?;
    write!(out, "C{bend} {},{bend} {},{} {}\"/>", from.1, to.1, to.0, to.1)
}
