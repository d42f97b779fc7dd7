//! Which apiserver is dialled next. Pure: what a name resolves to is an argument.
//!
//! In: published endpoints and virtual IPs of each snapshot, what seeds and saved state offer besides, which address
//! worked and which failed. Out: the ring of candidates from the right starting point. A virtual IP is never among them
//! while there is another way: the daemon must not depend on the rules that it programs.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound::{Excluded, Unbounded};

use crate::model::merge::Alternatives;
use crate::model::snapshot::Snapshot;

/// A place in the ring. Endpoints come first, in their order; then what seeds and saved state name; the bootstrap server
/// is last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    /// A published endpoint.
    Endpoint(SocketAddr),
    /// An apiserver that is not published, but that a seed or saved state names.
    Offered(SocketAddr),
    /// The server of the kubeconfig or of the Pod's environment: often a name or a load balancer.
    Bootstrap,
}

/// Where the next dial starts.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// Somewhere, so that nodes spread over the apiservers.
    Anywhere,
    /// With the one that worked.
    At(Slot),
    /// With the one behind that which failed.
    After(Slot),
}

/// Everything that can be dialled.
#[derive(Debug)]
pub(super) struct Candidates {
    ring: BTreeSet<Slot>,
    vips: BTreeSet<IpAddr>,
    alternatives: Alternatives,
    start: Start,
    connected: Option<(Slot, SocketAddr)>,
    unready: BTreeSet<SocketAddr>,
    failures: usize,
    seed: usize,
}

impl Candidates {
    /// Only the bootstrap server is known. `seed` is a random number.
    pub(super) fn new(seed: usize) -> Self {
        Self {
            ring: BTreeSet::from([Slot::Bootstrap]),
            vips: BTreeSet::new(),
            alternatives: Alternatives::default(),
            start: Start::Anywhere,
            connected: None,
            unready: BTreeSet::new(),
            failures: 0,
            seed,
        }
    }

    /// Takes the endpoints of a new snapshot. A snapshot without any keeps those known before: an empty view must
    /// not cut the daemon off from the very server that could correct it.
    pub(super) fn publish(&mut self, snapshot: &Snapshot) {
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
    pub(super) fn offer(&mut self, alternatives: Alternatives) {
        self.alternatives = alternatives;
        let endpoints = self.ring.iter().filter_map(|slot| match slot {
            Slot::Endpoint(address) => Some(*address),
            Slot::Offered(_) | Slot::Bootstrap => None,
        });
        self.rebuild(endpoints.collect());
    }

    fn rebuild(&mut self, endpoints: BTreeSet<SocketAddr>) {
        let offered = self.alternatives.addresses.difference(&endpoints).copied();
        self.ring = offered.map(Slot::Offered).chain([Slot::Bootstrap]).collect();
        self.ring.extend(endpoints.into_iter().map(Slot::Endpoint));
        // A server that was dialled under another title is often one of the endpoints: should it fail, the next is the
        // one behind it.
        if let Some((slot, address)) = &mut self.connected
            && self.ring.contains(&Slot::Endpoint(*address))
        {
            *slot = Slot::Endpoint(*address);
            self.start = Start::At(*slot);
        }
    }

    /// The ring, beginning with the slot to dial first.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let mut slots: Vec<Slot> = match self.start {
            Start::Anywhere => self.ring.iter().copied().collect(),
            Start::At(slot) => self.ring.range(slot..).chain(self.ring.range(..slot)).copied().collect(),
            Start::After(slot) => {
                let after = self.ring.range((Excluded(slot), Unbounded));
                after.chain(self.ring.range(..=slot)).copied().collect()
            }
        };
        if let Start::Anywhere = self.start {
            // Each kind by itself: endpoints before the others, the bootstrap server last.
            for kind in slots.chunk_by_mut(|a, b| std::mem::discriminant(a) == std::mem::discriminant(b)) {
                kind.rotate_left(self.seed % kind.len());
            }
        }
        slots.sort_by_key(|slot| match slot {
            Slot::Endpoint(address) | Slot::Offered(address) => self.unready.contains(address),
            Slot::Bootstrap => false,
        });
        slots
    }

    /// Takes over which apiservers are not ready, or do not answer, while another one is ready: they are dialled last.
    pub(super) fn distrust(&mut self, unready: BTreeSet<SocketAddr>) {
        self.unready = unready;
    }

    /// Whether the current connection goes to one of those.
    pub(super) fn is_with_unready(&self) -> bool {
        self.address().is_some_and(|address| self.unready.contains(&address))
    }

    /// The addresses to dial for one slot, in order. `resolved` is what the bootstrap server's name stands for.
    pub(super) fn addresses(&self, slot: Slot, resolved: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut addresses = match slot {
            Slot::Endpoint(address) | Slot::Offered(address) => vec![address],
            Slot::Bootstrap => resolved.to_vec(),
        };
        if self.has_other_ways() {
            addresses.retain(|address| !self.is_vip(*address));
        }
        if !addresses.is_empty() {
            let shift = self.failures % addresses.len();
            addresses.rotate_left(shift);
        }
        addresses
    }

    /// Nothing of `slot` could be connected to. A dial that is given up halfway thus continues behind it next time,
    /// however many servers hang.
    pub(super) fn passed(&mut self, slot: Slot) {
        self.start = Start::After(slot);
    }

    /// A connection to `address` stands.
    pub(super) fn connected(&mut self, slot: Slot, address: SocketAddr) {
        self.start = Start::At(slot);
        self.connected = Some((slot, address));
    }

    /// The session failed: the next dial starts behind the server that it was with.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.wrapping_add(1);
        if let Some((slot, _)) = self.connected.take() {
            self.start = Start::After(slot);
        }
    }

    /// Forgets the connection and starts anywhere, without blaming the server.
    pub(super) fn restart(&mut self) {
        self.connected = None;
        self.start = Start::Anywhere;
    }

    /// The address that the current connection goes to.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.connected.map(|(_, address)| address)
    }

    /// Whether the current connection goes through a virtual IP though another server could be dialled instead.
    pub(super) fn is_through_vip(&self) -> bool {
        self.has_other_ways() && self.address().is_some_and(|address| self.is_vip(address))
    }

    /// A seed whose name cannot be resolved yet counts: the virtual IP may well wait for this very daemon.
    fn has_other_ways(&self) -> bool {
        self.ring.len() > 1 || self.alternatives.exist
    }

    fn is_vip(&self, address: SocketAddr) -> bool {
        let vips = if self.vips.is_empty() { &self.alternatives.vips } else { &self.vips };
        vips.contains(&address.ip())
    }
}

#[cfg(test)]
mod tests;
