//! The status for people. With [`Form::wide`] also what is open, and what was left out of the short form.

use std::fmt::Write;

use super::document::{BackendStatus, FrontendStatus, Status, duration, expiry, milliseconds};
use crate::columns::{Cell, Colour, Columns};
use crate::model::sources::EndpointSource;
use crate::model::verdict::{Severity, Verdict};
use crate::process::clock::unix_now;

/// How it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// All that is known.
    pub wide: bool,
    /// With colours.
    pub colour: bool,
}

/// So many of the latest transitions and repairs are in the short form.
const LAST: usize = 3;

/// Left margin of what belongs to a label.
const MARGIN: usize = 10;

/// Left margin of apiservers: with IPv4 addresses and the longest of states, a row is at most 120 columns wide.
const INDENT: usize = 2;

/// The text, ended by a line feed.
pub fn text(status: &Status, form: Form) -> String {
    let mut text = Text { out: String::new(), form };
    text.head(status);
    text.path(status);
    text.selftests(status);
    text.api(status);
    text.expiry(status);
    for frontend in &status.frontends {
        text.frontend(status, frontend);
    }
    text.transitions(status);
    text.repairs(status);
    text.problems(status);
    text.out
}

struct Text {
    out: String,
    form: Form,
}

impl Text {
    fn line(&mut self, label: &str, text: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "{label:<MARGIN$} {text}");
    }

    fn coloured(&self, colour: Colour, text: &str) -> String {
        if self.form.colour { colour.around(text) } else { text.to_owned() }
    }

    fn head(&mut self, status: &Status) {
        let colour = match status.verdict {
            Verdict::Healthy => Colour::Good,
            Verdict::Degraded => Colour::Doubtful,
            Verdict::Failing => Colour::Bad,
        };
        let verdict = self.coloured(colour, status.verdict.label());
        let up = duration(status.uptime_seconds);
        let head = format!("apivip {}, pid {}, up {up}: {verdict}", status.version, status.pid);
        let _ = writeln!(self.out, "{head}");
        self.line("rules", &format!("{}: {}", status.phase, status.summary));
    }

    fn path(&mut self, status: &Status) {
        let path = &status.dataplane;
        let (count, since) = (path.forwarder_connections, duration(path.since_seconds));
        let owned = if path.table_owned { ", other programs cannot change the table" } else { "" };
        let reason = path.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        match path.in_use.as_str() {
            "nftables" => self.line("dataplane", &format!("nftables for {since}{reason}{owned}")),
            "forwarder" => {
                self.line("dataplane", &format!("forwarder for {since}{reason}, {count} connections"));
            }
            _ => self.line("dataplane", "none yet"),
        }
        match path.in_use.as_str() {
            "forwarder" => {}
            _ if path.draining => {
                self.line("", &format!("{count} connections of the forwarder are draining"))
            }
            _ if count > 0 => self.line("", &format!("{count} connections through the forwarder")),
            _ => {}
        }
    }

    fn selftests(&mut self, status: &Status) {
        for test in &status.selftests {
            let ago = duration(test.seconds_ago);
            self.line("self-test", &format!("{} {} {ago} ago", test.vip, test.result()));
        }
    }

    fn api(&mut self, status: &Status) {
        let api = &status.api;
        let address = api.address.as_deref().map(|a| format!(" from {a}")).unwrap_or_default();
        let version = api
            .resource_version
            .as_deref()
            .map(|v| format!(", EndpointSlices at version {v}"))
            .unwrap_or_default();
        let since = duration(unix_now().saturating_sub(api.since_timestamp));
        self.line("API", &format!("{}{address} for {since}{version}", api.state));
        for said in api.waiting().iter().chain(&api.last_error) {
            self.line("", said);
        }
        if !self.form.wide {
            return;
        }
        if let Some(seconds) = api.last_event_seconds_ago {
            self.line("", &format!("last event {} ago", duration(seconds)));
        }
    }

    fn expiry(&mut self, status: &Status) {
        let now = unix_now().cast_signed();
        let dates = status.api.expiry.dates();
        let text: Vec<String> =
            dates.into_iter().map(|(what, end)| expiry(what, end.saturating_sub(now))).collect();
        if !text.is_empty() {
            self.line("expiry", &text.join(", "));
        }
    }

    fn frontend(&mut self, status: &Status, frontend: &FrontendStatus) {
        let mut text = frontend.vip.to_string();
        if !frontend.port_name.is_empty() {
            let _ = write!(text, " ({})", frontend.port_name);
        }
        let affinity = if frontend.client_affinity { ", by client address" } else { "" };
        let _ = write!(text, " of {}{affinity}", status.service);
        if self.form.wide && !frontend.local_route_allowed {
            text.push_str(", no local route: a network interface has this address");
        }
        self.line("virtual IP", &text);
        let mut columns = Columns::new(INDENT, self.form.colour);
        let mut head = vec!["BACKEND", "STATE", "SINCE", "RTT", "SHARE", "CONNECTIONS"];
        if self.form.wide {
            head.extend(["OPEN", "UP", "DOWN", "FORWARDED", "FORWARDED-OPEN"]);
        }
        head.extend(["SOURCE", "AGE", "NOTE"]);
        columns.push(head.into_iter().map(Cell::from));
        for backend in &frontend.backends {
            columns.push(self.backend(backend));
        }
        self.out.push_str(&columns.to_string());
    }

    fn backend(&self, backend: &BackendStatus) -> Vec<Cell> {
        let colour = match backend.state.as_str() {
            "healthy" => Colour::Good,
            "suspect" | "failed" => Colour::Bad,
            _ => Colour::Doubtful,
        };
        let since = backend.since_seconds.map(duration).unwrap_or_default();
        let round_trip = backend.round_trip_us.map(milliseconds).unwrap_or_default();
        let mut cells = vec![
            Cell::from(backend.address.to_string()),
            Cell::coloured(backend.state.clone(), colour),
            Cell::from(since),
            Cell::from(round_trip),
            Cell::from(format!("{:.0}%", backend.share * 100.0)),
            Cell::from(backend.all_connections().to_string()),
        ];
        if self.form.wide {
            cells.push(Cell::from(known(backend.open, |open| open.to_string())));
            cells.push(Cell::from(known(backend.bytes_up, size)));
            cells.push(Cell::from(known(backend.bytes_down, size)));
            cells.push(Cell::from(backend.forwarded_connections.to_string()));
            cells.push(Cell::from(backend.forwarded_open.to_string()));
        }
        cells.push(Cell::from(source(backend)));
        cells.push(Cell::from(backend.source_age_seconds.map(duration).unwrap_or_default()));
        cells.push(Cell::from(remarks(backend).join(", ")));
        cells
    }

    fn transitions(&mut self, status: &Status) {
        let shown = if self.form.wide { usize::MAX } else { LAST };
        for transition in status.transitions.iter().take(shown) {
            self.line("changed", &transition.to_string());
        }
    }

    fn repairs(&mut self, status: &Status) {
        let shown = if self.form.wide { usize::MAX } else { LAST };
        for repair in status.repairs.latest.iter().take(shown) {
            let by = repair.by.as_deref().unwrap_or("an unknown program");
            let ago = duration(repair.seconds_ago);
            self.line("repaired", &format!("{} {ago} ago: changed by {by}", repair.object));
        }
        let total = status.repairs.total;
        if usize::try_from(total).is_ok_and(|total| total > status.repairs.latest.len().min(shown)) {
            self.line("", &format!("{total} times since the start"));
        }
    }

    fn problems(&mut self, status: &Status) {
        for problem in &status.problems {
            let (label, colour) = match problem.severity {
                Severity::Critical => ("critical", Colour::Bad),
                Severity::Warning => ("problem", Colour::Doubtful),
            };
            let label = self.coloured(colour, &format!("{label:<MARGIN$}"));
            let _ = writeln!(self.out, "{label} {}", problem.message);
            self.line("", &format!("-> {}", problem.action));
        }
    }
}

