//! Which apiserver is dialled next. Pure: what a name resolves to is an argument.
//!
//! In: published endpoints and virtual IPs of each snapshot, what seeds and saved state offer besides, which address
//! worked and which failed. Out: the candidates in an order that is this node's own, from the right starting point. A virtual
//! IP is never among them while there is another way: the daemon must not depend on the rules that it programs.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::model::snapshot::Snapshot;
use crate::model::sources::FallbackEndpoints;

/// A place in the ring. Endpoints come first; then what seeds and saved state name; the bootstrap server is last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    start: Start,
    connected: Option<(Slot, SocketAddr)>,
    unready: BTreeSet<SocketAddr>,
    failures: usize,
    /// Those whose sessions failed, one after the other, since one lasted. They come last, the latest at the very end.
    blamed: Vec<Slot>,
    seed: u64,
    /// How often the order was shuffled.
    draws: u64,
}

impl Candidates {
    /// Only the bootstrap server is known. `seed` is a random number.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            ring: BTreeSet::from([Slot::Bootstrap]),
            vips: BTreeSet::new(),
            alternatives: FallbackEndpoints::default(),
            start: Start::Anywhere,
            connected: None,
            unready: BTreeSet::new(),
            failures: 0,
            blamed: Vec::new(),
            seed,
            draws: 0,
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
    pub(super) fn offer(&mut self, alternatives: FallbackEndpoints) {
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
        let mut slots: Vec<Slot> = self.ring.iter().copied().collect();
        slots.sort_by_cached_key(|slot| self.place(*slot));
        let behind = match self.start {
            Start::Anywhere => 0,
            Start::At(first) => slots.partition_point(|slot| self.place(*slot) < self.place(first)),
            Start::After(last) => slots.partition_point(|slot| self.place(*slot) <= self.place(last)),
        };
        slots.rotate_left(behind);
        slots.sort_by_key(|slot| match slot {
            Slot::Endpoint(address) | Slot::Offered(address) => self.unready.contains(address),
            Slot::Bootstrap => false,
        });
        slots
    }

    /// Each kind by itself, shuffled: whoever reads one apiserver together finds another one alone.
    fn place(&self, slot: Slot) -> (Option<usize>, u8, u64) {
        let kind = match slot {
            Slot::Endpoint(_) => 0,
            Slot::Offered(_) => 1,
            Slot::Bootstrap => 2,
        };
        let mut hasher = DefaultHasher::new();
        (self.seed, self.draws, slot).hash(&mut hasher);
        (self.blamed.iter().position(|blamed| *blamed == slot), kind, hasher.finish())
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

    /// The session failed: the next dial goes to others. `lasted`: it was in order for a while, and so are they all, for all that
    /// is known.
    pub(super) fn failed(&mut self, lasted: bool) {
        self.failures = self.failures.wrapping_add(1);
        if lasted {
            self.blamed.clear();
        }
        if let Some((slot, _)) = self.connected.take() {
            self.blamed.retain(|blamed| *blamed != slot && self.ring.contains(blamed));
            self.blamed.push(slot);
            self.shuffle();
        }
    }

    /// Forgets the connection and starts anywhere, without blaming the server.
    pub(super) fn restart(&mut self) {
        self.connected = None;
        self.shuffle();
    }

    /// Chooses among the endpoints that are ready, and forgets the connection if it goes to another one. Returns whether it does.
    /// A connection to anything else is left alone: what stands behind a load balancer is for that to spread.
    pub(super) fn choose_anew(&mut self) -> bool {
        let Some((current @ Slot::Endpoint(_), _)) = self.connected else { return false };
        self.blamed.clear();
        self.shuffle();
        let ready = |slot: &Slot| match slot {
            Slot::Endpoint(address) => !self.unready.contains(address) && !self.is_vip(*address),
            Slot::Offered(_) | Slot::Bootstrap => false,
        };
        match self.slots().into_iter().find(ready) {
            Some(next) if next != current => {
                (self.connected, self.start) = (None, Start::At(next));
                true
            }
            _ => {
                self.start = Start::At(current);
                false
            }
        }
    }

    fn shuffle(&mut self) {
        self.draws = self.draws.wrapping_add(1);
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
