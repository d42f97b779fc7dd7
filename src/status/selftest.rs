//! What the daemon's own connections to the virtual IPs found, in `apivip status`.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::types::Vip;
use crate::selftest::{Component, ForwardedTraffic, SelfTestResult, SelfTestResults};

/// The latest test of one virtual IP and port.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SelfTestStatus {
    /// Address and port.
    pub vip: Vip,
    /// Whether it counts as answering: it was answered, and did not fail twice in a row since.
    pub ready: bool,
    /// Why the latest test failed; null if it was answered.
    pub failing: Option<String>,
    /// Failures in a row.
    pub failures: u32,
    /// How long the answer took, in microseconds.
    pub took_us: Option<u64>,
    /// Seconds since the latest test.
    pub seconds_ago: u64,
    /// Seconds since the latest answer.
    pub answered_seconds_ago: Option<u64>,
    /// Who took the connection: `rules`, `forwarder`, `neighbour-dnat`, `local-listener`, `below-netfilter`, `network`
    /// or `unknown`; `neighbour-reject` if one was rejected on its way to the forwarder; null if none came about.
    pub answered_by: Option<String>,
    /// The same as a sentence.
    pub explanation: Option<String>,
    /// To whom the connection was led, where that was seen.
    pub backend: Option<SocketAddr>,
    /// Whether connections of Pods and other hosts get further than this node: `open`, `blocked`, or `unseen` where too few came.
    #[serde(default)]
    pub others: Option<String>,
    /// So many came and none went on, if they are blocked.
    #[serde(default)]
    pub others_blocked: Option<u64>,
}

impl SelfTestStatus {
    pub(super) fn all(results: &SelfTestResults) -> Vec<Self> {
        results.iter().map(|(vip, latest)| Self::new(*vip, latest)).collect()
    }

    fn new(vip: Vip, latest: &SelfTestResult) -> Self {
        let micros = |took: Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        Self {
            vip,
            ready: latest.is_ready(),
            failing: latest.outcome.err().map(|failure| failure.label().to_owned()),
            failures: latest.failures,
            took_us: latest.outcome.ok().map(micros),
            seconds_ago: latest.at.elapsed().as_secs(),
            answered_seconds_ago: latest.answered.map(|at| at.elapsed().as_secs()),
            answered_by: latest.by.map(|by| by.label().to_owned()),
            explanation: latest.by.map(|by: Component| by.sentence().to_owned()),
            backend: latest.backend,
            others: Some(latest.others.label().to_owned()),
            others_blocked: match latest.others {
                ForwardedTraffic::Blocked(came) => Some(came),
                ForwardedTraffic::Open | ForwardedTraffic::Unseen => None,
            },
        }
    }

    /// Whether apivip took the connection, as far as one came about.
    pub fn is_ours(&self) -> bool {
        matches!(self.answered_by.as_deref(), Some("rules" | "forwarder") | None)
    }

    /// The result as a part of a sentence.
    pub fn result(&self) -> String {
        let backend = self.backend.map(|backend| format!(", {backend}")).unwrap_or_default();
        let by = self.answered_by.as_ref().map(|by| format!(" ({by}{backend})")).unwrap_or_default();
        let times =
            if self.failures > 1 { format!(" {} times in a row", self.failures) } else { String::new() };
        match (&self.failing, self.took_us) {
            (Some(reason), _) => format!("failed{times}: {reason}{by}"),
            (None, took) => format!("answered in {}{by}", super::milliseconds(took.unwrap_or(0))),
        }
    }
}
