//! What changed, newest first: states of API servers, and repairs of what other programs changed.
//!
//! In: the status. Out: a list, with the time of each event on the node's clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};

use time::OffsetDateTime;

use super::{Escaped, class};
use crate::status::{RepairStatus, Status, TransitionStatus};

/// One line of it.
struct Event {
    /// Seconds since 1970.
    timestamp: u64,
    class: &'static str,
    what: String,
    details: String,
}

pub(super) fn write(out: &mut String, status: &Status) -> fmt::Result {
    let alike = |a: &TransitionStatus, b: &TransitionStatus| {
        (a.timestamp, &a.from, &a.to, &a.reason) == (b.timestamp, &b.from, &b.to, &b.reason)
    };
    let transitions = status.transitions.chunk_by(alike).map(transition);
    let mut events: Vec<Event> = transitions.chain(status.repairs.latest.iter().map(repair)).collect();
    events.sort_by_key(|event| Reverse(event.timestamp));
    out.write_str("<section><h2>What changed</h2>")?;
    if events.is_empty() {
        return out.write_str("<p class=\"lead\">Nothing since the daemon started.</p></section>");
    }
    out.write_str("<ol>")?;
    for Event { timestamp, class, what, details } in events {
        write!(out, "<li class=\"{class}\"><time>{}</time><p>{}</p>", clock(timestamp), Escaped(what))?;
        write!(out, "<p>{}</p></li>", Escaped(details))?;
    }
    out.write_str("</ol></section>")
}

fn repair(repair: &RepairStatus) -> Event {
    Event {
        timestamp: repair.timestamp,
        class: "warn",
        what: match &repair.by {
            Some(by) => format!("{by} changed the {} of apivip, which was repaired", repair.object),
            None => format!("the {} of apivip had been changed, and was repaired", repair.object),
        },
        details: format!("found by: {}", repair.found.replace('_', " ")),
    }
}

/// API servers that changed alike in the same second, with the longest of their times.
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
        timestamp: all.timestamp,
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

/// A time in seconds since 1970, in UTC as in the log; empty for one that no calendar has.
pub(super) fn clock(timestamp: u64) -> String {
    let time = i64::try_from(timestamp).ok().and_then(|at| OffsetDateTime::from_unix_timestamp(at).ok());
    time.map(|time| {
        let ((year, month, day), (hour, minute, second)) = (time.to_calendar_date(), time.to_hms());
        format!("{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC", u8::from(month))
    })
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_has_a_date_and_a_fixed_width() {
        assert_eq!(clock(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(clock(1_772_600_709), "2026-03-04 05:05:09 UTC");
        assert_eq!(clock(u64::MAX), "");
    }
}
