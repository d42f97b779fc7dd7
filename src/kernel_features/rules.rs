//! Tables that ask for one thing each, and the daemon's own with everything in it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Feature, Outcome, Tried, chain, refused};
use crate::model::desired::{DesiredFrontend, DesiredState, SourcePolicy};
use crate::model::snapshot::Affinity;
use crate::model::types::{Family, ServiceKey};
use crate::nftables::build;
use crate::nftables::socket::{NftError, NftSocket};
use crate::nftables::table::{
    Action, BalanceKey, Chain, Hook, Match, Ownership, Rule, Table, Target, TcpFlags,
};

/// Tries them. The table of a daemon stands afterwards, for as long as what is returned, if the kernel takes it.
pub(super) fn attempt(tried: &mut impl FnMut(Tried)) -> Option<NftSocket> {
    let mut socket = match NftSocket::open() {
        Ok(socket) => socket,
        Err(error) => {
            tried((Feature::NfTables, of_nft(&error)));
            return None;
        }
    };
    for (feature, chains) in samples() {
        let outcome = outcome(socket.replace(&table(chains)).map(drop));
        tried((feature, outcome));
        // The next one is refused, too, if this fails.
        let _ = socket.remove();
    }
    tried((Feature::WholeTable, outcome(socket.replace(&build::table(&state())).map(drop))));
    let _ = socket.remove();
    let mut socket = socket.with_ownership(Ownership::Owned);
    let replaced = socket.replace(&build::table(&state()));
    let stands = replaced.is_ok();
    let owned = match replaced {
        Ok(replaced) if replaced.owned => Outcome::Works,
        Ok(_) => Outcome::Missing("the kernel does not know the flags owner and persist together".to_owned()),
        Err(error) => of_nft(&error),
    };
    tried((Feature::TableOwner, owned));
    stands.then_some(socket)
}

fn outcome(result: Result<(), NftError>) -> Outcome {
    result.map_or_else(|error| of_nft(&error), |()| Outcome::Works)
}

fn of_nft(error: &NftError) -> Outcome {
    match error {
        NftError::Open(source) | NftError::Send(source) | NftError::Refused { source, .. } => {
            refused(source, error)
        }
        other => Outcome::Unclear(chain(other)),
    }
}

fn table(chains: Vec<Chain>) -> Table {
    Table { comment: "apivip check", counters: Vec::new(), sets: Vec::new(), chains }
}

fn hooked(name: &str, hook: Hook, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), comment: String::new(), hook: Some(hook), rules }
}

fn samples() -> Vec<(Feature, Vec<Chain>)> {
    let to = Action::Dnat(SocketAddr::from(([192, 0, 2, 1], 6443)));
    let return_if = |condition| Rule::new(vec![condition], Action::Return);
    let pre = |rules| vec![hooked("kill-prerouting", Hook::KillPrerouting, rules)];
    let balance = |by| {
        let targets = ["a", "b"].map(|name| Target { chain: name.to_owned(), comment: String::new() });
        let mut chains = pre(vec![Rule::new(Vec::new(), Action::Balance { by, targets: targets.to_vec() })]);
        chains.extend(targets.map(|t| Chain {
            name: t.chain,
            comment: String::new(),
            hook: None,
            rules: Vec::new(),
        }));
        chains
    };
    let elsewhere = Match::FlowDestinationAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let reset = Rule::new(vec![Match::TcpFlags(TcpFlags::NeitherSynNorRst)], Action::RejectWithReset);
    vec![
        (Feature::NfTables, Vec::new()),
        (
            Feature::Nat,
            vec![
                hooked("nat-prerouting", Hook::NatPrerouting, vec![Rule::new(vec![Match::Tcp], to.clone())]),
                hooked("nat-output", Hook::NatOutput, vec![Rule::new(vec![Match::Tcp], to)]),
                hooked(
                    "nat-postrouting",
                    Hook::NatPostrouting,
                    vec![Rule::new(vec![Match::Tcp], Action::Masquerade)],
                ),
            ],
        ),
        (Feature::Reject, pre(vec![reset])),
        (Feature::Fib, pre(vec![return_if(Match::DestinationIsLocal)])),
        (Feature::Balance, balance(BalanceKey::Random)),
        (Feature::ClientHash, balance(BalanceKey::ClientAddress(Family::V4))),
        (
            Feature::ConntrackRules,
            vec![
                hooked("kill-prerouting", Hook::KillPrerouting, vec![return_if(elsewhere)]),
                hooked(
                    "notrack-output",
                    Hook::NotrackOutput,
                    vec![Rule::new(vec![Match::Tcp], Action::Notrack)],
                ),
            ],
        ),
    ]
}

/// A node with a dead apiserver. Addresses of the loopback device, so that nothing could go astray.
fn state() -> DesiredState {
    let frontend = |vip: [u8; 4], affinity| DesiredFrontend {
        vip: SocketAddr::from((vip, 443)),
        port_name: "https".to_owned(),
        affinity,
        backends: [2, 3].map(|last| SocketAddr::from(([127, 0, 1, last], 6443))).to_vec(),
        dead: vec![SocketAddr::from(([127, 0, 1, 4], 6443))],
        guard: true,
    };
    let six = |last: u16| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, last], 6443));
    DesiredState {
        service: ServiceKey { namespace: "default".to_owned(), name: "kubernetes".to_owned() },
        frontends: vec![
            frontend([127, 0, 1, 1], Affinity::None),
            frontend([127, 0, 2, 1], Affinity::ClientIP),
            DesiredFrontend {
                backends: vec![six(2), six(3)],
                dead: vec![six(4)],
                vip: six(1),
                ..frontend([127, 0, 3, 1], Affinity::None)
            },
        ],
        source: SourcePolicy::default(),
        forwarding: false,
    }
}
