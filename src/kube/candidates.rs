//! Which apiserver is dialled next, and after how long. Pure: what a name resolves to, time and randomness are arguments.
//!
//! In: published endpoints and virtual IPs of each snapshot, what seeds and saved state name besides, which address
//! worked and which failed. Out: the candidates in an order that is this node's own, from the right starting point,
//! and the delay before the next attempt. A virtual IP is never among them while there is another way: the daemon
//! must not depend on the rules that it programs.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rand::RngExt;

use crate::model::snapshot::Snapshot;
use crate::model::sources::FallbackEndpoints;
use crate::transport::dialer::DialOrder;

/// One server that can be dialled. Endpoints come first; then what seeds and saved state name; the bootstrap server
/// is last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Slot {
    /// A published endpoint.
    Endpoint(SocketAddr),
    /// An apiserver that is not published, but that a seed or saved state names.
    Alternative(SocketAddr),
    /// The server of the kubeconfig or of the Pod's environment: often a name or a load balancer.
    Bootstrap,
}

/// Where the next dial starts in the order.
#[derive(Clone, Copy, Debug)]
enum StartPoint {
    /// With the first.
    Anywhere,
    /// With the one that worked, or was chosen.
    At(Slot),
    /// With the one behind that which could not be connected to.
    After(Slot),
}

/// Everything that can be dialled.
#[derive(Debug)]
pub(super) struct Candidates {
    ring: BTreeSet<Slot>,
    vips: BTreeSet<IpAddr>,
    alternatives: FallbackEndpoints,
    start: StartPoint,
    connected: Option<(Slot, SocketAddr)>,
    unready: BTreeSet<SocketAddr>,
    failures: usize,
    /// Those whose sessions failed, one after the other, since one lasted. They come last, the latest at the very end.
    recently_failed: Vec<Slot>,
    seed: u64,
    /// How often the order was shuffled.
    shuffles: u64,
}

impl Candidates {
    /// Only the bootstrap server is known. `seed` is a random number.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            ring: BTreeSet::from([Slot::Bootstrap]),
            vips: BTreeSet::new(),
            alternatives: FallbackEndpoints::default(),
            start: StartPoint::Anywhere,
            connected: None,
            unready: BTreeSet::new(),
            failures: 0,
            recently_failed: Vec::new(),
            seed,
            shuffles: 0,
        }
    }

    /// Takes the endpoints of a new snapshot. A snapshot without any keeps those known before: an empty view must
    /// not cut the daemon off from the very server that could correct it.
    pub(super) fn set_endpoints(&mut self, snapshot: &Snapshot) {
        let vips = snapshot.vip_addresses();
        if !vips.is_empty() {
            self.vips = vips;
        }
        let backends = snapshot.apiservers();
        if backends.is_empty() {
            return;
        }
        self.rebuild(backends);
    }

    /// Takes over what there is besides published endpoints.
    pub(super) fn set_alternatives(&mut self, alternatives: FallbackEndpoints) {
        self.alternatives = alternatives;
        let endpoints = self.ring.iter().filter_map(|slot| match slot {
            Slot::Endpoint(address) => Some(*address),
            Slot::Alternative(_) | Slot::Bootstrap => None,
        });
        self.rebuild(endpoints.collect());
    }

    fn rebuild(&mut self, endpoints: BTreeSet<SocketAddr>) {
        let alternatives = self.alternatives.addresses.difference(&endpoints).copied();
        self.ring = alternatives.map(Slot::Alternative).chain([Slot::Bootstrap]).collect();
        self.ring.extend(endpoints.into_iter().map(Slot::Endpoint));
        // A server that was dialled as another kind of slot is often one of the endpoints: should it fail, the next is the
        // one behind it.
        if let Some((slot, address)) = &mut self.connected
            && self.ring.contains(&Slot::Endpoint(*address))
        {
            *slot = Slot::Endpoint(*address);
            self.start = StartPoint::At(*slot);
        }
    }

    /// Each kind by itself, shuffled per node: nodes that read one apiserver spread over the others when it fails.
    fn sort_key(&self, slot: Slot) -> (Option<usize>, u8, u64) {
        let kind = match slot {
            Slot::Endpoint(_) => 0,
            Slot::Alternative(_) => 1,
            Slot::Bootstrap => 2,
        };
        let mut hasher = DefaultHasher::new();
        (self.seed, self.shuffles, slot).hash(&mut hasher);
        (self.recently_failed.iter().position(|failed| *failed == slot), kind, hasher.finish())
    }

    /// Takes over which apiservers are not ready, or do not answer, while another one is ready: they are dialled last.
    pub(super) fn set_unready(&mut self, unready: BTreeSet<SocketAddr>) {
        self.unready = unready;
    }

    /// Whether the current connection goes to one of those.
    pub(super) fn is_with_unready(&self) -> bool {
        self.address().is_some_and(|address| self.unready.contains(&address))
    }

    /// The session failed: the next dial goes to others. `lasted`: it was in order for a while, and so are they all,
    /// for all that is known.
    pub(super) fn failed(&mut self, lasted: bool) {
        self.failures = self.failures.wrapping_add(1);
        if lasted {
            self.recently_failed.clear();
        }
        if let Some((slot, _)) = self.connected.take() {
            self.recently_failed.retain(|failed| *failed != slot && self.ring.contains(failed));
            self.recently_failed.push(slot);
            self.shuffle();
        }
    }

    /// Forgets the connection and starts anywhere, without counting a failure of the server.
    pub(super) fn restart(&mut self) {
        self.connected = None;
        self.shuffle();
    }

    /// Chooses again among the endpoints that are ready, and forgets the connection if it goes to another one.
    /// Returns whether it does. A connection to anything else is left alone: what stands behind a load balancer is
    /// for that to spread.
    pub(super) fn reselect(&mut self) -> bool {
        let Some((current @ Slot::Endpoint(_), _)) = self.connected else { return false };
        self.recently_failed.clear();
        self.shuffle();
        let ready = |slot: &Slot| match slot {
            Slot::Endpoint(address) => !self.unready.contains(address) && !self.is_vip(*address),
            Slot::Alternative(_) | Slot::Bootstrap => false,
        };
        match self.targets().into_iter().find(ready) {
            Some(next) if next != current => {
                (self.connected, self.start) = (None, StartPoint::At(next));
                true
            }
            _ => {
                self.start = StartPoint::At(current);
                false
            }
        }
    }

    fn shuffle(&mut self) {
        self.shuffles = self.shuffles.wrapping_add(1);
        self.start = StartPoint::Anywhere;
    }

    /// The address that the current connection goes to.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.connected.map(|(_, address)| address)
    }

    /// Whether the current connection goes through a virtual IP though another server could be dialled instead.
    pub(super) fn is_through_vip(&self) -> bool {
        self.has_alternative() && self.address().is_some_and(|address| self.is_vip(address))
    }

    /// A seed whose name cannot be resolved yet counts: the virtual IP may well wait for this very daemon.
    fn has_alternative(&self) -> bool {
        self.ring.len() > 1 || self.alternatives.exist
    }

    fn is_vip(&self, address: SocketAddr) -> bool {
        let vips = if self.vips.is_empty() { &self.alternatives.vips } else { &self.vips };
        vips.contains(&address.ip())
    }
}

