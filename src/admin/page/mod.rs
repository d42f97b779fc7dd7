//! The page: the daemon's state as one HTML document that asks for nothing else.
//!
//! In: the status, the trend, a nonce. Out: a document that says all of it without scripting; with scripting it asks for
//! itself again each second, and replaces what differs. Whatever comes from outside the daemon is escaped here.

use std::fmt::{self, Display, Formatter, Write};

use super::trend::Trend;
use crate::status::text::note;
use crate::status::{FrontendStatus, Status, duration, milliseconds};

mod draw;
mod events;

const TEMPLATE: &str = include_str!("page.html");

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

/// How a state looks: the class, and nothing that colour alone would say.
fn class(state: &str, used: bool) -> &'static str {
    match (state, used) {
        ("healthy" | "late" | "unknown", true) => "ok",
        ("healthy" | "late" | "unknown", false) => "idle",
        ("draining", _) => "warn",
        _ => "bad",
    }
}

/// The document. Its script and its styles carry `nonce`, so that no others are obeyed.
pub(super) fn page(status: &Status, trend: &Trend, host: &str, nonce: &str) -> String {
    let mut html = String::with_capacity(TEMPLATE.len() + 8192);
    let mut rest = TEMPLATE;
    // One pass: what is put in is never looked at again.
    while let Some((before, after)) = rest.split_once("{{") {
        html += before;
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        match name {
            "title" => drop(write!(html, "{}: {} - apivip", Escaped(verdict(status).1), Escaped(host))),
            "heading" => drop(write!(html, "apivip <small>on {}</small>", Escaped(host))),
            "nonce" => html += nonce,
            "when" => html += "as of the moment when this page was loaded",
            "version" => drop(write!(html, "apivip {}", Escaped(&status.version))),
            _ => drop(state(&mut html, status, trend)),
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

fn state(out: &mut String, status: &Status, trend: &Trend) -> fmt::Result {
    let (class, word) = verdict(status);
    write!(out, "<section aria-label=\"Summary\"><p class=\"lead\"><b class=\"pill {class}\">{word}</b>")?;
    write!(out, "{}.</p><dl>", Escaped(sentence(&status.summary)))?;
    let since = duration(status.dataplane.since_seconds);
    let owned = if status.dataplane.table_owned { ", which no other program may change" } else { "" };
    let way = match (status.dataplane.in_use.as_str(), &status.dataplane.reason) {
        ("nftables", Some(reason)) => format!("the kernel's rules{owned}, for {since}: {reason}"),
        ("nftables", None) => format!("the kernel's rules{owned}, for {since}"),
        ("forwarder", Some(reason)) => format!("the forwarder, for {since}: {reason}"),
        (other, _) => other.to_owned(),
    };
    fact(out, "New connections take", &way)?;
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
        path(out, frontend, status, trend)?;
    }
    events::timeline(out, status)
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
            Escaped(sentence(&problem.what)),
            Escaped(sentence(&problem.todo))
        )?;
    }
    out.write_str("</ul>")
}

fn path(out: &mut String, frontend: &FrontendStatus, status: &Status, trend: &Trend) -> fmt::Result {
    let name = match frontend.port_name.as_str() {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    let title = format!("{}{name}", frontend.vip);
    write!(out, "<section><h2>{}</h2>", Escaped(&title))?;
    draw::both(out, frontend, &status.dataplane.in_use, trend)?;
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

#[cfg(test)]
mod tests;
