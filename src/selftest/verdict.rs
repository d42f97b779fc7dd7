//! Who led a connection to where it was answered: from what was seen to a closed set of verdicts. Pure.
//!
//! What each component looks like, from a connection of this host to the virtual IP:
//!
//! | component | accepted by the forwarder | conntrack: this port to the virtual IP | counter of that backend in the table |
//! |---|---|---|---|
//! | rules | no | answered by a backend | rose |
//! | forwarder | yes | none, or answered by the virtual IP | |
//! | another program's DNAT (kube-proxy) | no | answered by a backend | did not rise |
//! | the same, with an outdated view | no | answered by somebody else | |
//! | a local listener | no | none, or answered by the virtual IP, whose socket is on this host | |
//! | a machine that has the address | no | answered by the virtual IP, no socket here | |
//! | below netfilter (Cilium's socket load balancer) | no | none: the connection goes to the backend from the start | |
//!
//! A connection that does not come about shows nothing of that. One thing can be told all the same: while the forwarder
//! serves the virtual IP it has listeners there, so whatever refuses this host's connections is a rule of another program.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Failure;
use crate::model::health::FailReason;
use crate::model::types::{Backend, Vip};

/// Who took a connection to the virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// `table inet apivip`.
    Rules,
    /// The daemon's forwarder.
    Forwarder,
    /// Another program's translation.
    NeighbourDnat,
    /// A program of this host that listens on the virtual IP.
    LocalListener,
    /// Something that chose the backend before netfilter saw a packet.
    BelowNetfilter,
    /// A machine that has the address.
    Network,
    /// Another program's rules, which reject this host's connections to the forwarder.
    NeighbourReject,
    /// There is no evidence.
    Unknown,
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Rules,
        Self::Forwarder,
        Self::NeighbourDnat,
        Self::LocalListener,
        Self::BelowNetfilter,
        Self::Network,
        Self::NeighbourReject,
        Self::Unknown,
    ];

    /// The label in logs, status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Forwarder => "forwarder",
            Self::NeighbourDnat => "neighbour-dnat",
            Self::LocalListener => "local-listener",
            Self::BelowNetfilter => "below-netfilter",
            Self::Network => "network",
            Self::NeighbourReject => "neighbour-reject",
            Self::Unknown => "unknown",
        }
    }

    /// Whether it is apivip.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Rules | Self::Forwarder)
    }

    /// One sentence for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Rules => "the kernel's rules of apivip lead to an apiserver",
            Self::Forwarder => "the forwarder of apivip carries the connection",
            Self::NeighbourDnat => {
                "another program's rules translate the virtual IP before apivip's do (kube-proxy, or a table with an earlier priority)"
            }
            Self::LocalListener => {
                "a program of this host listens on the virtual IP and takes its connections"
            }
            Self::BelowNetfilter => {
                "something below netfilter chooses the apiserver, such as a socket load balancer (Cilium's), and apivip's rules see no packet"
            }
            Self::Network => {
                "nothing on this host translates the virtual IP: a machine that has the address takes the connection"
            }
            Self::NeighbourReject => {
                "another program's rules reject this node's own connections while the forwarder serves the virtual IP, as kube-proxy's do in nftables mode"
            }
            Self::Unknown => "what took the connection could not be seen",
        }
    }
}

/// What the kernel knows of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// Who answers in conntrack's entry for the connection as it was dialled; `None`: there is no such entry.
    pub answers: Option<SocketAddr>,
    /// The backend to which conntrack has an entry from this local port, never translated.
    pub direct: Option<Backend>,
    /// The other end is a socket of this host.
    pub own_socket: bool,
}

/// Whether the table's counter of a backend rose while the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It did.
    Rose,
    /// It did not, or there is none.
    Stayed,
    /// It could not be read, or was reset meanwhile.
    Unknown,
}

