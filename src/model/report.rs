//! What the reconciler tells the rest of the daemon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::model::desired::{DesiredState, Hold};
use crate::model::health::{Cue, FailReason, HealthView, State};
use crate::model::types::Backend;

/// Whether the kernel has what it should have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The API has not been read yet; what an earlier daemon programmed still stands.
    #[default]
    Starting,
    /// The API was read, but nothing in it can be programmed, and this daemon has not programmed anything yet.
    Waiting,
    /// The kernel has the desired state.
    Programmed,
    /// The kernel has the desired state, but not the routes or routing rules that go with it.
    Unrouted,
    /// The forwarder serves the virtual IPs in place of rules.
    Forwarding,
    /// The kernel refused the desired state; the last good one still stands.
    Failed,
}

/// Which way new connections to the virtual IPs take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InUse {
    /// None that this daemon made.
    #[default]
    None,
    /// Rules in nf_tables.
    Nftables,
    /// The daemon's own forwarder.
    Forwarder,
}

impl InUse {
    /// The label in status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Nftables => "nftables",
            Self::Forwarder => "forwarder",
        }
    }
}

/// The way of new connections, and why.
#[derive(Clone, Debug)]
pub struct PathReport {
    /// The way.
    pub in_use: InUse,
    /// Since when.
    pub since: Instant,
    /// Why it is this one.
    pub reason: Option<Arc<str>>,
    /// The forwarder is in use, and nobody chose it: rules are not taken.
    pub stands_in: bool,
    /// The forwarder still carries connections that began while it was in use.
    pub draining: bool,
}

/// What others changed and the daemon made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repaired {
    /// The table.
    Table,
    /// Routes or routing rules.
    Routes,
}

impl Repaired {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Table, Self::Routes];

    /// The label in status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Routes => "routes",
        }
    }
}

/// One repair.
#[derive(Clone, Debug)]
pub struct Repair {
    /// Of what.
    pub what: Repaired,
    /// When the change was noticed.
    pub at: Instant,
    /// How: a label.
    pub found: &'static str,
    /// Transactions of others that it put right, as far as the kernel told of them.
    pub changes: u64,
    /// Who made them, as far as the kernel said.
    pub by: Option<String>,
}

/// Repairs since the start.
#[derive(Clone, Debug, Default)]
pub struct Repairs {
    /// How many.
    pub total: u64,
    /// The latest ones, newest first.
    pub latest: Vec<Repair>,
}

/// A change of a backend's state, and what followed from it.
#[derive(Clone, Debug)]
pub struct Transition {
    /// Whose.
    pub backend: Backend,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why its latest probe failed, if it did.
    pub reason: Option<FailReason>,
    /// The first sign of it.
    pub cue: Cue,
    /// When it was decided.
    pub at: Instant,
    /// From the first sign to the decision.
    pub decision: Duration,
    /// From the decision to the commit.
    pub commit: Duration,
    /// What became of the backend's flows, once that is known and where they were to end.
    pub ended: Option<Ended>,
}

/// The end of a backend's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// From the order to the end of the last one that ended.
    pub took: Duration,
    /// How many there were.
    pub flows: u64,
    /// How many of them could not be ended.
    pub remaining: u64,
}

/// The state of the reconciler after its latest step.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whether the kernel has what it should have.
    pub phase: Phase,
    /// What this step looked at; `None` before the first.
    pub view: Option<HealthView>,
    /// Which way connections take; `None` before the first step.
    pub path: Option<PathReport>,
    /// What is programmed, or forwarded.
    pub programmed: Option<Arc<DesiredState>>,
    /// Whether no other program may change the rules.
    pub owned: bool,
    /// What others changed.
    pub repairs: Arc<Repairs>,
    /// The latest changes of backends' states, newest first.
    pub transitions: Arc<Vec<Transition>>,
    /// What is kept although the API no longer says so.
    pub holds: Vec<Hold>,
    /// Why the phase is [`Phase::Failed`] or [`Phase::Unrouted`].
    pub last_error: Option<String>,
}
