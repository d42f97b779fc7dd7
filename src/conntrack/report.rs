//! What became of the flows of a backend. Values only.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use super::Purpose;
use crate::model::types::Backend;

/// How one order went. Times count from the moment that the order was taken up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// The backend.
    pub backend: Backend,
    /// What was done, by the strongest order that this tells of.
    pub purpose: Purpose,
    /// When the order was taken up.
    #[serde(skip)]
    pub started: Instant,
    /// Entries without an answer from the backend that were deleted, so that the client's next SYN goes elsewhere.
    pub syn_sent: u64,
    /// Open flows found at first, and when the order was given again.
    pub flows: u64,
    /// Flows whose clients were asked, each counted once.
    pub asked: u64,
    /// Those of them that had ended by the time that the asking was over.
    pub ended: u64,
    /// Packets sent to clients.
    pub nudged: u64,
    /// Resets of our own sent to clients, where the order asked for them.
    pub resets: u64,
    /// Rounds of nudging.
    pub rounds: u32,
    /// Sockets of this host that were destroyed.
    pub sockets: u64,
    /// Open flows at the end, by reason.
    pub remaining: BTreeMap<Remaining, u64>,
    /// Until conntrack had been read for the first time.
    #[serde(serialize_with = "milliseconds")]
    pub found_after: Duration,
    /// Until every flow found at first had been nudged, or its socket destroyed.
    #[serde(serialize_with = "milliseconds")]
    pub nudged_after: Duration,
    /// Until the last flow was seen to have ended.
    #[serde(serialize_with = "milliseconds")]
    pub last_ended: Duration,
    /// All of it.
    #[serde(serialize_with = "milliseconds")]
    pub took: Duration,
    /// The order was cancelled: the backend is up again.
    pub cancelled: bool,
    /// What could not be used, if anything.
    pub degraded: Option<String>,
}

impl FlowReport {
    /// A report of nothing yet, for an order that is taken up now.
    pub(crate) fn new(backend: Backend, purpose: Purpose) -> Self {
        Self {
            backend,
            purpose,
            started: Instant::now(),
            syn_sent: 0,
            flows: 0,
            asked: 0,
            ended: 0,
            nudged: 0,
            resets: 0,
            rounds: 0,
            sockets: 0,
            remaining: BTreeMap::new(),
            found_after: Duration::ZERO,
            nudged_after: Duration::ZERO,
            last_ended: Duration::ZERO,
            took: Duration::ZERO,
            cancelled: false,
            degraded: None,
        }
    }
}

/// Why a flow was left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remaining {
    /// Nudging needs CAP_NET_RAW, and the client's next packet has not come.
    NotPermitted,
    /// The node's own output policy drops nudges, and there was no way around it.
    OutputPolicy,
    /// The node has no route to the client.
    NoRoute,
    /// The client did not answer: it drops INVALID, is gone, or stands behind a second NAT.
    NoAnswer,
    /// The rate, or the client's own limit of answers, did not let it happen within the bound.
    OutOfTime,
}

impl Remaining {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::NotPermitted, Self::OutputPolicy, Self::NoRoute, Self::NoAnswer, Self::OutOfTime];

    /// The reason as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotPermitted => "not-permitted",
            Self::OutputPolicy => "output-policy",
            Self::NoRoute => "no-route",
            Self::NoAnswer => "no-answer",
            Self::OutOfTime => "out-of-time",
        }
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Serialize for Remaining {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_differ() {
        let labels: std::collections::BTreeSet<_> = Remaining::ALL.map(Remaining::label).into();
        assert_eq!(labels.len(), Remaining::ALL.len());
    }

    #[test]
    fn a_report_is_json_with_milliseconds() {
        let mut report = FlowReport::new("192.0.2.11:6443".parse().unwrap(), Purpose::Ask);
        report.took = Duration::from_micros(12_345);
        report.remaining.insert(Remaining::NoAnswer, 2);
        let json = serde_json::to_value(report).unwrap();
        assert_eq!(json["took"], 12.345);
        assert_eq!(json["purpose"], "ask");
        assert_eq!(json["remaining"]["no-answer"], 2);
    }
}
