//! What an audit says. Pure.

use serde::Serialize;

/// What a check comes to. Nothing is guessed: what cannot be known here is [`Verdict::Unknown`], and why is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is as it should be.
    Pass,
    /// It cannot be known here.
    Unknown,
    /// It is not as it should be.
    Fail,
}

impl Verdict {
    /// The word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Unknown => "unknown",
            Self::Fail => "fail",
        }
    }
}

/// How much a failure matters to a cluster whose networks are not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It helps an attacker who has got in by another way.
    Low,
    /// It opens a way for somebody who is in the middle, or holds credentials of some kind.
    Medium,
    /// Somebody on the network can read or change what is not theirs.
    High,
}

impl Severity {
    /// The word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// A way by which control plane and node talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Nodes and Pods to the apiservers.
    Apiserver,
    /// The apiservers to this node's kubelet.
    Kubelet,
    /// The apiservers to nodes, Pods and Services, as a proxy for a client.
    Proxy,
    /// What carries the apiservers' connections to nodes.
    Tunnel,
    /// The virtual IP on this node.
    Redirect,
}

impl Way {
    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Apiserver => "cluster -> apiserver",
            Self::Kubelet => "apiserver -> kubelet",
            Self::Proxy => "apiserver -> nodes, pods and services, as a proxy",
            Self::Tunnel => "tunnels from the apiserver to nodes",
            Self::Redirect => "the redirect of the virtual IP",
        }
    }
}

/// One question of the audit. All of them are in [`super::catalogue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Names it for good.
    pub id: &'static str,
    /// Which way it is about.
    pub way: Way,
    /// What is asked, in a few words.
    pub title: &'static str,
    /// How much a failure matters.
    pub severity: Severity,
    /// What is true by default, and what may come of it.
    pub background: &'static str,
    /// What to set.
    pub setting: &'static str,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's.
    pub id: &'static str,
    /// The check's.
    #[serde(rename = "path")]
    pub way: Way,
    /// The check's.
    pub title: &'static str,
    /// What it was about, where a check looks at several things: an address, a subject.
    pub subject: Option<String>,
    /// What it comes to.
    pub verdict: Verdict,
    /// The check's, or what this failure deserves.
    pub severity: Severity,
    /// What was seen; for what is unknown, why.
    pub evidence: String,
    /// What mends a failure, or lets an unknown be known.
    pub mend: Option<String>,
}

impl Way {
    /// A check of this way.
    pub const fn check(
        self,
        id: &'static str,
        severity: Severity,
        title: &'static str,
        background: &'static str,
        setting: &'static str,
    ) -> Check {
        Check { id, way: self, title, severity, background, setting }
    }
}

impl Check {
    /// It is as it should be.
    pub fn pass(&self, evidence: impl Into<String>) -> Finding {
        self.finding(Verdict::Pass, evidence.into(), None)
    }

    /// Why it cannot be known, and what permission or file would let it be.
    pub fn unknown(&self, why: impl Into<String>, needed: impl Into<String>) -> Finding {
        self.finding(Verdict::Unknown, why.into(), Some(needed.into()))
    }

    /// It is not; the check's own setting mends it.
    pub fn fail(&self, evidence: impl Into<String>) -> Finding {
        self.finding(Verdict::Fail, evidence.into(), Some(self.setting.to_owned()))
    }

    fn finding(&self, verdict: Verdict, evidence: String, mend: Option<String>) -> Finding {
        let Self { id, way, title, severity, .. } = *self;
        let mend = mend.map(|mend| plain(&mend));
        Finding { id, way, title, subject: None, verdict, severity, evidence: plain(&evidence), mend }
    }
}

impl Finding {
    /// Whether it says the same, of whatever it is about.
    pub fn is_like(&self, other: &Self) -> bool {
        let said = |finding: &Self| {
            (finding.id, finding.verdict, finding.severity, finding.evidence.clone(), finding.mend.clone())
        };
        said(self) == said(other)
    }

    /// The same, about one of several things.
    #[must_use]
    pub fn about(mut self, subject: impl ToString) -> Self {
        self.subject = Some(plain(&subject.to_string()));
        self
    }

    /// The same, with a mend for this very case.
    #[must_use]
    pub fn mended_by(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(plain(&mend.into()));
        self
    }

    /// The same, as grave as this very case is.
    #[must_use]
    pub fn of(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }
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

/// All that was found, in the order of the ways and of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version and commit of the program.
    pub version: &'static str,
    /// How many findings there are of each verdict.
    pub counts: Counts,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "each is the verdict of that name")]
pub struct Counts {
    pub pass: usize,
    pub unknown: usize,
    pub fail: usize,
}

impl Report {
    /// Puts them in order.
    pub fn new(version: &'static str, mut findings: Vec<Finding>) -> Self {
        let place = |finding: &Finding| super::catalogue::all().position(|check| check.id == finding.id);
        findings.sort_by_key(|finding| (finding.way, place(finding)));
        let of = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
        let counts =
            Counts { pass: of(Verdict::Pass), unknown: of(Verdict::Unknown), fail: of(Verdict::Fail) };
        Self { version, counts, findings }
    }

    /// The gravest failure.
    pub fn worst(&self) -> Option<Severity> {
        let failures = self.findings.iter().filter(|finding| finding.verdict == Verdict::Fail);
        failures.map(|finding| finding.severity).max()
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::apiserver::ISSUER;

    proptest::proptest! {
        #[test]
        fn whatever_a_server_writes_is_shown_on_one_line(evidence: String, subject in "[\\x00-\\x7f\u{202e}]{0,2000}") {
            let finding = ISSUER.fail(evidence).about(subject);
            let shown = [finding.evidence, finding.subject.unwrap_or_default()].concat();
            proptest::prop_assert!(shown.chars().count() < 1500);
            let hidden = shown.contains(|c: char| c.is_control() || c == '\u{202e}');
            proptest::prop_assert!(!hidden);
        }
    }
}
