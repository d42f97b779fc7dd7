//! What others changed and the daemon made again, in `apivip status`.

use serde::{Deserialize, Serialize};

use crate::model::report::{Repair, Repairs};

/// Repairs since the daemon started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RepairsStatus {
    /// How many there were.
    pub total: u64,
    /// The latest ones, newest first.
    pub latest: Vec<RepairStatus>,
}

/// One repair.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RepairStatus {
    /// `table` or `routes`.
    pub object: String,
    /// How long ago the change was noticed.
    pub seconds_ago: u64,
    /// `event`, `lost_events` or `check`.
    pub found: String,
    /// Transactions of others that were put right by it, as far as the kernel told of them.
    pub changes: u64,
    /// Who made them, as name and pid, as far as the kernel said.
    pub by: Option<String>,
}

impl RepairsStatus {
    pub(super) fn new(repairs: &Repairs) -> Self {
        let latest = repairs.latest.iter().map(|Repair { what, at, found, changes, by }| RepairStatus {
            object: what.label().to_owned(),
            seconds_ago: at.elapsed().as_secs(),
            found: (*found).to_owned(),
            changes: *changes,
            by: by.clone(),
        });
        Self { total: repairs.total, latest: latest.collect() }
    }
}
