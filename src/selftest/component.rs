//! Which component routed a connection to where it was answered: from what was seen to a closed set of components; and
//! whether connections of Pods and other hosts get further than this node. Pure.
//!
//! What each component looks like, from a connection of this host to the virtual IP:
//!
//! | component | accepted by the forwarder | conntrack: this port to the virtual IP | counter of that backend in the table |
//! |---|---|---|---|
//! | rules | no | answered by a backend | rose |
//! | forwarder | yes | none, or answered by the virtual IP | |
//! | another program's DNAT (kube-proxy) | no | answered by a backend | did not rise |
//! | the same, with an outdated view | no | answered by another address | |
//! | a local listener | no | none, or answered by the virtual IP, whose socket is on this host | |
//! | a machine that has the address | no | answered by the virtual IP, no socket here | |
//! | before netfilter (Cilium's socket load balancer) | no | none: the connection goes to the backend from the start | |
//!
//! A connection that is not established shows nothing of that. One thing is certain all the same: while the forwarder
//! serves the virtual IP it has listeners there, so whatever refuses this host's connections is a rule of another program.
//!
//! The daemon's own connection does not pass the hook `forward`, where a node's firewall may drop packets from Pods. The
//! table's counters show it: connections that arrive for a virtual IP, and those of them that go on to an API server.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::SelfTestFailure;
use crate::model::health::FailReason;
use crate::model::types::{Backend, Vip};

/// The component that handled a connection to the virtual IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// `table inet apivip`.
    Rules,
    /// The daemon's forwarder.
    Forwarder,
    /// Another program's translation.
    OtherProgramDnat,
    /// A program of this host that listens on the virtual IP.
    LocalListener,
    /// Something that chose the backend before netfilter saw a packet.
    BeforeNetfilter,
    /// A machine that has the address.
    Network,
    /// Another program's rules, which reject this host's connections to the forwarder.
    OtherProgramReject,
    /// There is no evidence.
    Unknown,
}

impl Component {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Rules,
        Self::Forwarder,
        Self::OtherProgramDnat,
        Self::LocalListener,
        Self::BeforeNetfilter,
        Self::Network,
        Self::OtherProgramReject,
        Self::Unknown,
    ];

    /// The label in logs, status and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Forwarder => "forwarder",
            Self::OtherProgramDnat => "other_program_dnat",
            Self::LocalListener => "local_listener",
            Self::BeforeNetfilter => "before_netfilter",
            Self::Network => "network",
            Self::OtherProgramReject => "other_program_reject",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the component is apivip.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Rules | Self::Forwarder)
    }

    /// One sentence for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Rules => "the nftables rules of apivip redirect the connection to an API server",
            Self::Forwarder => "the forwarder of apivip proxies the connection",
            Self::OtherProgramDnat => {
                "the rules of another program translate the virtual IP before those of apivip (kube-proxy, or a table with an earlier priority)"
            }
            Self::LocalListener => {
                "a program on this host listens on the virtual IP and accepts its connections"
            }
            Self::BeforeNetfilter => {
                "a component before netfilter selects the API server, such as the socket load balancer of Cilium, so the rules of apivip see no packet"
            }
            Self::Network => {
                "nothing on this host translates the virtual IP: a machine that has the address accepts the connection"
            }
            Self::OtherProgramReject => {
                "the rules of another program reject connections from this node while the forwarder serves the virtual IP, as those of kube-proxy do in nftables mode"
            }
            Self::Unknown => "the component that accepted the connection is unknown",
        }
    }
}

/// What the kernel knows of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionTrace {
    /// The reply source of conntrack's entry for the connection as it was opened; `None`: there is no such entry.
    pub answers: Option<SocketAddr>,
    /// The backend to which conntrack has an entry from this local port, never translated.
    pub direct: Option<Backend>,
    /// The other end is a socket of this host.
    pub own_socket: bool,
}