impl DialOrder for Candidates {
    type Target = Slot;

    /// The ring, beginning with the slot to dial first.
    fn targets(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = self.ring.iter().copied().collect();
        slots.sort_by_cached_key(|slot| self.sort_key(*slot));
        let first = match self.start {
            StartPoint::Anywhere => 0,
            StartPoint::At(slot) => {
                slots.partition_point(|other| self.sort_key(*other) < self.sort_key(slot))
            }
            StartPoint::After(slot) => {
                slots.partition_point(|other| self.sort_key(*other) <= self.sort_key(slot))
            }
        };
        slots.rotate_left(first);
        slots.sort_by_key(|slot| match slot {
            Slot::Endpoint(address) | Slot::Alternative(address) => self.unready.contains(address),
            Slot::Bootstrap => false,
        });
        slots
    }

    fn is_configured_server(slot: Slot) -> bool {
        matches!(slot, Slot::Bootstrap)
    }

    /// The addresses to dial for one slot, in order. `resolved` is what the bootstrap server's name resolves to.
    fn addresses(&self, slot: Slot, resolved: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut addresses = match slot {
            Slot::Endpoint(address) | Slot::Alternative(address) => vec![address],
            Slot::Bootstrap => resolved.to_vec(),
        };
        if self.has_alternative() {
            addresses.retain(|address| !self.is_vip(*address));
        }
        if !addresses.is_empty() {
            let shift = self.failures % addresses.len();
            addresses.rotate_left(shift);
        }
        addresses
    }

    /// A connection to `address` is established.
    fn connected(&mut self, slot: Slot, address: SocketAddr) {
        self.start = StartPoint::At(slot);
        self.connected = Some((slot, address));
    }

    /// Nothing of `slot` could be connected to. A dial that is given up halfway thus continues behind it next time,
    /// however many servers hang.
    fn dial_failed(&mut self, slot: Slot) {
        self.start = StartPoint::After(slot);
    }
}

/// The first delay: short, because most failures are one apiserver that restarts while others answer.
const INITIAL_DELAY: Duration = Duration::from_millis(200);

/// The longest delay: 5,000 nodes that all lost the API ask it for 330 connections a second at most.
const MAX_DELAY: Duration = Duration::from_secs(15);

/// A session that lasted so long was a success, and the next failure starts from the first delay again. As long as
/// the longest delay, so that sessions which keep failing cost a server no more than the delays allow.
const MIN_SUCCESS: Duration = MAX_DELAY;

/// Whether a session that was in order for so long counts as one.
pub(super) fn is_success(healthy: Duration) -> bool {
    healthy >= MIN_SUCCESS
}

/// Exponential backoff with jitter.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The delay after a session that was in order for `healthy`: between half and the whole of the exponential
    /// step, so that nodes which failed together do not come back together.
    pub(super) fn next(&mut self, healthy: Duration, rng: &mut impl RngExt) -> Duration {
        if is_success(healthy) {
            self.failures = 0;
        }
        let step = INITIAL_DELAY.saturating_mul(2_u32.saturating_pow(self.failures)).min(MAX_DELAY);
        self.failures = self.failures.saturating_add(1);
        step.mul_f64(rng.random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests;
