//! A report, or one check, as text for people. Pure.

use std::fmt::Write;

use super::finding::{Check, Finding, Report, Severity, Verdict};
use crate::check::text::Style;
use crate::columns::{Cell, Columns, Paint};

/// Of a line of prose, in characters.
const WIDTH: usize = 100;

/// The text: a block for each path, in it a line for each finding, and what mends it below.
pub fn text(report: &Report, style: Style) -> String {
    let mut out = format!("apivip {}\n", report.version);
    for way in report.findings.chunk_by(|a, b| a.way == b.way) {
        let title = way.first().map_or("", |finding| finding.way.title());
        // Writing to a string does not fail.
        let _ = write!(out, "\n{title}\n{}", block(way, style));
    }
    let _ = writeln!(out, "\n{}", summary(report));
    out
}

fn summary(report: &Report) -> String {
    let counts = report.counts;
    let failed = |severity| {
        let failures = report.findings.iter().filter(|finding| finding.verdict == Verdict::Fail);
        failures.filter(|finding| finding.severity == severity).count()
    };
    let mut text = format!(
        "{} pass, {} unknown, {} fail ({} high, {} medium, {} low)",
        counts.pass,
        counts.unknown,
        counts.fail,
        failed(Severity::High),
        failed(Severity::Medium),
        failed(Severity::Low)
    );
    let mut failures = report.findings.iter().filter(|finding| finding.verdict == Verdict::Fail);
    if let Some(worst) = failures.find(|finding| Some(finding.severity) == report.worst()) {
        let _ = write!(text, "; background of a finding: apivip audit --explain {}", worst.id);
    }
    text
}

fn block(way: &[Finding], style: Style) -> Columns {
    let mut columns = Columns::new(2, style.colour);
    // What is the same of several addresses or subjects is one line.
    let rows: Vec<&[Finding]> = way.chunk_by(|a, b| a.is_like(b)).collect();
    for (at, row) in rows.iter().enumerate() {
        let Some(finding) = row.first() else { continue };
        let asked = if style.wide { format!("{}: ", finding.title) } else { String::new() };
        let [verdict, severity] = words(finding);
        columns.push([verdict, severity, name(row).into(), format!("{asked}{}", finding.evidence).into()]);
        // What mends several in a row is said once, below them.
        let next = rows.get(at + 1).and_then(|next| next.first()?.mend.as_ref());
        if let Some(mend) = finding.mend.as_ref().filter(|mend| next != Some(mend)) {
            columns.push(["".into(), "".into(), "".into(), format!("-> {mend}").into()]);
        }
    }
    columns
}

/// The check, and what it was about.
fn name(row: &[Finding]) -> String {
    let id = row.first().map_or("", |finding| finding.id);
    let subjects: Vec<&str> = row.iter().filter_map(|finding| finding.subject.as_deref()).collect();
    match subjects.as_slice() {
        [] => id.to_owned(),
        [first] => format!("{id} {first}"),
        [first, second] => format!("{id} {first}, {second}"),
        [first, rest @ ..] => format!("{id} {first} and {} more", rest.len()),
    }
}

/// Each as wide as the longest, so that all blocks begin alike. A severity is that of a failure.
fn words(finding: &Finding) -> [Cell; 2] {
    let word = format!("{:<7}", finding.verdict.label());
    let severity = format!("{:<6}", finding.severity.label());
    match finding.verdict {
        Verdict::Pass => [Cell::painted(word, Paint::Good), format!("{:<6}", "").into()],
        Verdict::Unknown => [Cell::painted(word, Paint::Doubtful), severity.into()],
        Verdict::Fail if finding.severity == Severity::High => {
            [Cell::painted(word, Paint::Bad), Cell::painted(severity, Paint::Bad)]
        }
        Verdict::Fail => [Cell::painted(word, Paint::Bad), Cell::painted(severity, Paint::Doubtful)],
    }
}

/// What there is to say of a check.
pub fn explain(check: &Check) -> String {
    format!(
        "{} ({}, {} severity)\n{}\n\n{}\n\nwhat to set:\n{}\n",
        check.id,
        check.way.title(),
        check.severity.label(),
        folded(check.title),
        folded(check.background),
        folded(check.setting)
    )
}

/// The same words in lines.
fn folded(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::super::catalogue::{apiserver, proxy};
    use super::*;

    #[test]
    fn columns_stand_below_each_other() {
        let found = vec![
            proxy::SSH.pass("none is configured"),
            apiserver::ISSUER.pass("of the cluster's CA").about("192.0.2.11:6443"),
            apiserver::ISSUER.pass("of the cluster's CA").about("192.0.2.12:6443"),
            apiserver::ISSUER.pass("of the cluster's CA").about("192.0.2.13:6443"),
            apiserver::EXPIRY.fail("expired 2 h ago").about("192.0.2.11:6443").mended_by("renew it"),
            apiserver::EXPIRY.unknown("no answer", "renew it").about("192.0.2.12:6443"),
        ];
        let report = Report::new("1", found);
        let expected = "\
apivip 1

cluster -> apiserver
  pass               apiserver-certificate-issuer 192.0.2.11:6443 and 2 more   of the cluster's CA
  fail      high     apiserver-certificate-expiry 192.0.2.11:6443              expired 2 h ago
  unknown   high     apiserver-certificate-expiry 192.0.2.12:6443              no answer
                                                                               -> renew it

tunnels from the apiserver to nodes
  pass               tunnel-ssh   none is configured

4 pass, 1 unknown, 1 fail (1 high, 0 medium, 0 low); background of a finding: apivip audit --explain apiserver-certificate-expiry
";
        assert_eq!(text(&report, Style::default()), expected);
        assert!(text(&report, Style { colour: true, wide: false }).contains("\x1b[31mhigh  \x1b[0m"));
        assert!(text(&report, Style { colour: false, wide: true }).contains("valid now: expired 2 h ago"));
        assert_eq!(report.worst(), Some(Severity::High));
    }

    #[test]
    fn a_check_is_explained_in_short_lines() {
        let text = explain(&apiserver::CIPHERS);
        assert!(text.starts_with("apiserver-tls-ciphers (cluster -> apiserver, medium severity)\n"));
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }
}