/// Whether the table's counter of a backend rose while the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CounterChange {
    /// It did.
    Increased,
    /// It did not, or there is none.
    Unchanged,
    /// It could not be read, or was reset meanwhile.
    Unknown,
}

/// The component that rejected a connection.
pub(super) fn component_without_connection(
    failure: Option<SelfTestFailure>,
    forwarding: bool,
) -> Option<Component> {
    let refused = failure == Some(SelfTestFailure::Failed(FailReason::Refused));
    (refused && forwarding).then_some(Component::OtherProgramReject)
}

/// The component, and where the connection was routed to, as far as that was seen.
pub(super) fn identify_component(
    vip: Vip,
    forwarded: bool,
    trace: Option<ConnectionTrace>,
    backends: &BTreeSet<Backend>,
    counted: impl FnOnce(Backend) -> CounterChange,
) -> (Component, Option<SocketAddr>) {
    if forwarded {
        return (Component::Forwarder, None);
    }
    let Some(ConnectionTrace { answers, direct, own_socket }) = trace else {
        return (Component::Unknown, None);
    };
    match answers {
        Some(backend) if backend != vip => {
            let ours = backends.contains(&backend) && counted(backend) != CounterChange::Unchanged;
            (if ours { Component::Rules } else { Component::OtherProgramDnat }, Some(backend))
        }
        _ if own_socket => (Component::LocalListener, None),
        Some(_) => (Component::Network, None),
        None => (Component::BeforeNetfilter, direct),
    }
}

/// What the table counted of one virtual IP. A packet that is dropped leaves nothing in conntrack, so a SYN that is sent
/// again counts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardedCounts {
    /// Connections that arrived from Pods and other hosts.
    pub arrived: u64,
    /// Those that were forwarded to an API server, or delivered to one on this node.
    pub forwarded: u64,
}

/// What is known of forwarded connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedTraffic {
    /// None arrived, or too few to tell.
    #[default]
    Unknown,
    /// The latest were forwarded.
    Passing,
    /// So many arrived since the latest that was forwarded, if any was.
    Blocked(u64),
}

impl ForwardedTraffic {
    /// The label in status.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Passing => "passing",
            Self::Blocked(_) => "blocked",
        }
    }
}

/// One client whose connection attempt fails sends four SYNs within 7 s.
const BLOCKED_AFTER: u64 = 4;

/// Compares the counters with earlier ones.
#[derive(Debug, Default)]
pub(super) struct ForwardedTracker {
    base: Option<ForwardedCounts>,
    way: ForwardedTraffic,
}

