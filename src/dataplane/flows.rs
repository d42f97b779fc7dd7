//! What is done to the TCP flows of a backend that is silent or dead: orders, their reports, and the trait of who carries them
//! out.
//!
//! In: a [`FlowOrder`] or [`StaleFlows`]. Out: a [`FlowReport`] for each order. Values and a trait only; `conntrack` does it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::model::desired::DesiredState;
use crate::model::types::{Backend, Family, Vip};

/// Moves, challenges and ends flows.
pub trait FlowKiller {
    /// Takes up an order. One for the same backend that is under way goes on as the new one says, and one report covers
    /// both; but a weaker one changes nothing about a stronger one.
    fn start(&mut self, order: FlowOrder);

    /// Stops ending the flows of a backend that is up again, at once; a report says how far that got. Without an order
    /// to end them nothing happens: to move and to challenge harms nobody.
    fn cancel(&mut self, backend: Backend);

    /// The backend answers again: connections that are being opened to it come about, and none is moved any more.
    fn stop_rerouting(&mut self, backend: Backend);

    /// Deletes the conntrack entries of these connections: a client that sends its SYN again, or dials from the same
    /// port, would not be translated as others are.
    fn delete_stale(&mut self, stale: Vec<StaleFlows>);

    /// The next report. Cancel safe: none is lost when the future is dropped.
    fn finished(&mut self) -> impl Future<Output = FlowReport>;
}

/// Without a killer no flow is ended.
impl<F: FlowKiller> FlowKiller for Option<F> {
    fn start(&mut self, order: FlowOrder) {
        if let Some(killer) = self {
            killer.start(order);
        }
    }

    fn cancel(&mut self, backend: Backend) {
        if let Some(killer) = self {
            killer.cancel(backend);
        }
    }

    fn stop_rerouting(&mut self, backend: Backend) {
        if let Some(killer) = self {
            killer.stop_rerouting(backend);
        }
    }

    fn delete_stale(&mut self, stale: Vec<StaleFlows>) {
        if let Some(killer) = self {
            killer.delete_stale(stale);
        }
    }

    async fn finished(&mut self) -> FlowReport {
        match self {
            Some(killer) => killer.finished().await,
            None => std::future::pending().await,
        }
    }
}

/// What an order does to the flows of its backend, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Connections that are being opened go to another backend with their client's next SYN. Established ones are left alone.
    Reroute,
    /// Every open flow gets a challenge SYN, and so its client sends a challenge ACK to the backend. A live connection stays;
    /// one that the backend's kernel does not know any more, since its host restarted, is reset by that host.
    Challenge,
    /// Connections that are being opened move, and every open flow is ended.
    Reset {
        /// The table's kill rule is not in place: answer clients with resets of our own.
        own_reset: bool,
    },
}

impl Purpose {
    /// The purpose as a report has it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Reroute => "reroute",
            Self::Challenge => "challenge",
            Self::Reset { .. } => "reset",
        }
    }

    /// Whether flows are ended.
    pub fn ends(self) -> bool {
        matches!(self, Self::Reset { .. })
    }

    /// Whether an order of this purpose changes nothing about one of `other` that is under way.
    pub(crate) fn is_weaker_than(self, other: Self) -> bool {
        let strength = |purpose| match purpose {
            Self::Reroute => 0,
            Self::Challenge => 1,
            Self::Reset { .. } => 2,
        };
        strength(self) < strength(other)
    }
}

impl Serialize for Purpose {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

/// A backend, and what is to happen to its flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowOrder {
    /// The backend that is silent or dead.
    pub backend: Backend,
    /// The virtual IPs that lead to it.
    pub vips: Vec<Vip>,
    /// What is to be done.
    pub purpose: Purpose,
}

impl FlowOrder {
    /// Those of the virtual IPs that can lead to the backend.
    pub fn vips_of_its_family(&self) -> Vec<Vip> {
        of_its_family(&self.vips, self.backend).collect()
    }
}

