//! Which apiserver is dialled next. Pure: what a name resolves to is an argument.
//!
//! In: published endpoints and virtual IPs of each snapshot, which address worked and which failed. Out: the ring of
//! candidates from the right starting point. A virtual IP is never among them while an endpoint is known: the daemon
//! must not depend on the rules that it programs.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Bound::{Excluded, Unbounded};

use crate::model::snapshot::Snapshot;

/// A place in the ring. Endpoints come first, in their order; the bootstrap server is last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    /// A published endpoint.
    Endpoint(SocketAddr),
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
    start: Start,
    connected: Option<(Slot, SocketAddr)>,
    failures: usize,
    seed: usize,
}

impl Candidates {
    /// Only the bootstrap server is known. `seed` is a random number.
    pub(super) fn new(seed: usize) -> Self {
        Self {
            ring: BTreeSet::from([Slot::Bootstrap]),
            vips: BTreeSet::new(),
            start: Start::Anywhere,
            connected: None,
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
        let backends = snapshot.backends();
        if backends.is_empty() {
            return;
        }
        self.ring = backends.into_iter().map(Slot::Endpoint).collect();
        self.ring.insert(Slot::Bootstrap);
        // The bootstrap server is often one of the endpoints: should it fail, the next is the one behind it.
        if let Some((slot @ Slot::Bootstrap, address)) = &mut self.connected
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
            let shift = self.seed % slots.len().max(1);
            slots.rotate_left(shift);
        }
        slots
    }

    /// The addresses to dial for one slot, in order. `resolved` is what the bootstrap server's name stands for.
    pub(super) fn addresses(&self, slot: Slot, resolved: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut addresses = match slot {
            Slot::Endpoint(address) => vec![address],
            Slot::Bootstrap => resolved.to_vec(),
        };
        if self.knows_endpoints() {
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

    /// Whether the current connection goes through a virtual IP though an endpoint could be dialled instead.
    pub(super) fn is_through_vip(&self) -> bool {
        self.knows_endpoints() && self.address().is_some_and(|address| self.is_vip(address))
    }

    fn knows_endpoints(&self) -> bool {
        self.ring.len() > 1
    }

    fn is_vip(&self, address: SocketAddr) -> bool {
        self.vips.contains(&address.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::{Affinity, Frontend, ServiceStatus};

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 6443))
    }

    fn vip() -> SocketAddr {
        SocketAddr::from(([10, 96, 0, 1], 443))
    }

    fn snapshot(backends: &[SocketAddr]) -> Snapshot {
        let frontend = Frontend {
            vip: vip(),
            port_name: "https".into(),
            affinity: Affinity::None,
            backends: backends.to_vec(),
        };
        Snapshot {
            generation: 1,
            service: ServiceStatus::Found,
            frontends: vec![frontend],
            rejected: BTreeSet::new(),
        }
    }

    fn three() -> Candidates {
        let mut candidates = Candidates::new(1);
        candidates.publish(&snapshot(&[address(11), address(12), address(13)]));
        candidates
    }

    fn lasts(candidates: &Candidates) -> Vec<u8> {
        let last = |slot: Slot| match slot {
            Slot::Endpoint(SocketAddr::V4(address)) => address.ip().octets()[3],
            _ => 0,
        };
        candidates.slots().into_iter().map(last).collect()
    }

    #[test]
    fn the_bootstrap_server_is_all_there_is_at_first() {
        assert_eq!(Candidates::new(7).slots(), [Slot::Bootstrap]);
    }

    #[test]
    fn nodes_start_at_different_servers_and_stay_with_what_works() {
        let mut candidates = three();
        assert_eq!(lasts(&candidates), [12, 13, 0, 11]);
        candidates.connected(Slot::Endpoint(address(13)), address(13));
        assert_eq!(lasts(&candidates), [13, 0, 11, 12]);
    }

    #[test]
    fn a_failure_moves_on_round_robin_even_when_the_server_left_the_ring() {
        let mut candidates = three();
        candidates.connected(Slot::Endpoint(address(12)), address(12));
        candidates.failed();
        assert_eq!(lasts(&candidates), [13, 0, 11, 12]);
        candidates.failed();
        assert_eq!(lasts(&candidates), [13, 0, 11, 12], "nothing was connected, nobody is to blame");
        candidates.connected(Slot::Endpoint(address(13)), address(13));
        candidates.publish(&snapshot(&[address(11), address(12)]));
        candidates.failed();
        assert_eq!(lasts(&candidates), [0, 11, 12]);
    }

    #[test]
    fn a_dial_that_was_given_up_continues_where_it_stopped() {
        let mut candidates = three();
        candidates.passed(Slot::Endpoint(address(12)));
        candidates.passed(Slot::Endpoint(address(13)));
        candidates.failed();
        assert_eq!(lasts(&candidates), [0, 11, 12, 13]);
    }

    #[test]
    fn the_virtual_ip_is_dialled_until_it_is_known_as_one() {
        let mut candidates = Candidates::new(0);
        assert_eq!(candidates.addresses(Slot::Bootstrap, &[vip()]), [vip()]);
        candidates.connected(Slot::Bootstrap, vip());
        candidates.publish(&snapshot(&[]));
        assert!(!candidates.is_through_vip(), "there is no other way yet");
        assert_eq!(candidates.addresses(Slot::Bootstrap, &[vip()]), [vip()], "nor is there after a failure");
        candidates.publish(&snapshot(&[address(11)]));
        assert!(candidates.is_through_vip());
        assert!(candidates.addresses(Slot::Bootstrap, &[vip()]).is_empty());
        candidates.restart();
        assert_eq!((candidates.address(), lasts(&candidates)), (None, vec![11, 0]));
    }

    #[test]
    fn a_bootstrap_server_that_is_an_endpoint_is_left_like_one() {
        let mut candidates = Candidates::new(0);
        candidates.connected(Slot::Bootstrap, address(11));
        candidates.publish(&snapshot(&[address(11), address(12)]));
        candidates.failed();
        assert_eq!(lasts(&candidates), [12, 0, 11]);
    }

    #[test]
    fn empty_endpoints_keep_the_known_ones() {
        let mut candidates = three();
        candidates.publish(&snapshot(&[]));
        assert_eq!(candidates.slots().len(), 4);
    }

    #[test]
    fn a_name_with_two_addresses_is_rotated_by_failures() {
        let mut candidates = Candidates::new(0);
        let resolved = [address(21), address(22)];
        assert_eq!(candidates.addresses(Slot::Bootstrap, &resolved)[0], address(21));
        candidates.connected(Slot::Bootstrap, address(21));
        candidates.failed();
        assert_eq!(candidates.addresses(Slot::Bootstrap, &resolved)[0], address(22));
    }
}
