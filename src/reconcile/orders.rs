//! Which flows are moved, asked or ended: each order once for what a view says.
//!
//! In: views and what is in effect. Out: orders, and cancellations of those that are no longer due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::Reconciler;
use crate::dataplane::flows::{FlowKiller, FlowOrder, Purpose};
use crate::dataplane::{Dataplane, Host};
use crate::model::desired::DesiredState;
use crate::model::health::HealthView;
use crate::model::types::{Backend, Vip};
use crate::proxy::Forward;

/// What was ordered besides ends.
#[derive(Debug, Default)]
pub(super) struct Ordered {
    /// Connections that were being opened to these were moved when they left the path.
    moved: BTreeSet<Backend>,
    /// When the clients of these were last to be asked.
    asked: BTreeMap<Backend, Instant>,
}

impl<D: Dataplane, H: Host, F: FlowKiller, W: Forward> Reconciler<D, H, F, W> {
    /// Has the flows of `state`'s dead backends ended, each once, and leaves those of others alone from now on.
    pub(super) fn end_flows(&mut self, state: &DesiredState, own_reset: bool) {
        let dead = state.dead();
        let stays = |backend: &Backend| dead.contains_key(backend) || self.foreseen.contains(backend);
        for backend in self.ending.keys().filter(|backend| !stays(backend)) {
            self.flows.cancel(*backend);
        }
        self.ending.retain(|backend, _| stays(backend));
        order(&mut self.flows, &mut self.ending, &dead, own_reset);
    }

    /// Connections that are being opened to a backend that was heard again come about: none of them must move any more.
    pub(super) fn settle(&mut self, view: &HealthView, desired: &DesiredState) {
        let used = desired.backends();
        let is_silent =
            |backend: &Backend| view.backends.get(backend).is_some_and(|h| h.silent_since.is_some());
        for backend in
            self.ordered.moved.iter().filter(|backend| used.contains(backend) || !is_silent(backend))
        {
            self.flows.settle(*backend);
        }
    }

    /// Whoever left the path loses the connections that are being opened, and the clients of whoever is to be asked are. New
    /// connections take another way already.
    pub(super) fn move_and_ask(&mut self, view: &HealthView, state: &DesiredState) {
        let used = state.backends();
        let Ordered { moved, asked } = &mut self.ordered;
        let is_out = |backend: &Backend| view.backends.get(backend).is_some_and(|h| h.state.is_out());
        moved.retain(is_out);
        asked.retain(|backend, _| view.backends.contains_key(backend));
        for (backend, health) in &view.backends {
            // Where nobody answered, one that stayed in use leaves the path when the first is heard again: so may it be, in a moment.
            let leaves = is_out(backend) && moved.insert(*backend);
            let moves = leaves && !used.contains(backend) && !self.ending.contains_key(backend);
            let asks = health.ask.filter(|at| asked.insert(*backend, *at) != Some(*at)).is_some();
            let purpose = match (asks, moves) {
                (true, _) => Purpose::Challenge,
                (false, true) => Purpose::Move,
                (false, false) => continue,
            };
            let vips = state.vips().into_iter().collect();
            self.flows.start(FlowOrder { backend: *backend, vips, purpose });
        }
    }
}

/// Orders the end of the flows of those that are not in `ending` yet, or are there without a rule and now have one.
pub(super) fn order<F: FlowKiller>(
    flows: &mut F,
    ending: &mut BTreeMap<Backend, bool>,
    dead: &BTreeMap<Backend, Vec<Vip>>,
    own_reset: bool,
) {
    for (backend, vips) in dead {
        let under_way = ending.get(backend).is_some_and(|without_rule| own_reset || !without_rule);
        if !under_way {
            ending.insert(*backend, own_reset);
            let purpose = Purpose::End { own_reset };
            flows.start(FlowOrder { backend: *backend, vips: vips.clone(), purpose });
        }
    }
}
