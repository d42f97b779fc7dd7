//! Which way connections take, in `apivip status`.

use serde::{Deserialize, Serialize};

use crate::model::report::{Report, TrafficPath};
use crate::proxy::{Origin, Stats};

/// Which way new connections take.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PathStatus {
    /// `nftables`, `forwarder`, or `none` before the first of them.
    pub in_use: String,
    /// Whether the table belongs to the daemon, so that no other program can change it.
    pub table_owned: bool,
    /// Seconds since then.
    pub since_seconds: u64,
    /// Why it is this one.
    pub reason: Option<String>,
    /// It is the forwarder, and nobody chose that: rules are not taken.
    #[serde(default)]
    pub stands_in: bool,
    /// Connections that the forwarder carries, through virtual IPs and `--listen`.
    pub forwarder_connections: u64,
    /// It takes no more connections: there are as many as may be, or no descriptor is left.
    pub accept_paused: bool,
    /// Some of them began while the forwarder was in use, and go on though rules serve new ones.
    pub draining: bool,
}

impl PathStatus {
    pub(super) fn new(report: &Report, stats: &Stats) -> Self {
        let path = report.path.as_ref();
        Self {
            table_owned: report.owned,
            in_use: path.map_or(TrafficPath::None, |path| path.in_use).label().to_owned(),
            since_seconds: path.map_or(0, |path| path.since.elapsed().as_secs()),
            reason: path.and_then(|path| path.reason.as_deref()).map(str::to_owned),
            stands_in: path.is_some_and(|path| path.fallback_active),
            forwarder_connections: Origin::ALL.into_iter().map(|origin| stats.open(origin)).sum(),
            accept_paused: stats.accept_paused(),
            draining: path.is_some_and(|path| path.draining),
        }
    }
}
