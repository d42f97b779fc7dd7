//! Findings and reports of `apivip check` and `apivip-audit`, and their text for people. Pure.
//!
//! In: what the checks of either command found. Out: a [`Report`], which serialises to the documented JSON and YAML, and its
//! [`text`]: a block for each section, with aligned columns.

use std::fmt::Write;

use serde::{Serialize, Serializer};

use crate::columns::{Cell, Colour, Columns};

/// The result of a check, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be, in an audit.
    Pass,
    /// As it should be, in a check.
    Ok,
    /// Worth knowing; nothing has to be done.
    Info,
    /// It cannot be known here, and the evidence says why. Nothing is guessed.
    Unknown,
    /// Something is lost, or may go wrong.
    Warning,
    /// apivip does not work with it; in an audit: it is not safe.
    Fail,
}

impl Verdict {
    pub fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Fail => "fail",
        }
    }
}

/// How much a failure of an audit matters to a cluster whose networks are not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It helps an attacker who has got in by another way.
    Low,
    /// It helps an attacker who is in the middle, or holds credentials of some kind.
    Medium,
    /// An attacker on the network can read or change what is not theirs.
    High,
}

impl Severity {
    pub fn label(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// A part of a check's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// Capabilities of this process.
    Privileges,
    /// Features of this kernel.
    Kernel,
    /// Sysctls and conntrack's table.
    Settings,
    /// The virtual IPs on this node.
    VirtualIp,
    /// Programs that redirect, filter or take over packets to the virtual IP.
    OtherPrograms,
    /// Ways by which packets bypass netfilter.
    Bypass,
    /// Access to the API.
    Api,
    /// The daemon and its table.
    Apivip,
}

/// A connection path between control plane and node: a part of an audit's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionPath {
    /// Nodes and Pods to the apiservers.
    Apiserver,
    /// The apiservers to this node's kubelet.
    Kubelet,
    /// The apiservers to nodes, Pods and Services, as a proxy for a client.
    Proxy,
    /// Tunnels that carry the apiservers' connections to nodes.
    Tunnel,
    /// The virtual IP on this node.
    Redirect,
}

/// A part of a report with a heading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// Of a check.
    Group(Group),
    /// Of an audit.
    Path(ConnectionPath),
}

impl Section {
    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Group(Group::Privileges) => "privileges of this process",
            Self::Group(Group::Kernel) => "kernel features, tested in a separate network namespace",
            Self::Group(Group::Settings) => "kernel settings",
            Self::Group(Group::VirtualIp) => "virtual IP on this node",
            Self::Group(Group::OtherPrograms) => "other programs",
            Self::Group(Group::Bypass) => "paths that bypass netfilter",
            Self::Group(Group::Api) => "Kubernetes API",
            Self::Group(Group::Apivip) => "apivip on this node",
            Self::Path(ConnectionPath::Apiserver) => "cluster -> API server",
            Self::Path(ConnectionPath::Kubelet) => "API server -> kubelet",
            Self::Path(ConnectionPath::Proxy) => "API server -> nodes, Pods and Services, as a proxy",
            Self::Path(ConnectionPath::Tunnel) => "tunnels from the API server to nodes",
            Self::Path(ConnectionPath::Redirect) => "redirection of the virtual IP",
        }
    }
}

/// One question of `apivip check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// A stable name.
    pub id: &'static str,
    pub group: Group,
    /// The question, in a few words.
    pub title: &'static str,
}

impl Check {
    pub fn ok(&self, evidence: impl Into<String>) -> Finding {
        self.finding(Verdict::Ok, evidence.into(), None)
    }

    pub fn info(&self, evidence: impl Into<String>) -> Finding {
        self.finding(Verdict::Info, evidence.into(), None)
    }

    /// `needed`: a command that lets it be known.
    pub fn unknown(&self, why: impl Into<String>, needed: impl Into<String>) -> Finding {
        self.finding(Verdict::Unknown, why.into(), Some(needed.into()))
    }

