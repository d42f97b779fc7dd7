//! What the reconciler reports to the rest of the daemon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::desired::{DesiredState, FailOpenReason};
use super::health::{FailReason, HealthState, HealthView, Trigger};
use super::types::Backend;

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

/// Which datapath serves new connections to the virtual IPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrafficPath {
    /// None of this daemon's.
    #[default]
    None,
    /// Rules in nf_tables.
    Nftables,
    /// The daemon's own forwarder.
    Forwarder,
}

impl TrafficPath {
    /// The label in status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Nftables => "nftables",
            Self::Forwarder => "forwarder",
        }
    }
}

/// The active datapath, and why it was chosen.
#[derive(Clone, Debug)]
pub struct TrafficPathReport {
    /// The datapath.
    pub in_use: TrafficPath,
    /// Since when.
    pub since: Instant,
    /// Why it is this one.
    pub reason: Option<Arc<str>>,
    /// The forwarder is active as a fallback: rules cannot be programmed.
    pub fallback_active: bool,
    /// The forwarder still carries connections that began while it was in use.
    pub draining: bool,
}

/// The object that other programs changed and the daemon repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairedObject {
    /// The table.
    Table,
    /// Routes or routing rules.
    Routes,
}

impl RepairedObject {
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
    pub what: RepairedObject,
    /// When the change was noticed.
    pub at: Instant,
    /// How it was detected: a label.
    pub found: &'static str,
    /// Transactions of other programs that it reverted, as far as the kernel reported them.
    pub changes: u64,
    /// The program that made them, as far as the kernel reported it.
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
pub struct HealthTransition {
    /// Whose.
    pub backend: Backend,
    /// The state before.
    pub from: HealthState,
    /// The state after.
    pub to: HealthState,
    /// Why its latest probe failed, if it did.
    pub reason: Option<FailReason>,
    /// The first sign of it.
    pub trigger: Trigger,
    /// When it was decided.
    pub at: Instant,
    /// From the first sign to the decision.
    pub decision: Duration,
    /// From the decision to the commit.
    pub commit: Duration,
    /// The result of terminating the backend's flows, once known.
    pub ended: Option<FlowsEnded>,
}

/// The termination of a backend's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowsEnded {
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
    /// The view of this step; `None` before the first.
    pub view: Option<HealthView>,
    /// The active datapath; `None` before the first step.
    pub path: Option<TrafficPathReport>,
    /// What is programmed, or forwarded.
    pub programmed: Option<Arc<DesiredState>>,
    /// Whether no other program may change the rules.
    pub owned: bool,
    /// What others changed.
    pub repairs: Arc<Repairs>,
    /// The latest changes of backends' states, newest first.
    pub transitions: Arc<Vec<HealthTransition>>,
    /// What stays programmed although the API no longer publishes it.
    pub fail_open: Vec<FailOpenReason>,
    /// Why the phase is [`Phase::Failed`] or [`Phase::Unrouted`].
    pub last_error: Option<String>,
}
