//! The status page: the daemon's state as one HTML document that loads nothing else.
//!
//! In: the status, the recent states of each API server, a nonce. Out: a document that says all of it without scripting; with
//! scripting it fetches itself again each second, and replaces what differs. Whatever comes from outside the daemon is escaped
//! here.
//!
//! `drawing` draws the path of connections, `history` keeps the samples of its sparklines, `timeline` lists what changed.

use std::fmt::{self, Display, Formatter, Write};

use crate::model::verdict::{Severity, Verdict};
use crate::process::clock::unix_now;
use crate::status::text::note;
use crate::status::{BackendStatus, FrontendStatus, Status, capitalized, duration, milliseconds};

mod drawing;
mod history;
mod timeline;

pub(super) use history::{SAMPLE_INTERVAL, StateHistory};

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

/// The CSS class of a backend's state; color is never the only sign of it.
fn class(state: &str, used: bool) -> &'static str {
    match (state, used) {
        ("healthy" | "late" | "unknown", true) => "ok",
        ("healthy" | "late" | "unknown", false) => "idle",
        ("draining", _) => "warn",
        _ => "bad",
    }
}

/// The CSS class and the word of the whole.
fn verdict(status: &Status) -> (&'static str, &'static str) {
    let class = match status.verdict {
        Verdict::Healthy => "ok",
        Verdict::Degraded => "warn",
        Verdict::Failing => "bad",
    };
    (class, status.verdict.label())
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
            "title" => drop(write!(html, "{}: {} - apivip", verdict(status).1, Escaped(host))),
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

fn state(out: &mut String, status: &Status, history: &StateHistory) -> fmt::Result {
    let (class, word) = verdict(status);
    write!(out, "<section class=\"head {class}\" aria-label=\"Summary\"><p class=\"lead\">")?;
    write!(out, "<b class=\"pill {class}\">{word}</b>{}.</p>", Escaped(capitalized(&status.summary)))?;
    problems(out, status)?;
    facts(out, status)?;
    out.write_str("</section>")?;
    // Most Services have no other port.
    let (first, others): (Vec<_>, Vec<_>) = status.frontends.iter().partition(|f| f.port_name == "https");
    for frontend in first.into_iter().chain(others) {
        path(out, frontend, status, history)?;
    }
    timeline::write(out, status)
}

/// The most severe come first in the status.
fn problems(out: &mut String, status: &Status) -> fmt::Result {
    if status.problems.is_empty() {
        return Ok(());
    }
    out.write_str("<ul class=\"problems\" aria-label=\"Problems\">")?;
    for problem in &status.problems {
        let (class, word) = match problem.severity {
            Severity::Critical => ("bad", "critical"),
            Severity::Warning => ("warn", "warning"),
        };
        write!(out, "<li class=\"{class}\"><b>{word}</b><p>{}</p>", Escaped(&problem.message))?;
        write!(out, "<p>{}</p></li>", Escaped(&problem.action))?;
    }
    out.write_str("</ul>")
}

fn facts(out: &mut String, status: &Status) -> fmt::Result {
    out.write_str("<dl>")?;
    let dataplane = &status.dataplane;
    let path = match dataplane.in_use.as_str() {
        "nftables" => "nftables rules",
        "forwarder" if dataplane.fallback_active => "the forwarder, as the fallback",
        "forwarder" => "the forwarder",
        _ => "nothing yet",
    };
    fact(out, "New connections use", path)?;
    fact(out, "In use for", &duration(dataplane.since_seconds))?;
    if let Some(reason) = &dataplane.reason {
        fact(out, "Reason", reason)?;
    }
    let owner = match dataplane.table_owned {
        true => "owned by the daemon, no other program can change it",
        false => "not owned, other programs can change it",
    };
    fact(out, "Table inet apivip", owner)?;
    let paused = if dataplane.accept_paused { ", accepts no more" } else { "" };
    fact(out, "Open forwarded connections", &format!("{}{paused}", dataplane.forwarder_connections))?;
    for test in &status.selftests {
        let ago = duration(test.seconds_ago);
        fact(out, &format!("Self-test of {}", test.vip), &format!("{}, {ago} ago", test.result()))?;
    }
    let api = &status.api;
    let from = api.address.as_ref().map(|address| format!(" from {address}")).unwrap_or_default();
    fact(out, "Kubernetes API", &format!("{}{from}", api.state))?;
    if let Some(error) = &api.last_error {
        fact(out, "Latest error of the API", error)?;
    }
    fact(out, "Service", &status.service)?;
    fact(out, "Daemon", &format!("pid {}, up {}", status.pid, duration(status.uptime_seconds)))?;
    fact(out, "Clock of the node", &timeline::clock(unix_now()))?;
    out.write_str("</dl>")
}

fn fact(out: &mut String, name: &str, value: &str) -> fmt::Result {
    write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(value))
}

fn path(out: &mut String, frontend: &FrontendStatus, status: &Status, history: &StateHistory) -> fmt::Result {
    let name = match frontend.port_name.as_str() {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    let title = format!("{}{name}", frontend.vip);
    write!(out, "<section><h2>{}</h2>", Escaped(&title))?;
    drawing::write(out, frontend, status, history)?;
    out.write_str(
        "<p class=\"key\">Lines: round trip of probes in the last 2 minutes, with its scale. Bars below them: state.</p>\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"API servers\"><table><thead><tr>\
         <th scope=\"col\">API server</th><th scope=\"col\">State</th><th scope=\"col\">For</th>\
         <th scope=\"col\" class=\"num\">Round trip</th><th scope=\"col\" class=\"num\">Connections</th>\
         <th scope=\"col\" class=\"num\">Forwarded</th><th scope=\"col\">Remarks</th></tr></thead><tbody>",
    )?;
    for backend in &frontend.backends {
        row(out, backend)?;
    }
    out.write_str("</tbody></table></div></section>")
}

fn row(out: &mut String, backend: &BackendStatus) -> fmt::Result {
    let since = backend.since_seconds.map(duration).unwrap_or_default();
    let trip = backend.round_trip_us.map_or_else(|| "\u{2013}".to_owned(), milliseconds);
    let forwarded = match (backend.forwarded_connections, backend.forwarded_open) {
        (0, _) => "0".to_owned(),
        (total, open) => format!("{total} ({open} open)"),
    };
    write!(
        out,
        "<tr><td data-is=\"API server\"><b class=\"mono\">{}</b></td><td data-is=\"State\" class=\"t-{}\">{}</td>\
         <td data-is=\"For\">{since}</td><td data-is=\"Round trip\" class=\"num\">{trip}</td>\
         <td data-is=\"Connections\" class=\"num\">{}</td><td data-is=\"Forwarded\" class=\"num\">{forwarded}</td>\
         <td data-is=\"Remarks\" class=\"wide\">{}</td></tr>",
        Escaped(backend.address),
        class(&backend.state, backend.used),
        Escaped(&backend.state),
        backend.all_connections(),
        Escaped(note(backend)),
    )
}

#[cfg(test)]
mod tests;