    pub fn warning(&self, evidence: impl Into<String>, fix: impl Into<String>) -> Finding {
        self.finding(Verdict::Warning, evidence.into(), Some(fix.into()))
    }

    pub fn fail(&self, evidence: impl Into<String>, fix: impl Into<String>) -> Finding {
        self.finding(Verdict::Fail, evidence.into(), Some(fix.into()))
    }

    fn finding(&self, verdict: Verdict, evidence: String, fix: Option<String>) -> Finding {
        let Self { id, group, title } = *self;
        let section = Section::Group(group);
        #[cfg(test)]
        tests::assert_fix_is_a_command(id, fix.as_deref());
        Finding { id, section, title, subject: None, verdict, severity: None, evidence, fix }
    }
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's stable name.
    pub id: &'static str,
    #[serde(flatten)]
    pub section: Section,
    /// The check's question.
    pub title: &'static str,
    /// The address, permission or user, where a check looks at several.
    pub subject: Option<String>,
    pub verdict: Verdict,
    /// How much a failure matters; in an audit only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// What was observed; if that is unknown, why.
    pub evidence: String,
    /// How to fix it, or what lets it be known.
    pub fix: Option<String>,
}

impl Finding {
    /// The same finding with another fix.
    #[must_use]
    pub fn with_fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        #[cfg(test)]
        if matches!(self.section, Section::Group(_)) {
            tests::assert_fix_is_a_command(self.id, self.fix.as_deref());
        }
        self
    }

    /// The same finding about one of several subjects.
    #[must_use]
    pub fn about(mut self, subject: impl ToString) -> Self {
        self.subject = Some(subject.to_string());
        self
    }

    /// The same finding with the severity of this very case.
    #[must_use]
    pub fn with_severity(mut self, severity: Severity) -> Self {
        self.severity = Some(severity);
        self
    }

    /// Whether both say the same, whatever their subjects.
    fn is_like(&self, other: &Self) -> bool {
        (self.id, self.verdict, self.severity, &self.evidence, &self.fix)
            == (other.id, other.verdict, other.severity, &other.evidence, &other.fix)
    }
}

/// All findings of one run, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version and commit of the program.
    pub version: &'static str,
    /// The worst verdict; in a check only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    pub counts: Counts,
    pub findings: Vec<Finding>,
}

/// How many findings there are of each verdict that the command knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(Vec<(Verdict, usize)>);

impl Counts {
    fn new(verdicts: &[Verdict], findings: &[Finding]) -> Self {
        let count = |verdict: &Verdict| findings.iter().filter(|finding| finding.verdict == *verdict).count();
        Self(verdicts.iter().map(|verdict| (*verdict, count(verdict))).collect())
    }

    fn words(&self) -> String {
        let words: Vec<String> =
            self.0.iter().map(|(verdict, count)| format!("{count} {}", verdict.label())).collect();
        words.join(", ")
    }
}

impl Serialize for Counts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(verdict, count)| (verdict.label(), count)))
    }
}

impl Report {
    /// The report of a check: by group, within it in the order in which things were found.
    pub fn of_check(version: &'static str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.section);
        let verdicts = [Verdict::Ok, Verdict::Info, Verdict::Unknown, Verdict::Warning, Verdict::Fail];
        let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
        Self { version, verdict: Some(worst), counts: Counts::new(&verdicts, &findings), findings }
    }

    /// The report of an audit, of findings in order.
    pub fn of_audit(version: &'static str, findings: Vec<Finding>) -> Self {
        let verdicts = [Verdict::Pass, Verdict::Unknown, Verdict::Fail];
        Self { version, verdict: None, counts: Counts::new(&verdicts, &findings), findings }
    }

    /// Whether it has a finding of this verdict, or of a worse one.
    pub fn has(&self, least: Verdict) -> bool {
        self.findings.iter().any(|finding| finding.verdict >= least)
    }

