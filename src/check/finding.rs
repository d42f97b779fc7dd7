//! What a check says. Pure.

use serde::Serialize;

/// What a check comes to, from the best to the worst that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing has to be done.
    Info,
    /// It cannot be known here.
    Unknown,
    /// Something is lost, or may go wrong.
    Warning,
    /// apivip does not work with it.
    Fail,
}

impl Verdict {
    /// Each, in order.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Info, Self::Unknown, Self::Warning, Self::Fail];

    /// The word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Info => "info",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Fail => "fail",
        }
    }
}

/// What belongs together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// What this process may do.
    Privileges,
    /// What the kernel can.
    Kernel,
    /// How it is set.
    Settings,
    /// The virtual IPs on this node.
    VirtualIp,
    /// Other programs.
    Neighbours,
    /// Ways around netfilter.
    Bypass,
    /// The API.
    Api,
    /// apivip itself.
    Apivip,
}

impl Group {
    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Privileges => "privileges of this process",
            Self::Kernel => "kernel, tried in a network namespace of its own",
            Self::Settings => "kernel settings",
            Self::VirtualIp => "virtual IP on this node",
            Self::Neighbours => "other programs",
            Self::Bypass => "ways around netfilter",
            Self::Api => "Kubernetes API",
            Self::Apivip => "apivip on this node",
        }
    }
}

/// One thing that is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Check {
    /// Names it for good.
    pub id: &'static str,
    /// Where it belongs.
    pub group: Group,
    /// What is asked, in a few words.
    pub title: &'static str,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's.
    pub id: &'static str,
    /// The check's.
    pub group: Group,
    /// The check's.
    pub title: &'static str,
    /// What it was about, where a check looks at several things: an address, a permission.
    pub subject: Option<String>,
    /// What it comes to.
    pub verdict: Verdict,
    /// What was seen.
    pub evidence: String,
    /// What mends it, or lets it be known.
    pub mend: Option<String>,
}

impl Check {
    /// All is well.
    pub fn ok(&self, evidence: impl Into<String>) -> Finding {
        self.finding(Verdict::Ok, evidence.into(), None)
    }

    /// Nothing has to be done.
    pub fn info(&self, evidence: impl Into<String>) -> Finding {
        self.finding(Verdict::Info, evidence.into(), None)
    }

    /// What would let it be known is part of it.
    pub fn unknown(&self, why: impl Into<String>, needed: impl Into<String>) -> Finding {
        self.finding(Verdict::Unknown, why.into(), Some(needed.into()))
    }

    /// Something is lost or may go wrong.
    pub fn warning(&self, evidence: impl Into<String>, mend: impl Into<String>) -> Finding {
        self.finding(Verdict::Warning, evidence.into(), Some(mend.into()))
    }

    /// It does not work.
    pub fn fail(&self, evidence: impl Into<String>, mend: impl Into<String>) -> Finding {
        self.finding(Verdict::Fail, evidence.into(), Some(mend.into()))
    }

    fn finding(&self, verdict: Verdict, evidence: String, mend: Option<String>) -> Finding {
        let Self { id, group, title } = *self;
        #[cfg(test)]
        super::mends::must_begin_with_a_command(id, mend.as_deref());
        Finding { id, group, title, subject: None, verdict, evidence, mend }
    }
}

impl Finding {
    /// The same, with what one may do about it.
    #[must_use]
    pub fn mended_by(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        #[cfg(test)]
        super::mends::must_begin_with_a_command(self.id, self.mend.as_deref());
        self
    }

    /// The same, about one of several things.
    #[must_use]
    pub fn about(mut self, subject: impl ToString) -> Self {
        self.subject = Some(subject.to_string());
        self
    }
}

/// All that was found, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version and commit of the program.
    pub version: &'static str,
    /// The worst verdict.
    pub verdict: Verdict,
    /// How many findings there are of each verdict.
    pub counts: Counts,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "each is the verdict of that name")]
pub struct Counts {
    pub ok: usize,
    pub info: usize,
    pub unknown: usize,
    pub warning: usize,
    pub fail: usize,
}

impl Report {
    /// Puts them in order: by group, within it as they were found.
    pub fn new(version: &'static str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.group);
        let of = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
        let counts = Counts {
            ok: of(Verdict::Ok),
            info: of(Verdict::Info),
            unknown: of(Verdict::Unknown),
            warning: of(Verdict::Warning),
            fail: of(Verdict::Fail),
        };
        let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
        Self { version, verdict, counts, findings }
    }
}
