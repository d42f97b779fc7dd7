//! A report as SARIF 2.1.0 (OASIS), which scanners and code hosts read. Pure.
//!
//! A check is a rule, a finding is a result of kind `pass`, `fail` or `open` (which stands for unknown). Where it was found
//! is a logical location: the path, and the address or subject.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::catalogue;
use super::finding::{Finding, Report, Severity, Verdict};

/// The document.
pub fn sarif(report: &Report) -> Value {
    let used: BTreeSet<&str> = report.findings.iter().map(|finding| finding.id).collect();
    let checks: Vec<_> = catalogue::all().filter(|check| used.contains(check.id)).collect();
    let place = |id: &str| checks.iter().position(|check| check.id == id);
    let rules: Vec<Value> = checks
        .iter()
        .map(|check| {
            json!({
                "id": check.id,
                "shortDescription": {"text": check.title},
                "fullDescription": {"text": check.background},
                "help": {"text": check.setting},
                "defaultConfiguration": {"level": level(check.severity)},
                "properties": {"security-severity": score(check.severity), "tags": ["security"]},
            })
        })
        .collect();
    let results: Vec<Value> =
        report.findings.iter().map(|finding| result(finding, place(finding.id))).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {"name": "apivip audit", "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "results": results,
        }],
    })
}

fn result(finding: &Finding, rule: Option<usize>) -> Value {
    let (kind, level) = match finding.verdict {
        Verdict::Pass => ("pass", "none"),
        Verdict::Unknown => ("open", "none"),
        Verdict::Fail => ("fail", level(finding.severity)),
    };
    let subject = finding.subject.as_ref().map_or(String::new(), |subject| format!(" ({subject})"));
    let mend = finding.mend.as_ref().map_or(String::new(), |mend| format!(" -> {mend}"));
    let way = finding.way.title();
    let place = finding.subject.as_deref().unwrap_or(way);
    json!({
        "ruleId": finding.id,
        "ruleIndex": rule,
        "kind": kind,
        "level": level,
        "message": {"text": format!("{}{subject}: {}{mend}", finding.title, finding.evidence)},
        "locations": [{"logicalLocations": [
            {"name": place, "fullyQualifiedName": format!("{way}: {place}"), "kind": "resource"},
        ]}],
        // The same finding of the next run, whatever its evidence says.
        "partialFingerprints": {"apivip/v1": format!("{}/{place}", finding.id)},
    })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "note",
        Severity::Medium => "warning",
        Severity::High => "error",
    }
}

/// As code hosts sort them: a number from 0 to 10 in text.
fn score(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "3.0",
        Severity::Medium => "5.5",
        Severity::High => "8.0",
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{apiserver, proxy};
    use super::*;

    #[test]
    fn each_verdict_has_its_kind() {
        let found = vec![
            apiserver::ISSUER.pass("ok").about("192.0.2.11:6443"),
            apiserver::EXPIRY.fail("expired"),
            apiserver::CIPHERS.fail("weak").of(Severity::Low),
            proxy::SSH.unknown("why", "what"),
        ];
        let document = sarif(&Report::new("1", found));
        let run = &document["runs"][0];
        let results = run["results"].as_array().unwrap();
        let of = |key: &str| results.iter().map(|result| result[key].as_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(of("kind"), ["pass", "fail", "fail", "open"]);
        assert_eq!(of("level"), ["none", "error", "note", "none"]);
        for result in results {
            let index = usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap();
            assert_eq!(run["tool"]["driver"]["rules"][index]["id"], result["ruleId"]);
        }
        assert_eq!(results[0]["locations"][0]["logicalLocations"][0]["name"], "192.0.2.11:6443");
    }
}
