//! [`DesiredState`] -> [`Table`]: which chains and rules a state means. Pure.
//!
//! In: a state. Out: the table, whose chains `docs/rules.md` explains hook by hook. The nat chains translate to apiservers and
//! count who comes and who goes on; the filter chains, behind conntrack and ahead of nat, end the flows of dead apiservers and
//! drop what would do harm where it arrives; the raw chain lets challenge SYNs pass untracked. Which source address a flow gets
//! is `source_nat`'s.
//!
//! A flow to a dead apiserver is answered with a reset where its packets still carry the virtual IP: in prerouting and
//! output. In forward, a bridged pod would get the reset from the backend's address, and ignore it.
//!
//! A packet that conntrack calls INVALID belongs to no flow, so it is not translated: the client's kernel knows no
//! connection with the apiserver itself, and would reset that one. And while a virtual IP is local to this node, because the
//! proxy serves it, everything that listens on all addresses would be reachable there, behind the node's own firewall.
//! The proxy serves when rules cannot be changed, so these stand beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::names::{
    backend_name, dead_name, forwarded_name, frontend_name, others_name, received_name, reset_name,
};
use super::source_nat::source_chains;
use super::table::{
    Action, BalanceKey, Chain, Counter, CtState, Element, Hook, Match, Rule, Set, Table, Target, TcpFlags,
};
use crate::model::desired::{DesiredFrontend, DesiredState, Masquerade};
use crate::model::snapshot::Affinity;
use crate::model::types::{Backend, Family, Vip};

/// Three times as long as until a daemon puts them there again: it may once be kept from that by another program's
/// commit.
const DEAD_TIMEOUT: Duration = Duration::from_secs(60);

const INVALID: &str = "invalid";

/// The table that programs `state`.
pub fn table(state: &DesiredState) -> Table {
    let backends = state.backends();
    let mut counters: Vec<Counter> = connection_counters(state).collect();
    counters.extend(reset_counters(state));
    counters.extend(arrival_counters(state));
    let source = match state.source.masquerade {
        Masquerade::Never => Vec::new(),
        _ => source_chains(state),
    };
    let mut chains = vec![
        dispatch(
            "nat-prerouting",
            Hook::NatPrerouting,
            "traffic of Pods and other hosts; runs before kube-proxy, because conntrack keeps the first mapping",
            state,
            |rule, vip| rule.with_counter(received_name(vip)),
        ),
        dispatch("nat-output", Hook::NatOutput, "traffic of processes on this node", state, |rule, _| rule),
        nat_input(state),
        postrouting(state, !source.is_empty()),
    ];
    chains.extend(filter_chains(state));
    chains.extend(state.frontends.iter().map(|f| frontend_chain(state, f)));
    chains.extend(backends.iter().map(|b| backend_chain(*b)));
    chains.extend(dead_chains(state));
    chains.extend(refusing_chains(state));
    chains.extend(source);
    Table {
        comment: "apivip: redirects the virtual IP of the Kubernetes API to healthy API servers",
        counters,
        sets: dead_sets(state).collect(),
        chains,
    }
}

fn dispatch(
    name: &str,
    hook: Hook,
    comment: &str,
    state: &DesiredState,
    count: impl Fn(Rule, Vip) -> Rule,
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
            if f.backends.is_empty() { rule } else { count(rule, f.vip) }
        })
        .collect();
    Chain { name: name.to_owned(), comment: comment.to_owned(), hook: Some(hook), rules }
}

/// `source_nat`: there are chains that give flows a source address.
fn postrouting(state: &DesiredState, source_nat: bool) -> Chain {
    let rewrite_source = |vip: Vip| {
        let matches = [vec![Match::LeavesNode], translated(vip)].concat();
        Rule::new(matches, Action::Goto(super::source_nat::chain_name(Family::of(vip.ip())).to_owned()))
    };
    let vips = state.frontends.iter().map(|f| f.vip);
    let rules = vips.flat_map(|vip| [Some(count_leaving(vip)), source_nat.then(|| rewrite_source(vip))]);
    let comment = match source_nat {
        true => "counts outgoing connections, and fixes source addresses to which replies would not return",
        false => "counts outgoing connections to API servers",
    };
    let rules = rules.flatten().collect();
    Chain {
        name: "nat-postrouting".to_owned(),
        comment: comment.to_owned(),
        hook: Some(Hook::NatPostrouting),
        rules,
    }
}

/// A flow to a virtual IP that was translated to an apiserver.
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
    if frontend.local_route_allowed {
        rules.push(
            Rule::new(vec![Match::Tcp, Match::DestinationIsLocal], Action::Dnat(frontend.vip))
                .with_comment("while the address is local to this node, its listener keeps the connection"),
        );
    }
    if state.forwarding {
        rules.push(
            Rule::new(vec![Match::TcpFlags(TcpFlags::NotBareSyn)], Action::Dnat(frontend.vip))
                .with_comment("connections of the forwarder are not redirected"),
        );
    }
    let comment = |b: &Backend| format!("API server {b}");
    match frontend.backends.as_slice() {
        [] => {}
        [only] => {
            rules.push(Rule::new(Vec::new(), Action::Goto(backend_name(*only))).with_comment(comment(only)));
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
                    .with_comment("reached only by packets that pass while the rules are replaced"),
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
        Affinity::ClientIP => ", one API server for each client address",
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
        comment: format!("API server {backend}"),
        hook: None,
        rules: vec![Rule::new(vec![Match::Tcp], Action::Dnat(backend)).with_counter(name.clone())],
        name,
    }
}

