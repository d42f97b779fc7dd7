//! Which kernel features that the daemon needs are there: each is tried in a new network namespace, which is gone when the
//! thread that made it ends.
//!
//! In: nothing. Out: an [`Outcome`] for each [`Feature`]. The daemon's own code makes the requests. They have no effect on
//! what runs on the node, but the kernel may load modules, as it would for the daemon.

mod conntrack;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};

use crate::model::desired::{DesiredFrontend, DesiredState, SourcePolicy};
use crate::model::snapshot::Affinity;
use crate::model::types::{Family, ServiceKey};
use crate::nftables::build;
use crate::nftables::socket::{NftError, NftSocket};
use crate::nftables::table::{
    Action, BalanceKey, Chain, Hook, Match, Ownership, Rule, Table, Target, TcpFlags,
};
use crate::routes::local_vip::{LOCAL_TABLE, LocalVips, TunDevice};
use crate::routes::{HostError, Requests};

/// Something that the daemon asks of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// A table of family inet, by netlink.
    NfTables,
    /// NAT in family inet, in prerouting, output and postrouting.
    Nat,
    /// A TCP reset in prerouting.
    Reject,
    /// Looking up whether an address is local.
    Fib,
    /// A random number and a map of verdicts.
    Balance,
    /// A hash of the client's address.
    ClientHash,
    /// Matches on the conntrack entry of a packet, and notrack.
    ConntrackRules,
    /// All of it: the table of a node with apiservers of both address families, one of them dead.
    WholeTable,
    /// Tables that belong to the daemon and outlive it.
    TableOwner,
    /// Listing conntrack's entries.
    ConntrackNetlink,
    /// A list that the kernel filters.
    ConntrackFilter,
    /// Destroying a socket of the host.
    SocketDestroy,
    /// Raw sockets.
    RawSockets,
    /// Packet sockets with a filter.
    PacketSockets,
    /// A tun device.
    Tun,
    /// A local route on it.
    LocalRoutes,
    /// A routing rule with protocol and port.
    RoutingRules,
}

impl Feature {
    /// Each, in the order in which they are tried.
    pub const ALL: [Self; 17] = [
        Self::NfTables,
        Self::Nat,
        Self::Reject,
        Self::Fib,
        Self::Balance,
        Self::ClientHash,
        Self::ConntrackRules,
        Self::WholeTable,
        Self::TableOwner,
        Self::ConntrackNetlink,
        Self::ConntrackFilter,
        Self::SocketDestroy,
        Self::RawSockets,
        Self::PacketSockets,
        Self::Tun,
        Self::LocalRoutes,
        Self::RoutingRules,
    ];
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The kernel has it.
    Works,
    /// The kernel does not have it, with the error.
    Missing(String),
    /// This process lacks a privilege.
    Forbidden(String),
    /// Cannot be determined.
    Unclear(String),
}

/// A feature and what came of it.
pub type Tried = (Feature, Outcome);

/// Tries every feature, for `limit` at most. A feature that is missing in the answer was not reached.
///
/// # Errors
/// The network namespace could not be made.
pub fn run(limit: Duration) -> io::Result<Vec<Tried>> {
    let (sender, answers) = mpsc::channel();
    thread::Builder::new().name("trial".to_owned()).spawn(move || {
        match unshare(CloneFlags::CLONE_NEWNET) {
            Ok(()) => try_all(&sender),
            Err(errno) => drop(sender.send(Err(errno.into()))),
        }
    })?;
    let deadline = Instant::now() + limit;
    let mut tried = Vec::new();
    while let Ok(one) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        tried.push(one?);
    }
    Ok(tried)
}

/// Dials `vip` in this network namespace, and returns the peer of the connection after translation. Nothing is sent.
///
/// # Errors
/// One line.
pub fn peer_of(vip: SocketAddr) -> Result<SocketAddr, String> {
    conntrack::peer_of(vip)
}

