//! The chains that decide which source address an apiserver sees. Pure.
//!
//! Only the first packet of a flow comes here, and the first mapping that a nat chain makes stands.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::table::{Action, Chain, Match, Rule};
use crate::model::desired::{DesiredState, Masquerade, PreferredSource, SourceAddress};
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

fn own_chain_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "source-ipv4-own",
        Family::V6 => "source-ipv6-own",
    }
}

/// The chains of each family that has a frontend: one for everybody, one for the node's own traffic, and one that gives the
/// node's own address to others, where routes say which.
pub(super) fn source_chains(state: &DesiredState) -> Vec<Chain> {
    [Family::V4, Family::V6]
        .into_iter()
        .filter(|family| state.frontends.iter().any(|f| Family::of(f.vip.ip()) == *family))
        .flat_map(|family| [Some(everybody(state, family)), Some(host(state, family)), own(state, family)])
        .flatten()
        .collect()
}

/// Gives a flow an address of this node.
fn masquerade(state: &DesiredState, family: Family) -> Action {
    match own(state, family) {
        Some(chain) => Action::Goto(chain.name),
        None => Action::Masquerade,
    }
}

/// What others than this node itself get in place of their address. Masquerading takes an address of the outgoing interface,
/// and a route may name another one, as where the node's address is on lo.
fn own(state: &DesiredState, family: Family) -> Option<Chain> {
    let named = backend_addresses(state, family).into_iter().filter_map(|backend| {
        match state.source.preferred.get(&backend) {
            Some(PreferredSource::Address(source)) if source.named => Some((backend, source)),
            _ => None,
        }
    });
    let to = |(backend, source): (IpAddr, &SourceAddress)| {
        let rule = |way: Option<Match>| {
            let matches = [Match::DestinationAddress(backend)].into_iter().chain(way).collect();
            Rule::new(matches, Action::Snat(source.address))
                .with_comment("the address that the routes of this node select")
        };
        ways(source).into_iter().map(rule).collect::<Vec<_>>()
    };
    let mut rules: Vec<Rule> = named.flat_map(to).collect();
    if rules.is_empty() {
        return None;
    }
    rules
        .push(Rule::new(Vec::new(), Action::Masquerade).with_comment("an address of the outgoing interface"));
    Some(Chain {
        name: own_chain_name(family).to_owned(),
        comment: format!("address of the node for {family} connections of others"),
        hook: None,
        rules,
    })
}

/// One match for each interface that the source is right for; a single `None` where it is right whichever it is.
fn ways(source: &SourceAddress) -> Vec<Option<Match>> {
    match source.interfaces.is_empty() {
        true => vec![None],
        false => source.interfaces.iter().map(|name| Some(Match::LeavesBy(*name))).collect(),
    }
}

fn everybody(state: &DesiredState, family: Family) -> Chain {
    let policy = &state.source;
    let mut rules = vec![
        Rule::new(vec![Match::SourceIsLocal], Action::Goto(host_chain_name(family).to_owned()))
            .with_comment("sent by this node itself"),
    ];
    if policy.masquerade == Masquerade::Always {
        rules.push(Rule::new(Vec::new(), masquerade(state, family)).with_comment("--masquerade always"));
    } else {
        rules.extend(
            backend_addresses(state, family)
                .into_iter()
                .map(|backend| hairpin(backend, masquerade(state, family))),
        );
        let cidrs: Vec<_> = policy.cluster_cidrs.iter().filter(|c| c.family() == family).collect();
        rules.extend(cidrs.iter().map(|cidr| {
            Rule::new(vec![Match::SourceWithin(**cidr)], Action::Return)
                .with_comment("--cluster-cidr: a Pod keeps its address")
        }));
        if !cidrs.is_empty() {
            rules.push(
                Rule::new(Vec::new(), masquerade(state, family))
                    .with_comment("a client outside --cluster-cidr"),
            );
        }
    }
    Chain {
        name: chain_name(family).to_owned(),
        comment: format!("source address of {family} connections to the virtual IP"),
        hook: None,
        rules,
    }
}

/// A client that is balanced to itself would drop a packet that comes from its own address.
fn hairpin(backend: IpAddr, action: Action) -> Rule {
    Rule::new(vec![Match::SourceAddress(backend), Match::DestinationAddress(backend)], action)
        .with_comment("hairpin: the client is the host of the API server")
}

/// The kernel chose the source for the route to the virtual IP, before the destination was translated. Which way the packet
/// takes after that is known here only, since routing rules and equal next hops may choose it by more than the destination.
fn host(state: &DesiredState, family: Family) -> Chain {
    let rules = backend_addresses(state, family).into_iter().flat_map(|backend| {
        match state.source.preferred.get(&backend) {
            Some(PreferredSource::Local) => Vec::new(),
            Some(PreferredSource::Address(source)) => routed(backend, source),
            None => vec![fitting(backend, "no route known: use an address of the outgoing interface")],
        }
    });
    Chain {
        name: host_chain_name(family).to_owned(),
        comment: format!("source address of {family} connections of this node"),
        hook: None,
        rules: rules.collect(),
    }
}

