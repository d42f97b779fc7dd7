//! The status page: the daemon's state as one HTML document that loads nothing else.
//!
//! In: the status, the recent states of each apiserver, a nonce. Out: a document that says all of it without scripting; with
//! scripting it fetches itself again each second, and replaces what differs. Whatever comes from outside the daemon is escaped
//! here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Display, Formatter, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::model::health::HealthState;
use crate::model::report::Report;
use crate::model::types::Backend;
use crate::process::clock::unix_now;
use crate::status::text::note;
use crate::status::{BackendStatus, FrontendStatus, Status, TransitionStatus, duration, milliseconds};

const TEMPLATE: &str = include_str!("page/page.html");

/// Text that is neither markup nor the end of an attribute.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// The CSS class of a state; colour is never the only sign of it.
fn class(state: &str, used: bool) -> &'static str {
    match (state, used) {
        ("healthy" | "late" | "unknown", true) => "ok",
        ("healthy" | "late" | "unknown", false) => "idle",
        ("draining", _) => "warn",
        _ => "bad",
    }
}

/// The document. Its script and its styles carry `nonce`, so that no others are obeyed.
pub(super) fn page(status: &Status, history: &StateHistory, host: &str, nonce: &str) -> String {
    let mut html = String::with_capacity(TEMPLATE.len() + 8192);
    let mut rest = TEMPLATE;
    // One pass: inserted text is not expanded again.
    while let Some((before, after)) = rest.split_once("{{") {
        html += before;
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        match name {
            "title" => drop(write!(html, "{}: {} - apivip", Escaped(verdict(status).1), Escaped(host))),
            "heading" => drop(write!(html, "apivip <small>on {}</small>", Escaped(host))),
            "nonce" => html += nonce,
            "when" => html += "as of the moment when this page was loaded",
            "version" => drop(write!(html, "apivip {}", Escaped(&status.version))),
            _ => drop(state(&mut html, status, history)),
        }
        rest = after;
    }
    html + rest
}

/// The class and the word of the whole.
fn verdict(status: &Status) -> (&'static str, &'static str) {
    let serving = matches!(status.phase.as_str(), "programmed" | "unrouted" | "forwarding");
    let answering = status.selftests.iter().all(|test| test.ready);
    match (serving, answering) {
        (true, true) if status.problems.is_empty() => ("ok", "Serving"),
        (true, true) => ("warn", "Serving, with problems"),
        (true, false) => ("bad", "Not answering"),
        (false, _) if status.phase == "failed" => ("bad", "Failed"),
        (false, _) => ("warn", "Not serving yet"),
    }
}

fn state(out: &mut String, status: &Status, history: &StateHistory) -> fmt::Result {
    let (class, word) = verdict(status);
    write!(out, "<section aria-label=\"Summary\"><p class=\"lead\"><b class=\"pill {class}\">{word}</b>")?;
    write!(out, "{}.</p><dl>", Escaped(sentence(&status.summary)))?;
    let since = duration(status.dataplane.since_seconds);
    let owned = if status.dataplane.table_owned { ", which no other program may change" } else { "" };
    let dataplane = match (status.dataplane.in_use.as_str(), &status.dataplane.reason) {
        ("nftables", Some(reason)) => format!("the kernel's rules{owned}, for {since}: {reason}"),
        ("nftables", None) => format!("the kernel's rules{owned}, for {since}"),
        ("forwarder", Some(reason)) => format!("the forwarder, for {since}: {reason}"),
        (other, _) => other.to_owned(),
    };
    fact(out, "New connections take", &dataplane)?;
    let api = &status.api;
    let from = api.address.as_ref().map(|address| format!(" from {address}")).unwrap_or_default();
    let error = api.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    fact(out, "Kubernetes API", &format!("{}{from}{error}", api.state))?;
    for test in &status.selftests {
        let ago = duration(test.seconds_ago);
        fact(out, &format!("Connection to {}", test.vip), &format!("{}, {ago} ago", test.result()))?;
    }
    fact(out, "Service", &status.service)?;
    fact(out, "Daemon", &format!("pid {}, up {}", status.pid, duration(status.uptime_seconds)))?;
    out.write_str("</dl>")?;
    notes(out, status)?;
    out.write_str("</section>")?;
    // Most Services have no other port.
    let (first, others): (Vec<_>, Vec<_>) = status.frontends.iter().partition(|f| f.port_name == "https");
    for frontend in first.into_iter().chain(others) {
        path(out, frontend, status, history)?;
    }
    timeline(out, status)
}

