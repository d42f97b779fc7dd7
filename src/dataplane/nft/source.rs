//! The chains that decide which source address an apiserver sees. Pure.
//!
//! Only the first packet of a flow comes here, and the first mapping that a nat chain makes stands.

use std::net::IpAddr;

use super::build::backend_addresses;
use super::table::{Action, Chain, Match, Rule};
use crate::model::desired::{DesiredState, Masquerade, PreferredSource};
use crate::model::types::Family;

/// The chain that the postrouting base chain goes to for flows of one family.
pub(super) fn chain_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "source-ipv4",
        Family::V6 => "source-ipv6",
    }
}

fn host_chain_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "source-ipv4-host",
        Family::V6 => "source-ipv6-host",
    }
}

/// Two chains for each family that has a frontend: one for everybody, one for the node's own traffic.
pub(super) fn source_chains(state: &DesiredState) -> Vec<Chain> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| state.frontends.iter().any(|f| Family::of(f.vip.ip()) == *family))
        .flat_map(|family| [everybody(state, family), host(state, family)])
        .collect()
}

fn everybody(state: &DesiredState, family: Family) -> Chain {
    let policy = &state.source;
    let mut rules = vec![
        Rule::new(vec![Match::SourceIsLocal], Action::Goto(host_chain_name(family).to_owned()))
            .because("sent by this node itself"),
    ];
    if policy.masquerade == Masquerade::Always {
        rules.push(Rule::new(Vec::new(), Action::Masquerade).because("--masquerade always"));
    } else {
        rules.extend(backend_addresses(state, family).into_iter().map(hairpin));
        let cidrs: Vec<_> = policy.cluster_cidrs.iter().filter(|c| c.family() == family).collect();
        rules.extend(cidrs.iter().map(|cidr| {
            Rule::new(vec![Match::SourceWithin(**cidr)], Action::Return)
                .because("--cluster-cidr: a pod keeps its address")
        }));
        if !cidrs.is_empty() {
            rules.push(Rule::new(Vec::new(), Action::Masquerade).because("a client outside --cluster-cidr"));
        }
    }
    Chain {
        name: chain_name(family).to_owned(),
        comment: format!("source address of {family} flows to the virtual IP"),
        hook: None,
        rules,
    }
}

/// A client that is balanced to itself would drop a packet that comes from its own address.
fn hairpin(backend: IpAddr) -> Rule {
    Rule::new(vec![Match::SourceAddress(backend), Match::DestinationAddress(backend)], Action::Masquerade)
        .because("hairpin: the client is the apiserver's own host")
}

/// The kernel chose the source for the route to the virtual IP, before the destination was translated.
fn host(state: &DesiredState, family: Family) -> Chain {
    let rules = backend_addresses(state, family)
        .into_iter()
        .filter_map(|backend| match state.source.preferred.get(&backend) {
            Some(PreferredSource::Local) => None,
            Some(PreferredSource::Address(source)) => Some(
                Rule::new(
                    vec![Match::DestinationAddress(backend), Match::SourceAddressNot(*source)],
                    Action::Snat(*source),
                )
                .because("the address that this node's routes give"),
            ),
            None => Some(
                Rule::new(
                    vec![Match::DestinationAddress(backend), Match::SourceNotOfOutgoingInterface],
                    Action::Masquerade,
                )
                .because("no route known: use an address of the outgoing interface"),
            ),
        })
        .collect();
    Chain {
        name: host_chain_name(family).to_owned(),
        comment: format!("source address of this node's own {family} flows"),
        hook: None,
        rules,
    }
}