impl ForwardedTracker {
    /// Takes in what is counted now; `None` if it cannot be read, or means nothing.
    pub(super) fn update(&mut self, counts: Option<ForwardedCounts>) -> ForwardedTraffic {
        let (base, now) = match (self.base, counts) {
            (Some(base), Some(now)) if now.arrived >= base.arrived && now.forwarded >= base.forwarded => {
                (base, now)
            }
            // Counting begins, or began anew.
            (_, counts) => {
                *self = Self { base: counts, way: ForwardedTraffic::Unknown };
                return self.way;
            }
        };
        let arrived = now.arrived - base.arrived;
        if now.forwarded > base.forwarded {
            *self = Self { base: Some(now), way: ForwardedTraffic::Passing };
        } else if arrived >= BLOCKED_AFTER {
            self.way = ForwardedTraffic::Blocked(arrived);
        }
        self.way
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

    fn of(
        forwarded: bool,
        trace: Option<ConnectionTrace>,
        counted: CounterChange,
    ) -> (Component, Option<SocketAddr>) {
        identify_component(at(VIP), forwarded, trace, &[at(BACKEND)].into(), |_| counted)
    }

    fn answered_by(text: &str) -> Option<ConnectionTrace> {
        Some(ConnectionTrace { answers: Some(at(text)), ..ConnectionTrace::default() })
    }

    #[test]
    fn translation_is_by_our_rules_if_our_counter_increased() {
        let backend = Some(at(BACKEND));
        for (counted, expected) in [
            (CounterChange::Increased, Component::Rules),
            (CounterChange::Unknown, Component::Rules),
            (CounterChange::Unchanged, Component::OtherProgramDnat),
        ] {
            assert_eq!(of(false, answered_by(BACKEND), counted), (expected, backend));
        }
        let other = of(false, answered_by("192.0.2.99:6443"), CounterChange::Increased);
        assert_eq!(other, (Component::OtherProgramDnat, Some(at("192.0.2.99:6443"))));
    }

    #[test]
    fn forwarders_accept_list_takes_precedence_over_conntrack() {
        let trace = ConnectionTrace { answers: Some(at(VIP)), own_socket: true, direct: None };
        assert_eq!(of(true, Some(trace), CounterChange::Unchanged), (Component::Forwarder, None));
        assert_eq!(of(true, None, CounterChange::Unknown).0, Component::Forwarder);
        assert_eq!(of(false, Some(trace), CounterChange::Unchanged).0, Component::LocalListener);
    }

    #[test]
    fn refusal_while_forwarding_is_another_programs_rule() {
        let refused = Some(SelfTestFailure::Failed(FailReason::Refused));
        assert_eq!(component_without_connection(refused, true), Some(Component::OtherProgramReject));
        assert_eq!(component_without_connection(refused, false), None);
        assert_eq!(
            component_without_connection(Some(SelfTestFailure::Failed(FailReason::Timeout)), true),
            None
        );
        assert_eq!(component_without_connection(None, true), None);
    }

    #[test]
    fn untranslated_address_is_a_local_listener_or_the_network() {
        assert_eq!(of(false, answered_by(VIP), CounterChange::Unchanged).0, Component::Network);
        let untracked = ConnectionTrace { own_socket: true, ..ConnectionTrace::default() };
        assert_eq!(of(false, Some(untracked), CounterChange::Unchanged).0, Component::LocalListener);
    }

    #[test]
    fn connection_without_vip_entry_was_redirected_below_netfilter() {
        let direct = Some(at(BACKEND));
        let trace = ConnectionTrace { direct, ..ConnectionTrace::default() };
        assert_eq!(of(false, Some(trace), CounterChange::Unchanged), (Component::BeforeNetfilter, direct));
        assert_eq!(
            of(false, Some(ConnectionTrace::default()), CounterChange::Unchanged),
            (Component::BeforeNetfilter, None)
        );
        assert_eq!(of(false, None, CounterChange::Unchanged), (Component::Unknown, None));
    }

    fn looks(counted: &[Option<(u64, u64)>]) -> Vec<ForwardedTraffic> {
        let mut tracker = ForwardedTracker::default();
        counted
            .iter()
            .map(|c| tracker.update(c.map(|(arrived, forwarded)| ForwardedCounts { arrived, forwarded })))
            .collect()
    }

    #[test]
    fn several_arrived_and_none_forwarded_is_blocked() {
        use ForwardedTraffic::{Blocked, Passing, Unknown};
        let seen = [Some((100, 100)), Some((103, 100)), Some((104, 100)), Some((109, 100)), Some((109, 101))];
        assert_eq!(looks(&seen), [Unknown, Unknown, Blocked(4), Blocked(9), Passing]);
        let again = [Some((0, 0)), Some((1, 1)), Some((2, 1)), Some((5, 1))];
        assert_eq!(
            looks(&again),
            [Unknown, Passing, Passing, Blocked(4)],
            "counted since the latest that went on"
        );
    }

    #[test]
    fn reset_or_missing_counters_are_unseen() {
        use ForwardedTraffic::{Blocked, Unknown};
        assert_eq!(looks(&[Some((9, 9)), Some((5, 0)), Some((9, 0))]), [Unknown, Unknown, Blocked(4)]);
        assert_eq!(
            looks(&[Some((0, 0)), Some((8, 0)), None, Some((8, 0))]),
            [Unknown, Blocked(8), Unknown, Unknown]
        );
    }
}
