//! [`DesiredState`] -> [`Table`]: which chains and rules a state means. Pure.
//!
//! `docs/rules.md` explains the result hook by hook.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::names::{backend_name, frontend_name};
use super::source::source_chains;
use super::table::{Action, BalanceKey, Chain, Counter, Hook, Match, Rule, Table, Target, TcpFlags};
use crate::model::desired::{DesiredFrontend, DesiredState, Masquerade};
use crate::model::snapshot::Affinity;
use crate::model::types::{Backend, Family};

/// The table that programs `state`.
pub fn table(state: &DesiredState) -> Table {
    let backends = state.backends();
    let mut counters: Vec<Counter> = super::kill::counted_backends(state).collect();
    counters.extend(super::kill::counters(state));
    let mut chains = vec![
        dispatch(
            "nat-prerouting",
            Hook::NatPrerouting,
            "traffic of pods and other hosts; ahead of kube-proxy, since a flow's first mapping stands",
            state,
        ),
        dispatch("nat-output", Hook::NatOutput, "traffic of this node's own processes", state),
    ];
    let (postrouting, source) = match state.source.masquerade {
        Masquerade::Never => (None, Vec::new()),
        _ => (Some(postrouting(state)), source_chains(state)),
    };
    chains.extend(postrouting);
    chains.extend(super::kill::base_chains(state));
    chains.extend(state.frontends.iter().map(|f| frontend_chain(state, f)));
    chains.extend(backends.iter().map(|b| backend_chain(*b)));
    chains.extend(super::kill::dead_chains(state));
    chains.extend(super::refuse::chains(state));
    chains.extend(source);
    Table {
        comment: "apivip: leads the virtual IP of the Kubernetes API to live apiservers",
        counters,
        sets: super::kill::dead_sets(state).collect(),
        chains,
    }
}

fn dispatch(name: &str, hook: Hook, comment: &str, state: &DesiredState) -> Chain {
    let rules = state
        .frontends
        .iter()
        .map(|f| {
            Rule::new(
                vec![Match::DestinationAddress(f.vip.ip()), Match::TcpDestinationPort(f.vip.port())],
                Action::Goto(frontend_name(f.vip)),
            )
        })
        .collect();
    Chain { name: name.to_owned(), comment: comment.to_owned(), hook: Some(hook), rules }
}

fn postrouting(state: &DesiredState) -> Chain {
    let rules = state
        .frontends
        .iter()
        .map(|f| {
            Rule::new(
                vec![
                    Match::LeavesNode,
                    Match::Tcp,
                    Match::FlowTranslated,
                    Match::FlowDestinationAddress(f.vip.ip()),
                    Match::FlowDestinationPort(f.vip.port()),
                ],
                Action::Goto(super::source::chain_name(Family::of(f.vip.ip())).to_owned()),
            )
        })
        .collect();
    Chain {
        name: "nat-postrouting".to_owned(),
        comment: "mends source addresses to which no reply would come back".to_owned(),
        hook: Some(Hook::NatPostrouting),
        rules,
    }
}

fn frontend_chain(state: &DesiredState, frontend: &DesiredFrontend) -> Chain {
    let mut rules = Vec::new();
    if frontend.guard {
        rules.push(
            Rule::new(vec![Match::Tcp, Match::DestinationIsLocal], Action::Dnat(frontend.vip))
                .because("while the address is local to this node, its listener keeps the flow"),
        );
    }
    if state.forwarding {
        rules.push(
            Rule::new(vec![Match::TcpFlags(TcpFlags::NotBareSyn)], Action::Dnat(frontend.vip))
                .because("the forwarder's connections stay where they are"),
        );
    }
    let comment = |b: &Backend| format!("apiserver {b}");
    match frontend.backends.as_slice() {
        [] => {}
        [only] => {
            rules.push(Rule::new(Vec::new(), Action::Goto(backend_name(*only))).because(comment(only)));
        }
        several => {
            let by = match frontend.affinity {
                Affinity::None => BalanceKey::Random,
                Affinity::ClientIP => BalanceKey::ClientAddress(Family::of(frontend.vip.ip())),
            };
            let targets =
                several.iter().map(|b| Target { chain: backend_name(*b), comment: comment(b) }).collect();
            rules.push(Rule::new(Vec::new(), Action::Balance { by, targets }));
            // The kernel switches the elements of a map and the rules of a chain one after the other: a packet that
            // meets the old rule with the map already gone would leave without a mapping, and hang for good.
            rules.push(
                Rule::new(Vec::new(), Action::Goto(backend_name(several[0])))
                    .because("only a packet that passes while the rules are replaced comes here"),
            );
        }
    }
    Chain { name: frontend_name(frontend.vip), comment: frontend_comment(state, frontend), hook: None, rules }
}

/// The Service and the port's name, of which only what a DNS label may hold is taken over.
fn frontend_comment(state: &DesiredState, frontend: &DesiredFrontend) -> String {
    let label: String =
        frontend.port_name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(15).collect();
    let affinity = match frontend.affinity {
        Affinity::None => "",
        Affinity::ClientIP => ", one apiserver for each client address",
    };
    let mut text = format!("Service {}", state.service);
    text.truncate(64);
    if !label.is_empty() {
        text.push_str(" port ");
        text.push_str(&label);
    }
    text + affinity
}

fn backend_chain(backend: Backend) -> Chain {
    let name = backend_name(backend);
    Chain {
        comment: format!("apiserver {backend}"),
        hook: None,
        rules: vec![Rule::new(vec![Match::Tcp], Action::Dnat(backend)).counted(name.clone())],
        name,
    }
}

/// Addresses of one family among the backends of a state, each once.
pub(super) fn backend_addresses(state: &DesiredState, family: Family) -> BTreeSet<IpAddr> {
    state.backends().iter().map(|b| b.ip()).filter(|ip| Family::of(*ip) == family).collect()
}

#[cfg(test)]
pub(super) mod tests;
