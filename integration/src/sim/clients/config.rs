//! What a run of clients is told.
//!
//! In: the arguments of the program. Out: how many connections of which kind, and where to.

use std::net::SocketAddr;
use std::time::Duration;

use super::timeline::Kind;
use crate::sim::load::config::TlsKind;

/// One run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where connections go, in turn.
    pub targets: Vec<SocketAddr>,
    /// Who the servers must be, and who the client is.
    pub tls: TlsKind,
    /// Time between two fresh connections; `None` opens none.
    pub fresh_every: Option<Duration>,
    /// What a fresh connection does.
    pub fresh: Fresh,
    /// The longest that a fresh connection may take from its first SYN to its last byte, and that a long-lived one
    /// may take to get through.
    pub timeout: Duration,
    /// How many long-lived connections of each kind.
    pub kept: Vec<(Kind, usize)>,
}

/// What a fresh connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// Connect.
    Tcp,
    /// Connect, verify the server, GET `/version`.
    Tls,
}

impl Config {
    /// The `index`-th connection's target.
    pub(super) fn target(&self, index: usize) -> SocketAddr {
        self.targets[index % self.targets.len()]
    }
}