fn try_all(sender: &Sender<io::Result<Tried>>) {
    // The receiver may be gone.
    let mut tried = |one: Tried| drop(sender.send(Ok(one)));
    let loopback = conntrack::loopback_up();
    let tracked = try_rules(&mut tried);
    match loopback {
        Ok(()) => conntrack::connection(tracked.is_some(), &mut tried),
        Err(error) => {
            let unclear = Outcome::Unclear(format!("bring the loopback device up: {}", chain(&error)));
            for feature in [Feature::ConntrackNetlink, Feature::ConntrackFilter, Feature::SocketDestroy] {
                tried((feature, unclear.clone()));
            }
        }
    }
    conntrack::packets(&mut tried);
    try_local_vip(&mut tried);
}

/// What an error of the kernel means for a feature; `said` is the text that is shown.
pub(super) fn refused(source: &io::Error, said: &(dyn Error + 'static)) -> Outcome {
    /// ENOENT and EOPNOTSUPP: no such part; EINVAL and EPROTONOSUPPORT: not known; EAFNOSUPPORT, ENODEV, ENXIO: not built.
    const MISSING: [i32; 8] = [2, 6, 19, 22, 93, 95, 97, 99];
    match source.raw_os_error() {
        Some(1 | 13) => Outcome::Forbidden(chain(said)),
        Some(errno) if MISSING.contains(&errno) => Outcome::Missing(chain(said)),
        _ => Outcome::Unclear(chain(said)),
    }
}

/// An error and its causes on one line.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to a string does not fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!(": {cause}"));
        next = cause.source();
    }
    text
}

/// Tries tables with one feature each, and the daemon's own. If the kernel accepts that, it stays while the returned socket is
/// open.
fn try_rules(tried: &mut impl FnMut(Tried)) -> Option<NftSocket> {
    let mut socket = match NftSocket::open() {
        Ok(socket) => socket,
        Err(error) => {
            tried((Feature::NfTables, of_nft(&error)));
            return None;
        }
    };
    for (feature, chains) in samples() {
        let outcome = nft_outcome(socket.replace(&sample_table(chains)).map(drop));
        tried((feature, outcome));
        // If this fails, the next table is refused, too.
        let _ = socket.remove();
    }
    tried((Feature::WholeTable, nft_outcome(socket.replace(&build::table(&sample_state())).map(drop))));
    let _ = socket.remove();
    let mut socket = socket.with_ownership(Ownership::Owned);
    let replaced = socket.replace(&build::table(&sample_state()));
    let is_there = replaced.is_ok();
    let owned = match replaced {
        Ok(replaced) if replaced.owned => Outcome::Works,
        Ok(_) => {
            Outcome::Missing("the kernel does not support the flags owner and persist together".to_owned())
        }
        Err(error) => of_nft(&error),
    };
    tried((Feature::TableOwner, owned));
    is_there.then_some(socket)
}

fn nft_outcome(result: Result<(), NftError>) -> Outcome {
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

fn sample_table(chains: Vec<Chain>) -> Table {
    Table { comment: "apivip check", counters: Vec::new(), sets: Vec::new(), chains }
}

fn base_chain(name: &str, hook: Hook, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), comment: String::new(), hook: Some(hook), rules }
}