fn source(backend: &BackendStatus) -> &'static str {
    match (backend.published, backend.source) {
        (true, _) => "published",
        (false, Some(EndpointSource::Seed)) => "seed",
        (false, Some(EndpointSource::Saved)) => "saved",
        (false, Some(EndpointSource::Published) | None) => "removed",
    }
}

/// What else there is to say of an apiserver, and where it was learnt.
pub fn note(backend: &BackendStatus) -> String {
    let learnt = match source(backend) {
        "published" => None,
        "removed" => Some("no longer published"),
        "seed" => Some("from a seed"),
        _ => Some("from saved state"),
    };
    let mut notes = remarks(backend);
    notes.extend(learnt.map(str::to_owned));
    notes.join(", ")
}

fn remarks(backend: &BackendStatus) -> Vec<String> {
    let failure = backend.failure.as_ref().map(|reason| format!("probes fail: {reason}"));
    let held =
        backend.hold_down_seconds.map(|seconds| format!("answers again, hold-down for {seconds}s more"));
    let is_spared = !backend.used && backend.state == "healthy";
    let spared = is_spared.then(|| "not selected by --balance".to_owned());
    let authentication = match backend.authentication.as_deref() {
        Some("anonymous") => Some("probed without credentials".to_owned()),
        Some("refused") => Some("rejects the credentials of apivip".to_owned()),
        _ => None,
    };
    let unknown = (backend.readiness_known == Some(false)).then(|| "readiness unknown".to_owned());
    failure.into_iter().chain(held).chain(spared).chain(authentication).chain(unknown).collect()
}

/// Where nothing is known, that is said.
fn known(value: Option<u64>, text: impl Fn(u64) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), text)
}

/// Bytes with one digit behind the point, from 1 KiB on.
fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut unit, mut scale) = (None, 1u64);
    for name in units {
        if bytes / 1024 < scale {
            break;
        }
        (unit, scale) = (Some(name), scale * 1024);
    }
    match unit {
        None => format!("{bytes}B"),
        Some(unit) => format!("{}.{}{unit}", bytes / scale, bytes % scale * 10 / scale),
    }
}

#[cfg(test)]
mod tests;
