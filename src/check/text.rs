//! A report as text for people: a block for each group, columns that stand below each other. Pure.

use std::fmt::Write;

use super::finding::{Finding, Report, Verdict};
use crate::columns::{Cell, Columns, Paint};

/// How it is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Colour the verdicts.
    pub colour: bool,
    /// Say also what each check asks.
    pub wide: bool,
}

/// The text.
pub fn text(report: &Report, style: Style) -> String {
    let mut out = format!("apivip {}\n", report.version);
    for group in report.findings.chunk_by(|a, b| a.group == b.group) {
        let title = group.first().map_or("", |finding| finding.group.title());
        // Writing to a string does not fail.
        let _ = write!(out, "\n{title}\n{}", block(group, style));
    }
    let counts = report.counts;
    let _ = writeln!(
        out,
        "\n{} ok, {} info, {} unknown, {} warning, {} fail",
        counts.ok, counts.info, counts.unknown, counts.warning, counts.fail
    );
    out
}

fn block(group: &[Finding], style: Style) -> Columns {
    let mut columns = Columns::new(2, style.colour);
    for (at, finding) in group.iter().enumerate() {
        let asked = if style.wide { format!("{}: ", finding.title) } else { String::new() };
        columns.push([
            word(finding.verdict),
            name(finding).into(),
            format!("{asked}{}", finding.evidence).into(),
        ]);
        // What mends several in a row is said once, below them.
        let next = group.get(at + 1).and_then(|next| next.mend.as_ref());
        if let Some(mend) = finding.mend.as_ref().filter(|mend| next != Some(mend)) {
            columns.push(["".into(), "".into(), format!("-> {mend}").into()]);
        }
    }
    columns
}

fn name(finding: &Finding) -> String {
    match &finding.subject {
        Some(subject) => format!("{} {subject}", finding.id),
        None => finding.id.to_owned(),
    }
}

/// As wide as the longest, so that all blocks begin alike.
fn word(verdict: Verdict) -> Cell {
    let word = format!("{:<7}", verdict.label());
    match verdict {
        Verdict::Ok => Cell::painted(word, Paint::Good),
        Verdict::Info => word.into(),
        Verdict::Unknown | Verdict::Warning => Cell::painted(word, Paint::Doubtful),
        Verdict::Fail => Cell::painted(word, Paint::Bad),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::{Check, Group};
    use super::*;

    fn report() -> Report {
        let check = |id, group| Check { id, group, title: "asked" };
        let kernel = check("kernel-tun", Group::Kernel);
        let api = check("apiserver-tcp", Group::Api);
        let findings = vec![
            api.ok("round trip").about("192.0.2.11:6443"),
            kernel.ok("makes a tun device"),
            kernel.unknown("not tried", "modprobe tun"),
            kernel.warning("missing", "modprobe tun"),
        ];
        Report::new("1 (commit x)", findings)
    }

    #[test]
    fn columns_stand_below_each_other() {
        let expected = "\
apivip 1 (commit x)

kernel, tried in a network namespace of its own
  ok        kernel-tun   makes a tun device
  unknown   kernel-tun   not tried
  warning   kernel-tun   missing
                         -> modprobe tun

Kubernetes API
  ok        apiserver-tcp 192.0.2.11:6443   round trip

2 ok, 0 info, 1 unknown, 1 warning, 0 fail
";
        assert_eq!(text(&report(), Style::default()), expected);
        assert!(
            text(&report(), Style { colour: true, wide: false }).contains("\x1b[33mwarning\x1b[0m   kernel")
        );
        assert!(text(&report(), Style { colour: false, wide: true }).contains("  asked: missing\n"));
    }
}
