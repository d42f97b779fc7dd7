//! What counts connections of others than this node, as they come and as they go on. Pure.
//!
//! Only a flow's first packet meets these rules. What another program drops in between is counted as it came only.

use super::build::translated;
use super::names::{came_name, went_name};
use super::table::{Action, Chain, Counter, Hook, Match, Rule};
use crate::model::desired::DesiredState;
use crate::model::types::Vip;

/// Two counters for each frontend.
pub(super) fn counters(state: &DesiredState) -> impl Iterator<Item = Counter> {
    state.frontends.iter().flat_map(|frontend| {
        let vip = frontend.vip;
        [
            Counter {
                name: came_name(vip),
                comment: format!("connections of pods and other hosts to {vip}"),
            },
            Counter { name: went_name(vip), comment: format!("those to {vip} that went on to an apiserver") },
        ]
    })
}

/// What reaches an apiserver on this node.
pub(super) fn input(state: &DesiredState) -> Chain {
    let went = |vip: Vip| Rule::new(translated(vip), Action::Continue).counted(went_name(vip));
    Chain {
        name: "nat-input".to_owned(),
        comment: "counts what reaches an apiserver on this node".to_owned(),
        hook: Some(Hook::NatInput),
        rules: state.frontends.iter().map(|frontend| went(frontend.vip)).collect(),
    }
}

/// What leaves this node, and was not sent by it.
pub(super) fn leaves(vip: Vip) -> Rule {
    let matches = [translated(vip), vec![Match::SourceIsNotLocal]].concat();
    Rule::new(matches, Action::Continue).counted(went_name(vip))
}
