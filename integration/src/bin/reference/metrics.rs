//! The tables of metrics and of their labels, from what the daemon's own encoder writes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use apivip::kube::Connection;
use apivip::metrics::{Metrics, Stage, prometheus_text};
use apivip::model::health::{FailReason, HealthState};
use apivip::model::verdict::Verdict;
use apivip::proxy::Stats;
use apivip::transport::Expiry;

/// Labels whose values are no closed set, and what they are instead.
const OPEN: [(&str, &str); 4] = [
    ("backend", "an apiserver, ADDRESS:PORT"),
    ("vip", "a virtual IP, ADDRESS:PORT"),
    ("version", "the daemon's"),
    ("commit", "the daemon's"),
];

/// All families with a sample of each series that there can be, in the classic text format.
pub fn samples() -> Result<String> {
    let expiry = Expiry { ca: Some(0), client_certificate: Some(0), token: Some(0) };
    let connection = Connection { heard: Some(Instant::now()), expiry, ..Connection::default() };
    let totals = BTreeMap::from([(([192, 0, 2, 11], 6443).into(), 0)]);
    let forwarder = Arc::<Stats>::default();
    let metrics = Metrics::new(Arc::clone(&forwarder));
    // Families that have no sample before their first event would show no labels.
    drop(forwarder.count_forwarded(([192, 0, 2, 11], 6443).into()));
    for state in HealthState::ALL {
        let reasons = FailReason::ALL.into_iter().map(Some);
        reasons.chain([None]).for_each(|reason| metrics.changed(state, reason));
    }
    Stage::ALL.into_iter().for_each(|stage| metrics.stage(stage, Duration::ZERO));
    Ok(prometheus_text(&metrics.encode(Verdict::default(), &connection, &totals)?))
}

/// One row for each metric, with its labels and its help.
pub fn table(samples: &str) -> Result<String> {
    let mut rows: BTreeMap<&str, (&str, &str, String)> = BTreeMap::new();
    let mut helps: BTreeMap<&str, &str> = BTreeMap::new();
    for line in samples.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            helps.insert(name, help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            rows.insert(name, (kind, helps.get(name).copied().unwrap_or_default(), String::new()));
        } else if let Some((series, _)) = line.rsplit_once(' ') {
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let name = family.filter(|family| rows.contains_key(family)).unwrap_or(name);
            let keys = labels.trim_end_matches('}').split("\",").filter_map(|label| label.split('=').next());
            let keys: Vec<&str> = keys.filter(|key| !key.is_empty() && *key != "le").collect();
            if let Some(row) = rows.get_mut(name).filter(|_| !keys.is_empty()) {
                row.2 = format!("{{{}}}", keys.join(","));
            }
        }
    }
    let mut table = "| metric | type | meaning |\n|---|---|---|\n".to_owned();
    for (name, (kind, help, labels)) in rows {
        ensure!(!help.is_empty(), "{name} has no help");
        let help = help.trim_end_matches('.');
        let _ = writeln!(table, "| `{name}{labels}` | {kind} | {help} |");
    }
    Ok(table)
}

/// One row for each label: its metrics, and all values that it can have.
pub fn labels(samples: &str) -> String {
    let histograms: Vec<&str> =
        samples.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" histogram")).collect();
    // By metric first: the same label has other values in another one.
    let mut seen: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for line in samples.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, _)) = line.rsplit_once(' ') else { continue };
        let Some((name, labels)) = series.split_once('{') else { continue };
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let name = family.filter(|family| histograms.contains(family)).unwrap_or(name);
        for label in labels.trim_end_matches('}').split("\",") {
            let Some((key, value)) = label.split_once("=\"").filter(|(key, _)| *key != "le") else {
                continue;
            };
            seen.entry((key, name)).or_default().insert(value.trim_end_matches('"'));
        }
    }
    let mut table = "| label | of | values |\n|---|---|---|\n".to_owned();
    let mut grouped: BTreeMap<(&str, Vec<&str>), Vec<&str>> = BTreeMap::new();
    for ((label, metric), values) in seen {
        grouped.entry((label, values.into_iter().collect())).or_default().push(metric);
    }
    for ((label, values), metrics) in grouped {
        let open = OPEN.iter().find(|(name, _)| *name == label).map(|(_, what)| (*what).to_owned());
        let closed = || values.iter().map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
        let metrics: Vec<String> = metrics.iter().map(|name| format!("`{name}`")).collect();
        let _ = writeln!(table, "| `{label}` | {} | {} |", metrics.join(", "), open.unwrap_or_else(closed));
    }
    table
}
