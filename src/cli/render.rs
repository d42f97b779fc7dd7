//! `apivip render`: the table for objects in files, as nft syntax.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::Context;

use super::Failure;
use super::input::Objects;
use crate::config::RenderArgs;
use crate::dataplane::nft;
use crate::model::desired::{DesiredState, NodeView, PreferredSource, desire};
use crate::model::snapshot::Snapshot;

pub(super) fn render(args: &RenderArgs) -> Result<(), Failure> {
    let (desired, remarks) = desired(args).map_err(Failure::Configuration)?;
    for remark in remarks {
        eprintln!("apivip: {remark}");
    }
    let script = nft::script(&nft::build::table(&desired));
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
        .map(|(backend, source)| (*backend, PreferredSource::Address(*source)))
        .collect();
    let node = NodeView { preferred, ..NodeView::default() };
    let (desired, holds) = desire(&snapshot, None, &node, &args.table.policy());
    let remarks = snapshot.rejected.iter().map(|r| format!("left out {r}"));
    Ok((desired, remarks.chain(holds.iter().map(ToString::to_string)).collect()))
}
