//! In which order, and when, the backends of a route are dialed for one client. Pure.
//!
//! In: the route, the client, what happened and what time it is. Out: the order, and the next [`Step`].
//!
//! The order comes from rendezvous hashing (highest random weight): with a random key it shuffles, and with the client's
//! address as the key each client has an order of its own that stays the same for the backends that remain. The first
//! backend is dialed at once, and the next as soon as one fails or nothing has connected for [`HEDGE_DELAY`], as in RFC
//! 8305. The first to connect wins, which is not seen here: then no further step is asked for.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::model::proxy_routes::ProxyRoute;
use crate::model::snapshot::Affinity;
use crate::model::types::Backend;

/// After this time without an answer the next backend is dialed, too. Longer than any round trip within a cluster, too
/// short for a client to mind, and less than the second after which a lost SYN is repeated.
const HEDGE_DELAY: Duration = Duration::from_millis(250);
/// Limit for one attempt: SYNs sent after 0, 1 and 3 s were all lost. Then the backend is dialed again after the others.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for one client: common clients give a connection up after 10 to 30 s, and are to see a reset before.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Nothing is dialed for so long after this node itself lacked a resource.
const LOCAL_RETRY: Duration = Duration::from_millis(50);
/// An unreachable backend is not dialed for so long: the network may be back in a moment.
const UNREACHABLE_RETRY: Duration = Duration::from_secs(1);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Dial this backend; `hedge` when other attempts are in flight.
    Dial { backend: Backend, hedge: bool },
    /// Cancel this attempt: it has timed out.
    Cancel(Backend),
    /// Nothing before this instant, unless something happens.
    Wait(Instant),
    /// There is nothing left to dial, or the time is over.
    GiveUp,
}

/// The attempts for one client.
#[derive(Debug)]
pub(super) struct HappyEyeballs {
    /// In their order, with the instants before which they are not dialed.
    waiting: VecDeque<(Backend, Instant)>,
    /// With the instants at which they time out.
    in_flight: Vec<(Backend, Instant)>,
    next_at: Instant,
    end: Instant,
}

impl HappyEyeballs {
    pub(super) fn new(order: Vec<Backend>, now: Instant) -> Self {
        let waiting = order.into_iter().map(|backend| (backend, now)).collect();
        Self { waiting, in_flight: Vec::new(), next_at: now, end: now + TOTAL_TIMEOUT }
    }

    /// The next step; to be asked for again after each but [`Step::Wait`].
    pub(super) fn step(&mut self, now: Instant) -> Step {
        if now >= self.end || (self.waiting.is_empty() && self.in_flight.is_empty()) {
            return Step::GiveUp;
        }
        if let Some((late, _)) = self.in_flight.iter().find(|(_, until)| *until <= now).copied() {
            self.put_back(late, now);
            self.next_at = now;
            return Step::Cancel(late);
        }
        if now >= self.next_at
            && let Some(at) = self.waiting.iter().position(|(_, not_before)| *not_before <= now)
            && let Some((backend, _)) = self.waiting.remove(at)
        {
            let hedge = !self.in_flight.is_empty();
            self.in_flight.push((backend, now + ATTEMPT_TIMEOUT));
            self.next_at = now + HEDGE_DELAY;
            return Step::Dial { backend, hedge };
        }
        let next = self.waiting.iter().map(|(_, not_before)| (*not_before).max(self.next_at));
        let timeouts = self.in_flight.iter().map(|(_, until)| *until);
        Step::Wait(timeouts.chain(next).fold(self.end, Instant::min))
    }

    /// This attempt failed: the next one starts at once.
    pub(super) fn failed(&mut self, backend: Backend, now: Instant) {
        self.in_flight.retain(|(other, _)| *other != backend);
        self.next_at = now;
    }

    /// This attempt found no route to the backend, which did not refuse it: the next one starts at once, and this one is
    /// tried again later.
    pub(super) fn unreachable(&mut self, backend: Backend, now: Instant) {
        self.put_back(backend, now + UNREACHABLE_RETRY);
        self.next_at = now;
    }

    /// This attempt could not be made, for reasons that are not the backend's: it is tried again after the others.
    pub(super) fn failed_locally(&mut self, backend: Backend, now: Instant) {
        self.put_back(backend, now);
        self.next_at = now + LOCAL_RETRY;
    }

    fn put_back(&mut self, backend: Backend, not_before: Instant) {
        self.in_flight.retain(|(other, _)| *other != backend);
        self.waiting.push_back((backend, not_before));
    }
}

/// The order for one client. `seed` is to be random for each connection.
pub(super) fn backend_order(route: &ProxyRoute, client: IpAddr, seed: u64) -> Vec<Backend> {
    let key = match route.affinity {
        Affinity::None => mix(seed),
        Affinity::ClientIP => hash(0, client),
    };
    let mut backends = route.backends.clone();
    backends.sort_by_cached_key(|backend| weight(key, *backend));
    for other in &route.others {
        if !backends.contains(other) {
            backends.push(*other);
        }
    }
    backends
}

fn weight(key: u64, backend: SocketAddr) -> u64 {
    mix(hash(key, backend.ip()) ^ u64::from(backend.port()))
}

fn hash(key: u64, address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    mix(mix(key ^ bits as u64) ^ (bits >> 64) as u64)
}

/// The finalizer of splitmix64: each bit of the input changes half of the output. Written out, since the hash of the
/// standard library may change with the compiler, and then every client would change its backend with an upgrade.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests;
