//! The verdict about a daemon and what it serves, and the severity of the problems from which it follows. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How much a problem matters, the most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// New connections to a virtual IP are not expected to succeed, or the kernel refuses the rules.
    Critical,
    /// It needs attention, and connections are served.
    Warning,
}

/// The verdict about the whole. A closed set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// There is no problem.
    #[default]
    Healthy,
    /// There are problems, none of them critical.
    Degraded,
    /// There is a critical problem.
    Failing,
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Failing];

    /// The verdict that follows from problems of these severities.
    pub fn of(severities: impl IntoIterator<Item = Severity>) -> Self {
        match severities.into_iter().min() {
            None => Self::Healthy,
            Some(Severity::Warning) => Self::Degraded,
            Some(Severity::Critical) => Self::Failing,
        }
    }

    /// The label in status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Failing => "failing",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_severe_problem_decides() {
        use Severity::{Critical, Warning};
        assert_eq!(Verdict::of([]), Verdict::Healthy);
        assert_eq!(Verdict::of([Warning, Warning]), Verdict::Degraded);
        assert_eq!(Verdict::of([Warning, Critical, Warning]), Verdict::Failing);
    }

    #[test]
    fn label_is_the_name_in_json() {
        for verdict in Verdict::ALL {
            assert_eq!(serde_json::to_value(verdict).unwrap(), verdict.label());
        }
    }
}
