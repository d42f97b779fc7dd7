//! A report as text for people: a block for each group, columns that stand below each other. Pure.

use std::fmt::Write;

use super::finding::{Finding, Report, Verdict};

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
    for block in report.findings.chunk_by(|a, b| a.group == b.group) {
        group(&mut out, block, style);
    }
    let counts = report.counts;
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "\n{} ok, {} info, {} unknown, {} warning, {} fail",
        counts.ok, counts.info, counts.unknown, counts.warning, counts.fail
    );
    out
}

/// One block, with columns of its own.
fn group(out: &mut String, block: &[Finding], style: Style) {
    let width = block.iter().map(|finding| name(finding).chars().count()).max().unwrap_or(0);
    let title = block.first().map_or("", |finding| finding.group.title());
    let _ = writeln!(out, "\n{title}");
    for finding in block {
        let verdict = word(finding.verdict, style.colour);
        let asked = if style.wide { format!("{}: ", finding.title) } else { String::new() };
        let _ = writeln!(out, "  {verdict} {:<width$}  {asked}{}", name(finding), finding.evidence);
        if let Some(mend) = &finding.mend {
            let _ = writeln!(out, "  {:<8} {:<width$}  -> {mend}", "", "");
        }
    }
}

fn name(finding: &Finding) -> String {
    match &finding.subject {
        Some(subject) => format!("{} {subject}", finding.id),
        None => finding.id.to_owned(),
    }
}

/// Padded to the longest of them, whatever the colour takes.
fn word(verdict: Verdict, colour: bool) -> String {
    let word = format!("{:<8}", verdict.label());
    let code = match verdict {
        _ if !colour => return word,
        Verdict::Ok => 32,
        Verdict::Info => 36,
        Verdict::Unknown => 35,
        Verdict::Warning => 33,
        Verdict::Fail => 31,
    };
    format!("\x1b[{code}m{word}\x1b[0m")
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
            kernel.warning("missing", "modprobe tun"),
        ];
        Report::new("1 (commit x)", findings)
    }

    #[test]
    fn columns_stand_below_each_other() {
        let expected = "\
apivip 1 (commit x)

kernel, tried in a network namespace of its own
  ok       kernel-tun  makes a tun device
  warning  kernel-tun  missing
                       -> modprobe tun

Kubernetes API
  ok       apiserver-tcp 192.0.2.11:6443  round trip

2 ok, 0 info, 0 unknown, 1 warning, 0 fail
";
        assert_eq!(text(&report(), Style::default()), expected);
        let coloured = text(&report(), Style { colour: true, wide: false });
        let plain: String = coloured.replace("\x1b[0m", "").replace("\x1b[32m", "").replace("\x1b[33m", "");
        assert_eq!(plain, expected);
        assert!(text(&report(), Style { colour: false, wide: true }).contains("  asked: missing\n"));
    }
}
