//! `apivip render`: the table for objects in files, as nft syntax.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;

use super::Failure;
use super::input::Objects;
use crate::config::RenderArgs;
use crate::model::desired::{DesiredState, NodeView, PreferredSource, SourceAddress, compute_desired_state};
use crate::model::health::{BackendHealth, FailReason, HealthState, HealthView, Trigger};
use crate::model::snapshot::Snapshot;
use crate::model::types::Backend;
use crate::nftables;

pub(super) fn render(args: &RenderArgs) -> Result<(), Failure> {
    let (desired, remarks) = desired(args).map_err(Failure::Configuration)?;
    for remark in remarks {
        eprintln!("apivip: {remark}");
    }
    let script = nftables::script(&nftables::build::table(&desired));
    std::io::stdout().write_all(script.as_bytes()).context("write to stdout").map_err(Failure::Runtime)
}

/// The state that a fresh daemon would program for these objects, and what the operator should know about it.
pub fn desired(args: &RenderArgs) -> anyhow::Result<(DesiredState, Vec<String>)> {
    let key = &args.table.service;
    let mut objects = Objects::default();
    for path in &args.from {
        objects.read(path, key)?;
    }
    let view = objects.view(key)?;
    let snapshot = Snapshot::build(&view, args.table.snapshot_options(), 1);
    let preferred: BTreeMap<_, _> = args
        .source_address
        .iter()
        .map(|(backend, source)| (*backend, PreferredSource::Address(SourceAddress::anywhere(*source))))
        .collect();
    let node = NodeView { preferred, ..NodeView::default() };
    let rejected = snapshot.rejected.clone();
    let view = health(snapshot, &args.dead);
    let (mut desired, holds) = compute_desired_state(&view, None, &node, &args.table.policy());
    desired.forwarding = args.forwarding;
    let remarks = rejected.iter().map(|r| format!("left out {r}"));
    Ok((desired, remarks.chain(holds.iter().map(ToString::to_string)).collect()))
}

/// What probes would say if only `dead` did not answer.
fn health(snapshot: Snapshot, dead: &[Backend]) -> HealthView {
    let now = Instant::now();
    let down = BackendHealth {
        state: HealthState::Failed,
        since: now,
        noticed: now,
        trigger: Trigger::ProbeFailed,
        published: true,
        answering: false,
        end_flows: true,
        challenge_at: None,
        silent_since: None,
        termination_blocked: None,
        failure: Some(FailReason::Timeout),
        round_trip: None,
        hold_down_until: None,
        readyz: None,
    };
    let mut view = HealthView::unprobed(Arc::new(snapshot), now);
    view.backends = dead.iter().map(|backend| (*backend, down)).collect();
    view
}
