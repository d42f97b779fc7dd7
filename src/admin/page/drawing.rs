//! The path of connections as a drawing: from Pods and this node through one virtual IP to its API servers.
//!
//! In: one frontend of the status, the self-test of its virtual IP, recent samples of each API server. Out: two SVG drawings, one
//! for broad windows and one for narrow ones.

use std::fmt::{self, Write};

use super::history::{SAMPLES, Sample, StateHistory};
use super::{Escaped, class};
use crate::status::{BackendStatus, FrontendStatus, SelfTestStatus, Status, milliseconds};

/// The drawings of one frontend.
pub(super) fn write(
    out: &mut String,
    frontend: &FrontendStatus,
    status: &Status,
    history: &StateHistory,
) -> fmt::Result {
    let test = status.selftests.iter().find(|test| test.vip == frontend.vip);
    let sources = [("Pods", pods(test)), ("This node", node(test))];
    let drawing = Drawing { frontend, sources, dataplane: &status.dataplane.in_use, history };
    drawing.broad(out)?;
    drawing.narrow(out)
}

/// A CSS class, and the same in words.
type Look = (&'static str, &'static str);

/// Whether connections of Pods get further than this node.
fn pods(test: Option<&SelfTestStatus>) -> Look {
    match test.map(|test| test.pod_traffic.as_str()) {
        Some("passing") => ("ok", "traffic passes"),
        Some("blocked") => ("bad", "traffic is blocked"),
        _ => ("unknown", "traffic not known"),
    }
}

/// What the self-test says of connections of this node.
fn node(test: Option<&SelfTestStatus>) -> Look {
    match test {
        None => ("unknown", "not tested"),
        Some(test) if !test.ready => ("bad", "self-test fails"),
        Some(test) if test.answered_by.as_deref() == Some("unknown") => ("unknown", "component not known"),
        Some(test) if !test.is_ours() => ("warn", "other program answers"),
        Some(_) => ("ok", "self-test answered"),
    }
}

/// Position and size.
type Place = (i32, i32, i32, i32);

/// Boxes of Pods and of this node, and of the virtual IP: width and height.
const SOURCE: (i32, i32) = (156, 52);
const VIP: (i32, i32) = (220, 60);

/// The box of an API server: its size, from one to the next, and where its sparkline is, with the scale to the left of it.
struct BackendBox {
    size: (i32, i32),
    step: i32,
    spark: Place,
}

const BROAD: BackendBox = BackendBox { size: (410, 74), step: 84, spark: (292, 30, 106, 28) };
const NARROW: BackendBox = BackendBox { size: (318, 102), step: 112, spark: (70, 54, 236, 30) };