/// Those of `vips` that can lead to `backend`.
pub fn of_its_family(vips: &[Vip], backend: Backend) -> impl Iterator<Item = Vip> {
    vips.iter().copied().filter(move |vip| Family::of(vip.ip()) == Family::of(backend.ip()))
}

/// How one order went. Times count from the moment that the order was taken up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// The backend.
    pub backend: Backend,
    /// What was done, by the strongest order that this covers.
    pub purpose: Purpose,
    /// When the order was taken up.
    #[serde(skip)]
    pub started: Instant,
    /// Entries without an answer from the backend that were deleted, so that the client's next SYN goes to another backend.
    pub syn_sent: u64,
    /// Open flows found at first, and when the order was given again.
    pub flows: u64,
    /// Flows that were challenged, each counted once.
    pub challenged: u64,
    /// Those of them that had ended by the time that the challenges were over.
    pub ended: u64,
    /// Packets sent to clients.
    pub challenge_syns: u64,
    /// Resets of our own sent to clients, where the order asked for them.
    pub resets: u64,
    /// Rounds of challenge SYNs.
    pub rounds: u32,
    /// Sockets of this host that were destroyed.
    pub sockets: u64,
    /// Open flows at the end, by reason.
    pub remaining: BTreeMap<Remaining, u64>,
    /// Until conntrack had been read for the first time.
    #[serde(serialize_with = "milliseconds")]
    pub found_after: Duration,
    /// Until every flow found at first had been challenged, or its socket destroyed.
    #[serde(serialize_with = "milliseconds")]
    pub challenged_after: Duration,
    /// Until the last flow was seen to have ended.
    #[serde(serialize_with = "milliseconds")]
    pub last_ended: Duration,
    /// All of it.
    #[serde(serialize_with = "milliseconds")]
    pub took: Duration,
    /// The order was cancelled: the backend is up again.
    pub cancelled: bool,
    /// What could not be used, if anything.
    pub degraded: Option<String>,
}

impl FlowReport {
    /// A report of nothing yet, for an order that is taken up now.
    pub(crate) fn new(backend: Backend, purpose: Purpose) -> Self {
        Self {
            backend,
            purpose,
            started: Instant::now(),
            syn_sent: 0,
            flows: 0,
            challenged: 0,
            ended: 0,
            challenge_syns: 0,
            resets: 0,
            rounds: 0,
            sockets: 0,
            remaining: BTreeMap::new(),
            found_after: Duration::ZERO,
            challenged_after: Duration::ZERO,
            last_ended: Duration::ZERO,
            took: Duration::ZERO,
            cancelled: false,
            degraded: None,
        }
    }
}

/// Why a flow was left open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remaining {
    /// A challenge SYN needs CAP_NET_RAW, and the client's next packet has not come.
    NotPermitted,
    /// The node's own output policy drops challenge SYNs, and there was no way around it.
    OutputPolicy,
    /// The node has no route to the client.
    NoRoute,
    /// The client did not answer: it drops INVALID, is gone, or stands behind a second NAT.
    NoAnswer,
    /// The rate, or the client's own limit of answers, did not let it happen within the bound.
    OutOfTime,
}

impl Remaining {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::NotPermitted, Self::OutputPolicy, Self::NoRoute, Self::NoAnswer, Self::OutOfTime];

    /// The reason as a metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotPermitted => "not_permitted",
            Self::OutputPolicy => "output_policy",
            Self::NoRoute => "no_route",
            Self::NoAnswer => "no_answer",
            Self::OutOfTime => "out_of_time",
        }
    }
}

impl fmt::Display for Remaining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl Serialize for Remaining {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.label())
    }
}

fn milliseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((duration.as_secs_f64() * 1e6).round() / 1e3)
}

