//! The report of an audit: its order, the background of a check, and SARIF. Pure.
//!
//! In: findings of any order. Out: a [`Report`] in the order of the catalogue, with nothing in it that a server could use to
//! deceive a terminal; text and JSON are those of [`crate::check::report`].

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::catalogue::{self, AuditCheck};
use crate::check::report::{Finding, Report, Section, Severity, Verdict};

/// Of a line of prose, in characters.
const WIDTH: usize = 100;

/// Puts findings in the order of the catalogue.
pub fn report(version: &'static str, findings: Vec<Finding>) -> Report {
    let mut findings: Vec<Finding> = findings.into_iter().map(printable).collect();
    findings
        .sort_by_key(|finding| (finding.section, catalogue::all().position(|check| check.id == finding.id)));
    Report::of_audit(version, findings)
}

fn printable(mut finding: Finding) -> Finding {
    finding.evidence = plain(&finding.evidence);
    finding.subject = finding.subject.as_deref().map(plain);
    finding.fix = finding.fix.as_deref().map(plain);
    finding
}

/// Much of what is said was written by a server that may be anybody: it is shown on one line, at a bounded length, and
/// without characters that move a terminal's cursor or turn the direction of what follows.
fn plain(text: &str) -> String {
    const MOST: usize = 700;
    let hidden = |character: char| {
        character.is_control()
            || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut plain: String =
        text.chars().take(MOST).map(|character| if hidden(character) { '?' } else { character }).collect();
    if text.chars().nth(MOST).is_some() {
        plain.push_str("...");
    }
    plain
}

/// The background of a check, for `--explain`.
pub fn explain(check: &AuditCheck) -> String {
    format!(
        "{} ({}, {} severity)\n{}\n\n{}\n\nremediation:\n{}\n",
        check.id,
        Section::Path(check.path).title(),
        check.severity.label(),
        wrapped(check.title),
        wrapped(check.background),
        wrapped(check.setting)
    )
}

/// The words in lines of at most [`WIDTH`] characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().filter(|line| line.len() + word.len() < WIDTH);
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// The report as SARIF 2.1.0 (OASIS), which scanners and code hosts read.
///
/// A check is a rule, a finding is a result of kind `pass`, `fail` or `open` (unknown). Its logical location is the connection
/// path, and the address or subject.
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
            "tool": {"driver": {"name": "apivip-audit", "semanticVersion": env!("CARGO_PKG_VERSION"), "rules": rules}},
            "results": results,
        }],
    })
}

fn result(finding: &Finding, rule: Option<usize>) -> Value {
    let (kind, level) = match finding.verdict {
        Verdict::Pass | Verdict::Ok | Verdict::Info => ("pass", "none"),
        Verdict::Unknown | Verdict::Warning => ("open", "none"),
        Verdict::Fail => ("fail", finding.severity.map_or("error", level)),
    };
    let subject = finding.subject.as_ref().map_or(String::new(), |subject| format!(" ({subject})"));
    let fix = finding.fix.as_ref().map_or(String::new(), |fix| format!(" -> {fix}"));
    let path = finding.section.title();
    let place = finding.subject.as_deref().unwrap_or(path);
    json!({
        "ruleId": finding.id,
        "ruleIndex": rule,
        "kind": kind,
        "level": level,
        "message": {"text": format!("{}{subject}: {}{fix}", finding.title, finding.evidence)},
        "locations": [{"logicalLocations": [
            {"name": place, "fullyQualifiedName": format!("{path}: {place}"), "kind": "resource"},
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
    use super::catalogue::{apiserver, proxy};
    use super::*;
    use crate::check::report::{Style, text};

    proptest::proptest! {
        #[test]
        fn text_of_a_server_is_shown_on_one_line(evidence: String, subject in "[\\x00-\\x7f\u{202e}]{0,2000}") {
            let report = report("1", vec![apiserver::ISSUER.fail(evidence).about(subject)]);
            let finding = report.findings[0].clone();
            let shown = [finding.evidence, finding.subject.unwrap_or_default()].concat();
            proptest::prop_assert!(shown.chars().count() < 1500);
            let hidden = shown.contains(|c: char| c.is_control() || c == '\u{202e}');
            proptest::prop_assert!(!hidden);
        }
    }

    #[test]
    fn columns_align_and_like_findings_are_one_row() {
        let found = vec![
            proxy::SSH.pass("none is configured"),
            apiserver::ISSUER.pass("of the cluster's CA").about("192.0.2.11:6443"),
            apiserver::ISSUER.pass("of the cluster's CA").about("192.0.2.12:6443"),
            apiserver::ISSUER.pass("of the cluster's CA").about("192.0.2.13:6443"),
            apiserver::EXPIRY.fail("expired 2 h ago").about("192.0.2.11:6443").with_fix("renew it"),
            apiserver::EXPIRY.unknown("no answer", "renew it").about("192.0.2.12:6443"),
        ];
        let report = report("1", found);
        let expected = "\
apivip-audit 1

cluster -> API server
  pass               apiserver-certificate-issuer 192.0.2.11:6443 and 2 more   of the cluster's CA
  fail      high     apiserver-certificate-expiry 192.0.2.11:6443              expired 2 h ago
  unknown   high     apiserver-certificate-expiry 192.0.2.12:6443              no answer
                                                                               -> renew it

tunnels from the API server to nodes
  pass               tunnel-ssh   none is configured

4 pass, 1 unknown, 1 fail (1 high, 0 medium, 0 low); for details of a finding run apivip-audit --explain apiserver-certificate-expiry
";
        assert_eq!(text(&report, Style::default()), expected);
        assert!(text(&report, Style { colour: true, wide: false }).contains("\x1b[31mhigh  \x1b[0m"));
        assert!(text(&report, Style { colour: false, wide: true }).contains("is valid: expired 2 h ago"));
        assert_eq!(report.worst(), Some(Severity::High));
    }

    #[test]
    fn explanation_has_short_lines() {
        let text = explain(&apiserver::CIPHERS);
        assert!(text.starts_with("apiserver-tls-ciphers (cluster -> API server, medium severity)\n"));
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }

    #[test]
    fn each_verdict_has_its_sarif_kind() {
        let found = vec![
            apiserver::ISSUER.pass("ok").about("192.0.2.11:6443"),
            apiserver::EXPIRY.fail("expired"),
            apiserver::CIPHERS.fail("weak").with_severity(Severity::Low),
            proxy::SSH.unknown("why", "what"),
        ];
        let document = sarif(&report("1", found));
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