    /// The severest failure of an audit.
    pub fn worst(&self) -> Option<Severity> {
        self.failures().filter_map(|finding| finding.severity).max()
    }

    fn failures(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.verdict == Verdict::Fail)
    }
}

/// How a report is written for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// With the verdicts in colour.
    pub colour: bool,
    /// With the question of each check.
    pub wide: bool,
}

/// The report for people.
pub fn text(report: &Report, style: Style) -> String {
    let program = if report.verdict.is_some() { "apivip" } else { "apivip-audit" };
    let mut out = format!("{program} {}\n", report.version);
    for section in report.findings.chunk_by(|a, b| a.section == b.section) {
        let title = section.first().map_or("", |finding| finding.section.title());
        // Writing to a string does not fail.
        let _ = write!(out, "\n{title}\n{}", block(section, style));
    }
    let _ = writeln!(out, "\n{}{}", report.counts.words(), severities(report));
    out
}

/// The end of an audit's last line: its failures by severity, and how to learn more about the worst.
fn severities(report: &Report) -> String {
    if report.verdict.is_some() {
        return String::new();
    }
    let failed = |severity| report.failures().filter(|finding| finding.severity == Some(severity)).count();
    let mut text = format!(
        " ({} high, {} medium, {} low)",
        failed(Severity::High),
        failed(Severity::Medium),
        failed(Severity::Low)
    );
    if let Some(worst) = report.failures().find(|finding| finding.severity == report.worst()) {
        let _ = write!(text, "; for details of a finding run apivip-audit --explain {}", worst.id);
    }
    text
}

fn block(section: &[Finding], style: Style) -> Columns {
    let mut columns = Columns::new(2, style.colour);
    // Findings of an audit that differ only in their subject are one row.
    let rows: Vec<&[Finding]> = section.chunk_by(|a, b| a.severity.is_some() && a.is_like(b)).collect();
    for (at, row) in rows.iter().enumerate() {
        let Some(finding) = row.first() else { continue };
        let question = if style.wide { format!("{}: ", finding.title) } else { String::new() };
        let mut cells = verdict_cells(finding);
        let before = cells.len();
        cells.push(name(row).into());
        cells.push(format!("{question}{}", finding.evidence).into());
        columns.push(cells);
        // The fix of several rows is written once, below the last of them.
        let next = rows.get(at + 1).and_then(|next| next.first()?.fix.as_ref());
        if let Some(fix) = finding.fix.as_ref().filter(|fix| next != Some(fix)) {
            let empty = (0..=before).map(|_| Cell::from(""));
            columns.push(empty.chain([Cell::from(format!("-> {fix}"))]));
        }
    }
    columns
}

/// The check, and its subjects.
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

/// The verdict, and in an audit the severity, each as wide as the longest word, so that all blocks align.
fn verdict_cells(finding: &Finding) -> Vec<Cell> {
    let word = format!("{:<7}", finding.verdict.label());
    let verdict = match finding.verdict {
        Verdict::Pass | Verdict::Ok => Cell::coloured(word, Colour::Good),
        Verdict::Info => word.into(),
        Verdict::Unknown | Verdict::Warning => Cell::coloured(word, Colour::Doubtful),
        Verdict::Fail => Cell::coloured(word, Colour::Bad),
    };
    let Some(severity) = finding.severity else { return vec![verdict] };
    let word = format!("{:<6}", severity.label());
    let severity = match (finding.verdict, severity) {
        (Verdict::Pass, _) => format!("{:<6}", "").into(),
        (Verdict::Fail, Severity::High) => Cell::coloured(word, Colour::Bad),
        (Verdict::Fail, _) => Cell::coloured(word, Colour::Doubtful),
        _ => word.into(),
    };
    vec![verdict, severity]
}

#[cfg(test)]
pub(super) mod tests;
