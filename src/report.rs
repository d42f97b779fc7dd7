//! What the reconciler tells the rest of the daemon.

use std::sync::Arc;

use serde::Serialize;

use crate::model::desired::{DesiredState, Hold};
use crate::model::health::HealthView;

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
    /// The kernel refused the desired state; the last good one still stands.
    Failed,
}

/// The state of the reconciler after its latest step.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Whether the kernel has what it should have.
    pub phase: Phase,
    /// What this step looked at; `None` before the first.
    pub view: Option<HealthView>,
    /// What is programmed.
    pub programmed: Option<Arc<DesiredState>>,
    /// What is kept although the API no longer says so.
    pub holds: Vec<Hold>,
    /// Why the phase is [`Phase::Failed`].
    pub last_error: Option<String>,
}