/// Connections to one virtual IP that the rules do not translate as they translate others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleFlows {
    /// What their clients dialled.
    pub vip: Vip,
    /// The backends that the rules translate it to: what goes there is as it should be.
    pub backends: BTreeSet<Backend>,
    /// Also those to the virtual IP itself that have ended: a client that dials from the same port meets that memory. Not
    /// while the proxy has connections, whose last packets must find theirs.
    pub ended: bool,
}

impl StaleFlows {
    /// All that concern `state`, with those that have ended.
    pub fn of(state: &DesiredState) -> Vec<Self> {
        Self::newly_translated(state, None, true)
    }

    /// Those of virtual IPs and ports that `state` translates and `before` did not, or only where nobody on this node had
    /// the address.
    pub fn newly_translated(state: &DesiredState, before: Option<&DesiredState>, ended: bool) -> Vec<Self> {
        let known: BTreeMap<Vip, bool> = before
            .iter()
            .flat_map(|before| &before.frontends)
            .map(|f| (f.vip, f.local_route_allowed))
            .collect();
        let begins = |vip: Vip, allowed: bool| known.get(&vip).is_none_or(|before| *before && !allowed);
        let frontends = state.frontends.iter().filter(|f| begins(f.vip, f.local_route_allowed));
        frontends
            .map(|f| Self { vip: f.vip, backends: f.backends.iter().copied().collect(), ended })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::desired::{DesiredFrontend, SourcePolicy};
    use crate::model::snapshot::Affinity;

    #[test]
    fn labels_differ() {
        let labels: std::collections::BTreeSet<_> = Remaining::ALL.map(Remaining::label).into();
        assert_eq!(labels.len(), Remaining::ALL.len());
    }

    #[test]
    fn report_serializes_durations_as_milliseconds() {
        let mut report = FlowReport::new("192.0.2.11:6443".parse().unwrap(), Purpose::Challenge);
        report.took = Duration::from_micros(12_345);
        report.remaining.insert(Remaining::NoAnswer, 2);
        let json = serde_json::to_value(report).unwrap();
        assert_eq!(json["took"], 12.345);
        assert_eq!(json["purpose"], "challenge");
        assert_eq!(json["remaining"]["no_answer"], 2);
    }

    fn state(frontends: &[(&str, bool)]) -> DesiredState {
        let frontend = |(vip, allowed): &(&str, bool)| DesiredFrontend {
            vip: vip.parse().unwrap(),
            port_name: String::new(),
            affinity: Affinity::None,
            backends: vec!["192.0.2.11:6443".parse().unwrap()],
            failed: Vec::new(),
            local_route_allowed: *allowed,
        };
        DesiredState {
            service: "default/kubernetes".parse().unwrap(),
            frontends: frontends.iter().map(frontend).collect(),
            source: SourcePolicy::default(),
            forwarding: false,
        }
    }

    fn newly_translated(now: &[(&str, bool)], before: &[(&str, bool)]) -> Vec<String> {
        let stale = StaleFlows::newly_translated(&state(now), Some(&state(before)), true);
        stale.into_iter().map(|stale| stale.vip.to_string()).collect()
    }

    #[test]
    fn only_newly_translated_vips_are_stale() {
        let first = ("10.96.0.1:443", true);
        assert_eq!(StaleFlows::of(&state(&[first])).len(), 1);
        assert_eq!(newly_translated(&[first], &[]), ["10.96.0.1:443"]);
        assert_eq!(newly_translated(&[first], &[first]), [""; 0]);
        assert_eq!(
            newly_translated(&[first, ("10.96.0.1:8443", true)], &[first]),
            ["10.96.0.1:8443"],
            "a port"
        );
        assert_eq!(
            newly_translated(&[first, ("[fd00::1]:443", true)], &[first]),
            ["[fd00::1]:443"],
            "a family"
        );
        assert_eq!(
            newly_translated(&[("10.96.0.1:443", false)], &[first]),
            ["10.96.0.1:443"],
            "no guard any more"
        );
        assert_eq!(newly_translated(&[first], &[("10.96.0.1:443", false)]), [""; 0]);
    }
}