struct Drawing<'a> {
    frontend: &'a FrontendStatus,
    sources: [(&'static str, Look); 2],
    dataplane: &'a str,
    history: &'a StateHistory,
}

impl Drawing<'_> {
    fn broad(&self, out: &mut String) -> fmt::Result {
        let height = (self.count() * BROAD.step).max(2 * BROAD.step);
        self.begin(out, "broad", 960, height)?;
        let (middle, vip) = (height / 2, SOURCE.0 + 87);
        for ((name, look), y) in self.sources.into_iter().zip([middle - 38, middle + 38]) {
            curve(out, &format!("source {}", look.0), 2.0, (SOURCE.0, y), (vip, middle))?;
            source(out, name, look, (0, y - SOURCE.1 / 2, SOURCE.0, SOURCE.1))?;
        }
        let left = 960 - BROAD.size.0;
        // All of them are in the middle of the drawing.
        let top = (height - self.count() * BROAD.step) / 2 + (BROAD.step - BROAD.size.1) / 2;
        let rows = || (0..).map(|i| top + i * BROAD.step).zip(&self.frontend.backends);
        for (y, backend) in rows() {
            let class = class(&backend.state, backend.used);
            curve(out, class, width(backend), (vip + VIP.0, middle), (left, y + BROAD.size.1 / 2))?;
        }
        self.vip(out, (vip, middle - VIP.1 / 2, VIP.0, VIP.1))?;
        for (y, backend) in rows() {
            self.backend(out, backend, &BROAD, (left, y))?;
        }
        out.write_str("</svg>")
    }

    fn narrow(&self, out: &mut String) -> fmt::Result {
        const TOP: i32 = 170;
        self.begin(out, "narrow", 360, TOP + self.count() * NARROW.step)?;
        for ((name, look), x) in self.sources.into_iter().zip([1, 183]) {
            let middle = x + 88;
            write!(out, "<path class=\"edge source {}\" stroke-width=\"2\" d=\"M{middle} 52V80\"/>", look.0)?;
            source(out, name, look, (x, 1, 176, SOURCE.1))?;
        }
        for (i, backend) in (0..).zip(&self.frontend.backends) {
            let (class, y) = (class(&backend.state, backend.used), TOP + i * NARROW.step + NARROW.size.1 / 2);
            // Side by side, as far as there is room.
            let (width, x) = (width(backend), 34 - 8 * i.min(4));
            write!(out, "<path class=\"edge {class}\" stroke-width=\"{width:.1}\" d=\"M{x} 138V{y}H41\"/>")?;
        }
        self.vip(out, (1, 80, 358, VIP.1))?;
        for (i, backend) in (0..).zip(&self.frontend.backends) {
            self.backend(out, backend, &NARROW, (41, TOP + i * NARROW.step))?;
        }
        out.write_str("</svg>")
    }

    /// So many API servers are drawn; there is room for one at least.
    fn count(&self) -> i32 {
        i32::try_from(self.frontend.backends.len()).unwrap_or(i32::MAX / NARROW.step / 2).max(1)
    }

    fn begin(&self, out: &mut String, name: &str, width: i32, height: i32) -> fmt::Result {
        write!(out, "<svg class=\"{name}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"")?;
        let [pods, node] = self.sources.map(|(_, look)| look.1);
        write!(out, "Pods ({pods}) and this node ({node}) reach {} by ", self.frontend.vip)?;
        write!(out, "{}", Escaped(self.words()))?;
        for backend in &self.frontend.backends {
            write!(out, ", which leads to {}: {}, ", backend.address, Escaped(&backend.state))?;
            write!(out, "{} of new connections", share(backend).as_deref().unwrap_or("none"))?;
        }
        out.write_str("\">")
    }

    fn words(&self) -> &str {
        match self.dataplane {
            "nftables" => "nftables rules",
            "forwarder" => "the forwarder",
            other => other,
        }
    }

    fn vip(&self, out: &mut String, place: Place) -> fmt::Result {
        rectangle(out, "vip", place)?;
        let (middle, y) = (place.0 + place.2 / 2, place.1);
        text(out, "mono", (middle, y + 26), "middle", &self.frontend.vip.to_string())?;
        text(out, "small", (middle, y + 45), "middle", self.words())
    }

    fn backend(
        &self,
        out: &mut String,
        backend: &BackendStatus,
        BackendBox { size, spark: place, .. }: &BackendBox,
        (x, y): (i32, i32),
    ) -> fmt::Result {
        let class = class(&backend.state, backend.used);
        rectangle(out, class, (x, y, size.0, size.1))?;
        text(out, "mono", (x + 12, y + 21), "start", &backend.address.to_string())?;
        let reason = backend.failure.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
        let share = share(backend).map(|share| format!(" \u{b7} {share}")).unwrap_or_default();
        text(out, class, (x + 12, y + 43), "start", &format!("{}{reason}{share}", backend.state))?;
        if let Some(trip) = backend.round_trip_us {
            text(out, "small", (x + size.0 - 12, y + 21), "end", &milliseconds(trip))?;
        }
        let place = (x + place.0, y + place.1, place.2, place.3);
        spark(out, &self.history.of(backend.address), place)
    }
}

/// Its part of new connections, if it gets any.
fn share(backend: &BackendStatus) -> Option<String> {
    backend.used.then(|| format!("{:.0} %", backend.share * 100.0))
}

fn width(backend: &BackendStatus) -> f64 {
    1.5 + 5.5 * backend.share
}

/// The round trip as a line from zero to the most that the scale to the left of it names, and below it the state as a strip.
fn spark(out: &mut String, samples: &[Sample], (x, y, width, height): Place) -> fmt::Result {
    let most = samples.iter().filter_map(|(_, trip)| *trip).max().unwrap_or(0).max(1);
    // The latest is at the right end.
    let missing = SAMPLES.saturating_sub(samples.len());
    let at = |i: usize| f64::from(x) + f64::from(width) * (missing + i) as f64 / SAMPLES as f64;
    let strip = y + height + 4;
    write!(out, "<rect class=\"track\" x=\"{x}\" y=\"{strip}\" width=\"{width}\" height=\"4\"/>")?;
    let mut begin = 'M';
    let mut line = String::new();
    for (i, (_, trip)) in samples.iter().enumerate() {
        let Some(trip) = trip else {
            begin = 'M';
            continue;
        };
        let above = f64::from(height - 4) * f64::from(*trip) / f64::from(most);
        write!(line, "{begin}{:.1} {:.1}", at(i), f64::from(y + height) - above)?;
        begin = 'L';
    }
    if line.contains('L') {
        let (left, right, bottom) = (x, x + width, y + height);
        write!(out, "<path class=\"axis\" d=\"M{left} {}H{right}M{left} {bottom}H{right}\"/>", y + 4)?;
        text(out, "scale", (x - 6, y + 9), "end", &milliseconds(most.into()))?;
        text(out, "scale", (x - 6, bottom + 2), "end", "0")?;
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

/// Where connections come from.
fn source(out: &mut String, name: &str, (class, words): Look, place: Place) -> fmt::Result {
    rectangle(out, class, place)?;
    let middle = place.0 + place.2 / 2;
    text(out, "", (middle, place.1 + 22), "middle", name)?;
    text(out, &format!("small {class}"), (middle, place.1 + 40), "middle", words)
}

fn rectangle(out: &mut String, class: &str, (x, y, width, height): Place) -> fmt::Result {
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