fn fact(out: &mut String, name: &str, value: &str) -> fmt::Result {
    write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(value))
}

fn notes(out: &mut String, status: &Status) -> fmt::Result {
    if status.problems.is_empty() {
        return Ok(());
    }
    out.write_str("<ul class=\"notes\">")?;
    for problem in &status.problems {
        write!(
            out,
            "<li>{} <em>{}.</em></li>",
            Escaped(sentence(&problem.message)),
            Escaped(sentence(&problem.action))
        )?;
    }
    out.write_str("</ul>")
}

fn path(out: &mut String, frontend: &FrontendStatus, status: &Status, history: &StateHistory) -> fmt::Result {
    let name = match frontend.port_name.as_str() {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    let title = format!("{}{name}", frontend.vip);
    write!(out, "<section><h2>{}</h2>", Escaped(&title))?;
    drawings(out, frontend, &status.dataplane.in_use, history)?;
    out.write_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Apiservers\"><table><thead><tr><th scope=\"col\">Apiserver</th>\
         <th scope=\"col\">State</th><th scope=\"col\">For</th><th scope=\"col\" class=\"num\">Round trip</th>\
         <th scope=\"col\" class=\"num\">Connections</th><th scope=\"col\">Remarks</th></tr></thead><tbody>",
    )?;
    for backend in &frontend.backends {
        let since = backend.since_seconds.map(duration).unwrap_or_default();
        let trip = backend.round_trip_us.map(milliseconds).unwrap_or_default();
        write!(
            out,
            "<tr><td data-is=\"Apiserver\"><b class=\"mono\">{}</b></td><td data-is=\"State\" class=\"t-{}\">{}</td>\
             <td data-is=\"For\">{since}</td><td data-is=\"Round trip\" class=\"num\">{trip}</td>\
             <td data-is=\"Connections\" class=\"num\">{}</td><td data-is=\"Remarks\" class=\"wide\">{}</td></tr>",
            Escaped(backend.address),
            class(&backend.state, backend.used),
            Escaped(&backend.state),
            backend.connections,
            Escaped(note(backend)),
        )?;
    }
    out.write_str("</tbody></table></div></section>")
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map(|first| first.to_uppercase().chain(characters).collect()).unwrap_or_default()
}

/// From one sample to the next.
pub(super) const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);
/// Two minutes: half a kilobyte for each apiserver.
const SAMPLES: usize = 60;

/// What one sample saw: the state, and the smoothed round trip in microseconds.
type Sample = (HealthState, Option<u32>);

/// Samples of each apiserver, oldest first.
#[derive(Debug, Default)]
pub(super) struct StateHistory(BTreeMap<Backend, VecDeque<Sample>>);

impl StateHistory {
    /// Takes one sample of all. Those that are no longer probed are forgotten.
    pub fn sample(&mut self, report: &Report) {
        let Some(view) = &report.view else { return };
        self.0.retain(|backend, _| view.backends.contains_key(backend));
        for (backend, health) in &view.backends {
            let samples = self.0.entry(*backend).or_default();
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            let micros = health.round_trip.and_then(|trip| u32::try_from(trip.as_micros()).ok());
            samples.push_back((health.state, micros));
        }
    }

    /// Those of one apiserver.
    pub fn of(&self, backend: Backend) -> Vec<Sample> {
        self.0.get(&backend).map(|samples| samples.iter().copied().collect()).unwrap_or_default()
    }
}

/// Width and height of an apiserver's box, and from one to the next.
const BOX: (i32, i32) = (318, 58);
const STEP: i32 = 70;
/// The room for a sparkline.
const SPARK: (i32, i32) = (96, 24);

