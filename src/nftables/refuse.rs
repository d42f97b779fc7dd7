//! The rules that drop packets which would do harm where they arrive. Pure.
//!
//! A packet that conntrack calls INVALID belongs to no flow, so it is not translated: the client's kernel knows no
//! connection with the apiserver itself, and would reset that one. And while a virtual IP is local to this node, because the
//! forwarder serves it, everything that listens on all addresses would be reachable there, behind the node's own firewall.
//! The forwarder serves when rules cannot be changed, so these stand beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::kill::ports;
use super::names::others_name;
use super::table::{Action, Chain, FlowState, Match, Rule, TcpFlags};
use crate::model::desired::DesiredState;

const INVALID: &str = "invalid";

/// What the base chains behind conntrack and ahead of nat hold besides the flows of the dead.
pub(super) fn dispatch(state: &DesiredState) -> Vec<Rule> {
    if state.frontends.is_empty() {
        return Vec::new();
    }
    // A SYN and what answers it may pass a node that does not see the other direction. A reset ends a flow by itself.
    let invalid = Rule::new(
        vec![Match::FlowState(FlowState::Invalid), Match::TcpFlags(TcpFlags::NeitherSynNorRst)],
        Action::Goto(INVALID.to_owned()),
    );
    let to_others =
        |ip: &IpAddr| Rule::new(vec![Match::DestinationAddress(*ip)], Action::Goto(others_name(*ip)));
    guarded(state).keys().map(to_others).chain([invalid]).collect()
}

/// The chains that those rules lead to.
pub(super) fn chains(state: &DesiredState) -> Vec<Chain> {
    if state.frontends.is_empty() {
        return Vec::new();
    }
    let others = guarded(state).into_iter().map(|(ip, ports)| others(ip, &ports));
    others.chain([invalid(state)]).collect()
}

/// The ports of each virtual IP that a local route may take: an address that an interface has serves more than ours.
fn guarded(state: &DesiredState) -> BTreeMap<IpAddr, BTreeSet<u16>> {
    let mut all: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for frontend in state.frontends.iter().filter(|frontend| frontend.guard) {
        all.entry(frontend.vip.ip()).or_default().insert(frontend.vip.port());
    }
    all
}

fn others(ip: IpAddr, ports: &BTreeSet<u16>) -> Chain {
    let served =
        |port: &u16| Rule::new(vec![Match::TcpDestinationPort(*port)], Action::Goto(INVALID.to_owned()));
    let mut rules: Vec<Rule> = ports.iter().map(served).collect();
    rules.push(
        Rule::new(vec![Match::FlowState(FlowState::Known)], Action::Return)
            .because("answers to a connection from this address, and errors about one"),
    );
    rules.push(
        Rule::new(vec![Match::DestinationIsLocal], Action::Drop)
            .because("only the ports of the Service are served on this node"),
    );
    Chain {
        name: others_name(ip),
        comment: format!("what goes to {ip} and not to a port of the Service"),
        hook: None,
        rules,
    }
}

fn invalid(state: &DesiredState) -> Chain {
    let is_invalid = [Match::FlowState(FlowState::Invalid), Match::TcpFlags(TcpFlags::NeitherSynNorRst)];
    let to_client = ports(state).into_iter().map(|port| {
        Rule::new(is_invalid.into_iter().chain([Match::TcpSourcePort(port)]).collect(), Action::Drop)
            .because("not translated, its client would reset the connection")
    });
    let to_vip = state.frontends.iter().map(|frontend| {
        let to =
            [Match::DestinationAddress(frontend.vip.ip()), Match::TcpDestinationPort(frontend.vip.port())];
        Rule::new(is_invalid.into_iter().chain(to).collect(), Action::Drop)
            .because("not translated, it would reach the wrong place")
    });
    Chain {
        name: INVALID.to_owned(),
        comment: "packets that conntrack takes for no flow's: no rule translates them".to_owned(),
        hook: None,
        rules: to_client.chain(to_vip).collect(),
    }
}