/// Two counters for each frontend.
fn arrival_counters(state: &DesiredState) -> impl Iterator<Item = Counter> {
    state.frontends.iter().flat_map(|frontend| {
        let vip = frontend.vip;
        [
            Counter {
                name: received_name(vip),
                comment: format!("connections of Pods and other hosts to {vip}"),
            },
            Counter {
                name: forwarded_name(vip),
                comment: format!("of these, connections to {vip} that continued to an API server"),
            },
        ]
    })
}

/// What reaches an apiserver on this node.
fn nat_input(state: &DesiredState) -> Chain {
    let went = |vip: Vip| Rule::new(translated(vip), Action::Continue).with_counter(forwarded_name(vip));
    Chain {
        name: "nat-input".to_owned(),
        comment: "counts connections to an API server on this node".to_owned(),
        hook: Some(Hook::NatInput),
        rules: state.frontends.iter().map(|frontend| went(frontend.vip)).collect(),
    }
}

/// What leaves this node, and was not sent by it.
fn count_leaving(vip: Vip) -> Rule {
    let matches = [translated(vip), vec![Match::SourceIsNotLocal]].concat();
    Rule::new(matches, Action::Continue).with_counter(forwarded_name(vip))
}

/// The base chains; they stand also while nobody is dead, so that a death changes rules only.
fn filter_chains(state: &DesiredState) -> Vec<Chain> {
    let dead = |name: &str, hook: Hook, comment: &str| Chain {
        name: name.to_owned(),
        comment: comment.to_owned(),
        hook: Some(hook),
        rules: state.frontends.iter().map(to_dead).chain(refuse_dispatch(state)).collect(),
    };
    vec![
        dead(
            "kill-prerouting",
            Hook::KillPrerouting,
            "resets connections of Pods and other hosts to failed API servers",
        ),
        dead(
            "kill-output",
            Hook::KillOutput,
            "resets connections of processes on this node to failed API servers",
        ),
        Chain {
            name: "notrack-output".to_owned(),
            comment: "sends challenge SYNs to clients and API servers without conntrack".to_owned(),
            hook: Some(Hook::NotrackOutput),
            rules: state
                .frontends
                .iter()
                .map(untracked_syn_to_client)
                .chain(backend_ports(state).into_iter().map(untracked_syn_to_backend))
                .collect(),
        },
    ]
}

/// The chain of each frontend that rejects what goes to a dead backend.
fn dead_chains(state: &DesiredState) -> impl Iterator<Item = Chain> {
    state.frontends.iter().map(|frontend| Chain {
        name: dead_name(frontend.vip),
        comment: format!("connections to {} whose API server has failed", frontend.vip),
        hook: None,
        rules: vec![reject(frontend.vip)],
    })
}

/// The set of each frontend that says which backends are dead. It stands also while none is, so that a death changes
/// elements only; and they expire, so that a daemon that is gone has no flows of an apiserver ended that is back.
fn dead_sets(state: &DesiredState) -> impl Iterator<Item = Set> {
    state.frontends.iter().map(|frontend| Set {
        name: dead_name(frontend.vip),
        comment: format!("failed API servers of {}", frontend.vip),
        family: Family::of(frontend.vip.ip()),
        timeout: DEAD_TIMEOUT,
        elements: frontend.failed.iter().map(dead_element).collect(),
    })
}

fn dead_element(backend: &Backend) -> Element {
    Element { address: *backend, comment: format!("failed API server {backend}") }
}

/// One counter for each frontend.
fn reset_counters(state: &DesiredState) -> impl Iterator<Item = Counter> {
    state.frontends.iter().map(|frontend| Counter {
        name: reset_name(frontend.vip),
        comment: format!("resets sent on behalf of API servers of {}", frontend.vip),
    })
}

/// The counters of connections are kept while a backend is dead: it may come back.
fn connection_counters(state: &DesiredState) -> impl Iterator<Item = Counter> {
    let mut all = state.backends();
    all.extend(state.failed().into_keys());
    all.into_iter().map(|backend| Counter {
        name: backend_name(backend),
        comment: format!("connections sent to API server {backend}"),
    })
}

fn to_dead(frontend: &DesiredFrontend) -> Rule {
    Rule::new(
        vec![
            Match::Tcp,
            Match::FlowDirectionOriginal,
            Match::FlowDestinationAddress(frontend.vip.ip()),
            Match::FlowDestinationPort(frontend.vip.port()),
        ],
        Action::Goto(dead_name(frontend.vip)),
    )
}