/// Where the route leads, the route's source. Any other way, an address that fits it.
fn routed(backend: IpAddr, source: &SourceAddress) -> Vec<Rule> {
    let wrong = match source.named || source.certain {
        true => Match::SourceAddressNot(source.address),
        // Another address of the interface may be there since a routing rule wants it so.
        false => Match::SourceNotOfOutgoingInterface,
    };
    let rule = |way: Option<Match>| {
        let matches = [Match::DestinationAddress(backend)].into_iter().chain(way).chain([wrong]).collect();
        Rule::new(matches, Action::Snat(source.address))
            .with_comment("the address that the routes of this node select")
    };
    let mut rules: Vec<Rule> = ways(source).into_iter().map(rule).collect();
    if !source.interfaces.is_empty() {
        if source.named {
            rules.push(
                Rule::new(
                    vec![Match::DestinationAddress(backend), Match::SourceAddress(source.address)],
                    Action::Return,
                )
                .with_comment("an address that a route names is correct on any path"),
            );
        }
        rules.push(fitting(backend, "another path: use an address of the outgoing interface"));
    }
    rules
}

fn fitting(backend: IpAddr, why: &str) -> Rule {
    Rule::new(
        vec![Match::DestinationAddress(backend), Match::SourceNotOfOutgoingInterface],
        Action::Masquerade,
    )
    .with_comment(why)
}

/// Addresses of one family among the backends of a state, each once.
fn backend_addresses(state: &DesiredState, family: Family) -> BTreeSet<IpAddr> {
    state.backends().iter().map(|b| b.ip()).filter(|ip| Family::of(*ip) == family).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::InterfaceName;
    use crate::model::desired::{DesiredFrontend, SourcePolicy};
    use crate::model::snapshot::Affinity;

    /// The rules of the chains about one backend whose source is `source`.
    fn rules(source: SourceAddress) -> Vec<Vec<String>> {
        let backend: std::net::SocketAddr = "192.0.2.11:6443".parse().unwrap();
        let state = DesiredState {
            service: "default/kubernetes".parse().unwrap(),
            frontends: vec![DesiredFrontend {
                vip: "10.96.0.1:443".parse().unwrap(),
                port_name: String::new(),
                affinity: Affinity::None,
                backends: vec![backend],
                failed: Vec::new(),
                local_route_allowed: true,
            }],
            source: SourcePolicy {
                masquerade: Masquerade::Auto,
                cluster_cidrs: Vec::new(),
                preferred: [(backend.ip(), PreferredSource::Address(source))].into(),
            },
            forwarding: false,
        };
        let text = |rule: &Rule| Rule { comment: None, ..rule.clone() }.to_string();
        source_chains(&state).iter().map(|chain| chain.rules.iter().map(text).collect()).collect()
    }

    fn source(named: bool, certain: bool, interfaces: &[&str]) -> SourceAddress {
        let interfaces = interfaces.iter().filter_map(|name| InterfaceName::new(name)).collect();
        SourceAddress { address: "192.0.2.1".parse().unwrap(), interfaces, named, certain }
    }

    #[test]
    fn interface_address_is_used_only_on_that_interface() {
        let other_way = "ip daddr 192.0.2.11 fib saddr . oif type != local masquerade";
        let chains = rules(source(false, true, &["eth0"]));
        let given =
            "ip daddr 192.0.2.11 oifname \"eth0\" ip saddr != 192.0.2.1 snat ip to 192.0.2.1".to_owned();
        assert_eq!(chains[1], [given, other_way.to_owned()]);
        assert_eq!(chains.len(), 2, "others are masqueraded to the interface's address");
        // Rules that look at the source may have chosen another address of the same interface.
        let chains = rules(source(false, false, &["eth0"]));
        let fits = "ip daddr 192.0.2.11 oifname \"eth0\" fib saddr . oif type != local snat ip to 192.0.2.1";
        assert_eq!(chains[1], [fits, other_way]);
    }

    #[test]
    fn address_named_by_routes_is_used_on_every_interface() {
        let chains = rules(source(true, false, &["eth0", "eth1"]));
        let [everybody, host, own] = chains.as_slice() else { panic!("{chains:?}") };
        assert!(everybody[1].ends_with("goto source-ipv4-own"), "hairpin: {everybody:?}");
        assert_eq!(host.len(), 4);
        assert_eq!(host[2], "ip daddr 192.0.2.11 ip saddr 192.0.2.1 return");
        let by = |name: &str| format!("ip daddr 192.0.2.11 oifname \"{name}\" snat ip to 192.0.2.1");
        assert_eq!(*own, [by("eth0"), by("eth1"), "masquerade".to_owned()]);
    }
}
