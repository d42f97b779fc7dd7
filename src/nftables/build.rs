//! [`DesiredState`] -> [`Table`]: which chains and rules a state means. Pure.
//!
//! `docs/rules.md` explains the result hook by hook.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::names::{backend_name, came_name, frontend_name};
use super::source::source_chains;
use super::table::{Action, BalanceKey, Chain, Counter, Hook, Match, Rule, Table, Target, TcpFlags};
use crate::model::desired::{DesiredFrontend, DesiredState, Masquerade};
use crate::model::snapshot::Affinity;
use crate::model::types::{Backend, Family, Vip};

/// The table that programs `state`.
pub fn table(state: &DesiredState) -> Table {
    let backends = state.backends();
    let mut counters: Vec<Counter> = super::kill::counted_backends(state).collect();
    counters.extend(super::kill::counters(state));
    counters.extend(super::others::counters(state));
    let source = match state.source.masquerade {
        Masquerade::Never => Vec::new(),
        _ => source_chains(state),
    };
    let mut chains = vec![
        dispatch(
            "nat-prerouting",
            Hook::NatPrerouting,
            "traffic of pods and other hosts; ahead of kube-proxy, since a flow's first mapping stands",
            state,
            |rule, vip| rule.counted(came_name(vip)),
        ),
        dispatch("nat-output", Hook::NatOutput, "traffic of this node's own processes", state, |rule, _| {
            rule
        }),
        super::others::input(state),
        postrouting(state, !source.is_empty()),
    ];
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

fn dispatch(
    name: &str,
    hook: Hook,
    comment: &str,
    state: &DesiredState,
    counted: impl Fn(Rule, Vip) -> Rule,
) -> Chain {
    let rules = state
        .frontends
        .iter()
        .map(|f| {
            let rule = Rule::new(
                vec![Match::DestinationAddress(f.vip.ip()), Match::TcpDestinationPort(f.vip.port())],
                Action::Goto(frontend_name(f.vip)),
            );
            // Whoever else serves a virtual IP without apiservers leads nothing past the other counter.
            if f.backends.is_empty() { rule } else { counted(rule, f.vip) }
        })
        .collect();
    Chain { name: name.to_owned(), comment: comment.to_owned(), hook: Some(hook), rules }
}

/// `mends`: there are chains that give flows a source address.
fn postrouting(state: &DesiredState, mends: bool) -> Chain {
    let mend = |vip: Vip| {
        let matches = [vec![Match::LeavesNode], translated(vip)].concat();
        Rule::new(matches, Action::Goto(super::source::chain_name(Family::of(vip.ip())).to_owned()))
    };
    let vips = state.frontends.iter().map(|f| f.vip);
    let rules = vips.flat_map(|vip| [Some(super::others::leaves(vip)), mends.then(|| mend(vip))]);
    let comment = match mends {
        true => "counts what leaves, and mends source addresses to which no reply would come back",
        false => "counts what leaves for an apiserver",
    };
    let rules = rules.flatten().collect();
    Chain {
        name: "nat-postrouting".to_owned(),
        comment: comment.to_owned(),
        hook: Some(Hook::NatPostrouting),
        rules,
    }
}

/// A flow to a virtual IP that was led to an apiserver.
pub(super) fn translated(vip: Vip) -> Vec<Match> {
    vec![
        Match::Tcp,
        Match::FlowTranslated,
        Match::FlowDestinationAddress(vip.ip()),
        Match::FlowDestinationPort(vip.port()),
    ]
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