/// Never a SYN: a new connection goes to a live apiserver. Never a reset: it ends the flow by itself.
fn reject(vip: Vip) -> Rule {
    Rule::new(
        vec![Match::TcpFlags(TcpFlags::NeitherSynNorRst), Match::FlowRepliesFromDead(vip)],
        Action::RejectWithReset,
    )
    .with_counter(reset_name(vip))
}

fn untracked_syn_to_client(frontend: &DesiredFrontend) -> Rule {
    let ip: IpAddr = frontend.vip.ip();
    Rule::new(
        vec![
            Match::SourceAddress(ip),
            Match::TcpSourcePort(frontend.vip.port()),
            Match::TcpFlags(TcpFlags::BareSyn),
        ],
        Action::Notrack,
    )
}

/// The ports of all apiservers that are known.
fn backend_ports(state: &DesiredState) -> BTreeSet<u16> {
    let mut all = state.backends();
    all.extend(state.failed().into_keys());
    all.into_iter().map(|backend| backend.port()).collect()
}

/// A kernel never opens a connection without TCP options, so this is no dial of anybody's. Whatever the address: an
/// apiserver that is neither chosen nor dead is challenged too, and that changes no rule.
fn untracked_syn_to_backend(port: u16) -> Rule {
    Rule::new(
        vec![Match::TcpDestinationPort(port), Match::TcpFlags(TcpFlags::BareSyn), Match::TcpWithoutOptions],
        Action::Notrack,
    )
}

/// What the base chains behind conntrack and ahead of nat hold besides the flows of the dead.
fn refuse_dispatch(state: &DesiredState) -> Vec<Rule> {
    if state.frontends.is_empty() {
        return Vec::new();
    }
    // A SYN and what answers it may pass a node that does not see the other direction. A reset ends a flow by itself.
    let invalid = Rule::new(
        vec![Match::CtState(CtState::Invalid), Match::TcpFlags(TcpFlags::NeitherSynNorRst)],
        Action::Goto(INVALID.to_owned()),
    );
    let to_others =
        |ip: &IpAddr| Rule::new(vec![Match::DestinationAddress(*ip)], Action::Goto(others_name(*ip)));
    guarded(state).keys().map(to_others).chain([invalid]).collect()
}

/// The chains that those rules go to.
fn refusing_chains(state: &DesiredState) -> Vec<Chain> {
    if state.frontends.is_empty() {
        return Vec::new();
    }
    let other_ports_chains = guarded(state).into_iter().map(|(ip, ports)| other_ports(ip, &ports));
    other_ports_chains.chain([invalid_packets(state)]).collect()
}

/// The ports of each virtual IP that a local route may take: an address that an interface has serves more than ours.
fn guarded(state: &DesiredState) -> BTreeMap<IpAddr, BTreeSet<u16>> {
    let mut all: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for frontend in state.frontends.iter().filter(|frontend| frontend.local_route_allowed) {
        all.entry(frontend.vip.ip()).or_default().insert(frontend.vip.port());
    }
    all
}

fn other_ports(ip: IpAddr, ports: &BTreeSet<u16>) -> Chain {
    let served =
        |port: &u16| Rule::new(vec![Match::TcpDestinationPort(*port)], Action::Goto(INVALID.to_owned()));
    let mut rules: Vec<Rule> = ports.iter().map(served).collect();
    rules.push(
        Rule::new(vec![Match::CtState(CtState::EstablishedOrRelated)], Action::Return)
            .with_comment("replies to a connection from this address, and errors about it"),
    );
    rules.push(
        Rule::new(vec![Match::DestinationIsLocal], Action::Drop)
            .with_comment("only the ports of the Service are served on this node"),
    );
    Chain {
        name: others_name(ip),
        comment: format!("packets to {ip} for other ports than those of the Service"),
        hook: None,
        rules,
    }
}

fn invalid_packets(state: &DesiredState) -> Chain {
    let is_invalid = [Match::CtState(CtState::Invalid), Match::TcpFlags(TcpFlags::NeitherSynNorRst)];
    let to_client = backend_ports(state).into_iter().map(|port| {
        Rule::new(is_invalid.into_iter().chain([Match::TcpSourcePort(port)]).collect(), Action::Drop)
            .with_comment("if not translated, its client would reset the connection")
    });
    let to_vip = state.frontends.iter().map(|frontend| {
        let to =
            [Match::DestinationAddress(frontend.vip.ip()), Match::TcpDestinationPort(frontend.vip.port())];
        Rule::new(is_invalid.into_iter().chain(to).collect(), Action::Drop)
            .with_comment("if not translated, it would reach the wrong destination")
    });
    Chain {
        name: INVALID.to_owned(),
        comment: "packets that conntrack marks as invalid: no rule translates them".to_owned(),
        hook: None,
        rules: to_client.chain(to_vip).collect(),
    }
}

#[cfg(test)]
pub(super) mod tests;
