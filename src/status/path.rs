//! Which way connections take, in `apivip status`.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use crate::forwarder::{Origin, Stats};
use crate::report::{InUse, Report};

/// Which way new connections take.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathStatus {
    /// `nftables`, `forwarder`, or `none` before the first of them.
    pub in_use: String,
    /// Whether the table belongs to the daemon, so that no other program can change it.
    pub table_owned: bool,
    /// Seconds since then.
    pub since_seconds: u64,
    /// Why it is the forwarder.
    pub reason: Option<String>,
    /// Connections that the forwarder carries, through virtual IPs and `--listen`.
    pub forwarder_connections: u64,
    /// Some of them began while the forwarder was in use, and go on though rules serve new ones.
    pub draining: bool,
}

impl PathStatus {
    pub(super) fn new(report: &Report, stats: &Stats) -> Self {
        let path = report.path.as_ref();
        Self {
            table_owned: report.owned,
            in_use: path.map_or(InUse::None, |path| path.in_use).label().to_owned(),
            since_seconds: path.map_or(0, |path| path.since.elapsed().as_secs()),
            reason: path.and_then(|path| path.reason.as_deref()).map(str::to_owned),
            forwarder_connections: Origin::ALL.into_iter().map(|origin| stats.open(origin)).sum(),
            draining: path.is_some_and(|path| path.draining),
        }
    }
}

/// Nothing, where rules do all the work.
impl Display for PathStatus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (count, since) = (self.forwarder_connections, super::duration(self.since_seconds));
        match &self.reason {
            Some(reason) => {
                writeln!(f, "{:<10} in use for {since}, {count} connections: {reason}", "forwarder")
            }
            None if self.draining => {
                writeln!(f, "{:<10} {count} connections drain; rules serve new ones", "forwarder")
            }
            None if count > 0 => writeln!(f, "{:<10} {count} connections", "forwarder"),
            None => Ok(()),
        }
    }
}