fn drawings(
    out: &mut String,
    frontend: &FrontendStatus,
    dataplane: &str,
    history: &StateHistory,
) -> fmt::Result {
    let count = i32::try_from(frontend.backends.len()).unwrap_or(i32::MAX / STEP).max(1);
    let drawing = Drawing { frontend, dataplane, history };
    drawing.broad(out, (count * STEP).max(2 * STEP))?;
    drawing.narrow(out, 150 + count * STEP)
}

struct Drawing<'a> {
    frontend: &'a FrontendStatus,
    dataplane: &'a str,
    history: &'a StateHistory,
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
        match self.dataplane {
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
        let reason = backend.failure.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
        let share = match share(backend).as_str() {
            "none" => String::new(),
            share => format!(" \u{b7} {share}"),
        };
        text(out, class, (x + 12, y + 44), "start", &format!("{}{reason}{share}", backend.state))?;
        let right = x + BOX.0 - 12;
        if let Some(trip) = backend.round_trip_us {
            text(out, "small", (right, y + 18), "end", &milliseconds(trip))?;
        }
        spark(out, &self.history.of(backend.address), (right - SPARK.0, y + 22))
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

/// One line of it.
struct Event {
    seconds_ago: u64,
    class: &'static str,
    what: String,
    details: String,
}

fn timeline(out: &mut String, status: &Status) -> fmt::Result {
    let alike = |a: &TransitionStatus, b: &TransitionStatus| {
        (a.seconds_ago, &a.from, &a.to, &a.reason) == (b.seconds_ago, &b.from, &b.to, &b.reason)
    };
    let transitions = status.transitions.chunk_by(alike).map(transition);
    let repairs = status.repairs.latest.iter().map(|repair| Event {
        seconds_ago: repair.seconds_ago,
        class: "warn",
        what: match &repair.by {
            Some(by) => format!("{by} changed the {} of apivip, which was repaired", repair.object),
            None => format!("the {} of apivip had been changed, and was repaired", repair.object),
        },
        details: format!("found by: {}", repair.found.replace('_', " ")),
    });
    let mut events: Vec<Event> = transitions.chain(repairs).collect();
    events.sort_by_key(|event| event.seconds_ago);
    out.write_str("<section><h2>What changed</h2>")?;
    if events.is_empty() {
        return out.write_str("<p class=\"lead\">Nothing since the daemon started.</p></section>");
    }
    out.write_str("<ol>")?;
    let now = unix_now();
    for Event { seconds_ago, class, what, details } in events {
        let (clock, ago) = (clock(now.saturating_sub(seconds_ago)), duration(seconds_ago));
        write!(out, "<li class=\"{class}\"><time>{clock}, {ago} ago</time><p>{}</p>", Escaped(what))?;
        write!(out, "<p>{}</p></li>", Escaped(details))?;
    }
    out.write_str("</ol></section>")
}

/// Apiservers that changed alike in the same second, with the longest of their times.
fn transition(alike: &[TransitionStatus]) -> Event {
    let mut hosts: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for TransitionStatus { backend, .. } in alike {
        hosts.entry(backend.ip()).or_default().insert(backend.port());
    }
    let mut all = alike[0].clone();
    for other in &alike[1..] {
        all.decision_ms = all.decision_ms.max(other.decision_ms);
        all.commit_ms = all.commit_ms.max(other.commit_ms);
        all.flows_ms = all.flows_ms.max(other.flows_ms);
        let sum = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).reduce(u64::saturating_add);
        all.flows = sum(all.flows, other.flows);
        all.remaining = sum(all.remaining, other.remaining);
    }
    Event {
        seconds_ago: all.seconds_ago,
        class: class(&all.to, true),
        what: format!("{}: {} \u{2192} {}", names(&hosts), all.from, all.to),
        details: all.details(),
    }
}

/// Each host once, with its ports.
fn names(hosts: &BTreeMap<IpAddr, BTreeSet<u16>>) -> String {
    let name = |(ip, ports): (&IpAddr, &BTreeSet<u16>)| match (ports.len(), ports.first()) {
        (1, Some(port)) => SocketAddr::new(*ip, *port).to_string(),
        _ => format!("{ip} ({})", ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")),
    };
    hosts.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The time of day, in UTC as in the log.
fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}Z", seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests;
