//! The histories of a run's connections, and what a judge asks of them.
//!
//! Pure but for the clock that both sides share. In: a program's output. Out: who failed, who waited and who was told.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use crate::sim::load::report::Reason;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// One of many short ones.
    Fresh,
    /// One small request over TLS, and nothing after its answer. A kube-apiserver closes a connection on which nothing was
    /// ever asked after 32 s, and this one after 90 s.
    Idle,
    /// A watch over TLS on which nothing happens.
    Watch,
    /// A watch whose client has said that it sends no more.
    HalfClosed,
    /// Large requests, one after the other.
    Upload,
    /// Large answers, one after the other.
    Download,
    /// Requests, one after the other, whether the earlier ones were answered or not: it never waits in silence.
    Pipelined,
}

/// How a connection ended, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// It did what it was for.
    Done,
    /// The server closed it.
    Closed,
    /// It failed.
    Failed(Reason),
}

/// The history of one connection. Times are milliseconds since the run began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// What it is for.
    pub kind: Kind,
    /// Where to.
    pub target: SocketAddr,
    /// The client's own address.
    pub local: Option<SocketAddr>,
    /// Its first SYN.
    pub started_ms: u64,
    /// When TCP got through.
    pub connected_ms: Option<u64>,
    /// The first word of the server.
    pub first_byte_ms: Option<u64>,
    /// Its last word, or the last word that it took.
    pub last_byte_ms: Option<u64>,
    /// The longest time between two of those.
    pub longest_gap_ms: u64,
    /// When it ended; `None` while it is open.
    pub ended_ms: Option<u64>,
    /// How it ended.
    pub end: Option<End>,
    /// The same in words.
    pub detail: String,
}

/// The histories of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// When the run began, by [`monotonic_us`].
    pub began_us: u64,
    /// Every connection, in the order of their beginning.
    pub connections: Vec<Connection>,
}

/// Microseconds of a clock that all processes of the machine share, and that nobody sets.
pub fn monotonic_us() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}

impl Connection {
    pub(super) fn new(kind: Kind, target: SocketAddr, started_ms: u64) -> Self {
        Self {
            kind,
            target,
            local: None,
            started_ms,
            connected_ms: None,
            first_byte_ms: None,
            last_byte_ms: None,
            longest_gap_ms: 0,
            ended_ms: None,
            end: None,
            detail: String::new(),
        }
    }

    /// Whether it ended otherwise than by doing what it was for.
    pub fn failed(&self) -> bool {
        matches!(self.end, Some(End::Closed | End::Failed(_)))
    }

    /// How long it took; `None` while it is open.
    pub fn took_ms(&self) -> Option<u64> {
        Some(self.ended_ms? - self.started_ms)
    }
}

impl Timeline {
    /// A moment of [`monotonic_us`] on this timeline; 0 where it lies before.
    pub fn at_ms(&self, moment_us: u64) -> u64 {
        moment_us.saturating_sub(self.began_us) / 1000
    }

    /// The fresh connections.
    pub fn fresh(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|connection| connection.kind == Kind::Fresh)
    }

    /// The long-lived connections.
    pub fn kept(&self) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(|connection| connection.kind != Kind::Fresh)
    }

    /// Fresh connections that had not got through before `fault_ms`, began in `from..until` (milliseconds after
    /// it), and failed. One that TCP had let through by then is an established one.
    pub fn failures(&self, fault_ms: u64, from: u64, until: u64) -> Vec<&Connection> {
        let range = fault_ms.saturating_add(from)..fault_ms.saturating_add(until);
        let new = |c: &&Connection| c.connected_ms.is_none_or(|at| at >= fault_ms);
        let within = |c: &&Connection| range.contains(&c.started_ms);
        self.fresh().filter(new).filter(within).filter(|c| c.failed()).collect()
    }

    /// The longest that a fresh connection which ended after `fault_ms` took, whatever became of it.
    pub fn longest_ms(&self, fault_ms: u64) -> u64 {
        let late = self.fresh().filter(|c| c.ended_ms.is_some_and(|end| end >= fault_ms));
        late.filter_map(Connection::took_ms).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(started: u64, connected: Option<u64>, ended: u64, end: End) -> Connection {
        let target = SocketAddr::from(([10, 96, 0, 1], 443));
        Connection {
            connected_ms: connected,
            ended_ms: Some(ended),
            end: Some(end),
            ..Connection::new(Kind::Fresh, target, started)
        }
    }

    #[test]
    fn what_was_let_through_before_the_fault_is_not_new() {
        let reset = End::Failed(Reason::Reset);
        let connections = vec![
            fresh(990, Some(995), 1500, reset),
            fresh(999, Some(1010), 1500, reset),
            fresh(1200, None, 1201, End::Failed(Reason::Refused)),
            fresh(1900, Some(1901), 4000, End::Done),
        ];
        let timeline = Timeline { began_us: 5_000_000, connections };
        let fault = timeline.at_ms(6_000_000);
        assert_eq!(fault, 1000);
        assert_eq!(timeline.failures(fault, 0, u64::MAX).len(), 1);
        assert_eq!(timeline.failures(fault, 500, u64::MAX).len(), 0);
        assert_eq!(timeline.longest_ms(fault), 2100);
    }
}
