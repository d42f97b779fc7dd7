//! The timeline: changes of apiservers' states and repairs of what others changed, newest first.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

use super::{Escaped, class};
use crate::process::clock::unix_now;
use crate::status::{Status, TransitionStatus, duration};

/// One line of it.
struct Event {
    seconds_ago: u64,
    class: &'static str,
    what: String,
    details: String,
}

pub(super) fn timeline(out: &mut String, status: &Status) -> fmt::Result {
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