fn samples() -> Vec<(Feature, Vec<Chain>)> {
    let to = Action::Dnat(SocketAddr::from(([192, 0, 2, 1], 6443)));
    let return_if = |condition| Rule::new(vec![condition], Action::Return);
    let pre = |rules| vec![base_chain("kill-prerouting", Hook::KillPrerouting, rules)];
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
    let other_destination = Match::FlowDestinationAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let reset = Rule::new(vec![Match::TcpFlags(TcpFlags::NeitherSynNorRst)], Action::RejectWithReset);
    vec![
        (Feature::NfTables, Vec::new()),
        (
            Feature::Nat,
            vec![
                base_chain(
                    "nat-prerouting",
                    Hook::NatPrerouting,
                    vec![Rule::new(vec![Match::Tcp], to.clone())],
                ),
                base_chain("nat-output", Hook::NatOutput, vec![Rule::new(vec![Match::Tcp], to)]),
                base_chain(
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
                base_chain("kill-prerouting", Hook::KillPrerouting, vec![return_if(other_destination)]),
                base_chain(
                    "notrack-output",
                    Hook::NotrackOutput,
                    vec![Rule::new(vec![Match::Tcp], Action::Notrack)],
                ),
            ],
        ),
    ]
}

/// A node with a dead apiserver. All addresses are of the loopback device, so that no packet could leave.
fn sample_state() -> DesiredState {
    let frontend = |vip: [u8; 4], affinity| DesiredFrontend {
        vip: SocketAddr::from((vip, 443)),
        port_name: "https".to_owned(),
        affinity,
        backends: [2, 3].map(|last| SocketAddr::from(([127, 0, 1, last], 6443))).to_vec(),
        failed: vec![SocketAddr::from(([127, 0, 1, 4], 6443))],
        local_route_allowed: true,
    };
    let six = |last: u16| SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, last], 6443));
    DesiredState {
        service: ServiceKey { namespace: "default".to_owned(), name: "kubernetes".to_owned() },
        frontends: vec![
            frontend([127, 0, 1, 1], Affinity::None),
            frontend([127, 0, 2, 1], Affinity::ClientIP),
            DesiredFrontend {
                backends: vec![six(2), six(3)],
                failed: vec![six(4)],
                vip: six(1),
                ..frontend([127, 0, 3, 1], Affinity::None)
            },
        ],
        source: SourcePolicy::default(),
        forwarding: false,
    }
}

/// Tries what makes a virtual IP local for the proxy: a tun device, a local route on it, a routing rule with a port.
fn try_local_vip(tried: &mut impl FnMut(Tried)) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(make_vip_local(tried)),
        Err(error) => tried((Feature::Tun, Outcome::Unclear(error.to_string()))),
    }
}

async fn make_vip_local(tried: &mut impl FnMut(Tried)) {
    let device = match TunDevice::make().await {
        Ok(device) => {
            tried((Feature::Tun, Outcome::Works));
            device
        }
        Err(error) => return tried((Feature::Tun, of_host(&error))),
    };
    let mut vips = match Requests::open() {
        Ok(requests) => LocalVips::new(Arc::new(requests)),
        Err(error) => return tried((Feature::LocalRoutes, Outcome::Unclear(chain(&error)))),
    };
    let vip = SocketAddr::from(([198, 51, 100, 1], 443));
    let routed = vips.add_local_route(vip.ip(), None, LOCAL_TABLE, device.index()).await;
    tried((Feature::LocalRoutes, host_outcome(routed)));
    tried((Feature::RoutingRules, host_outcome(vips.add_rule(vip).await)));
}

fn host_outcome(result: Result<(), HostError>) -> Outcome {
    result.map_or_else(|error| of_host(&error), |()| Outcome::Works)
}

fn of_host(error: &HostError) -> Outcome {
    refused(&error.source, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_error_is_a_missing_feature_or_a_missing_privilege() {
        let of = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            refused(&error, &error)
        };
        assert!(matches!(of(95), Outcome::Missing(text) if text.contains("not supported")));
        assert!(matches!(of(1), Outcome::Forbidden(_)) && matches!(of(13), Outcome::Forbidden(_)));
        assert!(matches!(of(12), Outcome::Unclear(_)));
    }

    #[test]
    fn peer_of_an_untranslated_connection_is_the_dialed_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(peer_of(address), Ok(address));
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(peer_of(address), Ok(address));
    }

    /// The tests run as root, on a kernel that has everything.
    #[test]
    fn each_feature_is_tried_once_without_a_change_of_the_node() {
        let before = crate::routes::links::links().unwrap();
        let tried = run(Duration::from_secs(50)).unwrap();
        assert_eq!(tried.iter().map(|(feature, _)| *feature).collect::<Vec<_>>(), Feature::ALL);
        for (feature, outcome) in &tried {
            assert_eq!(*outcome, Outcome::Works, "{feature:?}");
        }
        assert_eq!(crate::routes::links::links().unwrap(), before);
    }
}