/// The verdict over a connection that did not come about.
pub(super) fn without_connection(failure: Option<Failure>, forwarding: bool) -> Option<Component> {
    let refused = failure == Some(Failure::Failed(FailReason::Refused));
    (refused && forwarding).then_some(Component::NeighbourReject)
}

/// The verdict, and to whom the connection was led, as far as that was seen.
pub(super) fn verdict(
    vip: Vip,
    forwarded: bool,
    trace: Option<Trace>,
    backends: &BTreeSet<Backend>,
    counted: impl FnOnce(Backend) -> Counted,
) -> (Component, Option<SocketAddr>) {
    if forwarded {
        return (Component::Forwarder, None);
    }
    let Some(Trace { answers, direct, own_socket }) = trace else { return (Component::Unknown, None) };
    match answers {
        Some(backend) if backend != vip => {
            let ours = backends.contains(&backend) && counted(backend) != Counted::Stayed;
            (if ours { Component::Rules } else { Component::NeighbourDnat }, Some(backend))
        }
        _ if own_socket => (Component::LocalListener, None),
        Some(_) => (Component::Network, None),
        None => (Component::BelowNetfilter, direct),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: &str = "10.96.0.1:443";
    const BACKEND: &str = "192.0.2.11:6443";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn of(forwarded: bool, trace: Option<Trace>, counted: Counted) -> (Component, Option<SocketAddr>) {
        verdict(at(VIP), forwarded, trace, &[at(BACKEND)].into(), |_| counted)
    }

    fn answered_by(text: &str) -> Option<Trace> {
        Some(Trace { answers: Some(at(text)), ..Trace::default() })
    }

    #[test]
    fn a_translation_is_ours_if_our_counter_rose() {
        let backend = Some(at(BACKEND));
        for (counted, expected) in [
            (Counted::Rose, Component::Rules),
            (Counted::Unknown, Component::Rules),
            (Counted::Stayed, Component::NeighbourDnat),
        ] {
            assert_eq!(of(false, answered_by(BACKEND), counted), (expected, backend));
        }
        let stranger = of(false, answered_by("192.0.2.99:6443"), Counted::Rose);
        assert_eq!(stranger, (Component::NeighbourDnat, Some(at("192.0.2.99:6443"))));
    }

    #[test]
    fn the_forwarders_own_list_counts_more_than_conntrack() {
        let trace = Trace { answers: Some(at(VIP)), own_socket: true, direct: None };
        assert_eq!(of(true, Some(trace), Counted::Stayed), (Component::Forwarder, None));
        assert_eq!(of(true, None, Counted::Unknown).0, Component::Forwarder);
        assert_eq!(of(false, Some(trace), Counted::Stayed).0, Component::LocalListener);
    }

    #[test]
    fn only_a_rule_refuses_what_the_forwarder_listens_for() {
        let refused = Some(Failure::Failed(FailReason::Refused));
        assert_eq!(without_connection(refused, true), Some(Component::NeighbourReject));
        assert_eq!(without_connection(refused, false), None);
        assert_eq!(without_connection(Some(Failure::Failed(FailReason::Timeout)), true), None);
        assert_eq!(without_connection(None, true), None);
    }

    #[test]
    fn an_address_that_nobody_translates_is_somebodys() {
        assert_eq!(of(false, answered_by(VIP), Counted::Stayed).0, Component::Network);
        let untracked = Trace { own_socket: true, ..Trace::default() };
        assert_eq!(of(false, Some(untracked), Counted::Stayed).0, Component::LocalListener);
    }

    #[test]
    fn a_connection_that_never_was_to_the_virtual_ip_was_led_below_netfilter() {
        let direct = Some(at(BACKEND));
        let trace = Trace { direct, ..Trace::default() };
        assert_eq!(of(false, Some(trace), Counted::Stayed), (Component::BelowNetfilter, direct));
        assert_eq!(of(false, Some(Trace::default()), Counted::Stayed), (Component::BelowNetfilter, None));
        assert_eq!(of(false, None, Counted::Stayed), (Component::Unknown, None));
    }
}
