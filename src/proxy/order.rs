//! In which order the backends of a route are dialled for one client. Pure.
//!
//! Rendezvous hashing (highest random weight) does both: with a random key it shuffles, and with the client's address
//! as the key each client has an order of its own that stays as it is for those that stay.

use std::net::{IpAddr, SocketAddr};

use crate::model::proxy_routes::ProxyRoute;
use crate::model::snapshot::Affinity;
use crate::model::types::Backend;

/// `seed` is to be random for each connection.
pub(super) fn order(route: &ProxyRoute, client: IpAddr, seed: u64) -> Vec<Backend> {
    let key = match route.affinity {
        Affinity::None => mixed(seed),
        Affinity::ClientIP => hashed(0, client),
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
    mixed(hashed(key, backend.ip()) ^ u64::from(backend.port()))
}

fn hashed(key: u64, address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    mixed(mixed(key ^ bits as u64) ^ (bits >> 64) as u64)
}

/// The finaliser of splitmix64: each bit of the input changes half of the output. Written out, since the hash of the
/// standard library may change with the compiler, and then every client would change its backend with an upgrade.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn backends(count: u8) -> Vec<Backend> {
        (1..=count).map(|n| SocketAddr::from(([10, 0, 0, n], 6443))).collect()
    }

    fn client(n: u16) -> IpAddr {
        IpAddr::from([10, 1, (n >> 8) as u8, n as u8])
    }

    #[test]
    fn every_order_is_as_likely() {
        let route = ProxyRoute { backends: backends(3), ..ProxyRoute::default() };
        let mut seen: BTreeMap<Vec<Backend>, u32> = BTreeMap::new();
        for seed in 0..6000 {
            *seen.entry(order(&route, client(1), seed)).or_default() += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|count| (850..1150).contains(count)), "{seen:?}");
    }

    #[test]
    fn a_client_keeps_its_backend_when_another_leaves() {
        let all = ProxyRoute { backends: backends(4), affinity: Affinity::ClientIP, ..ProxyRoute::default() };
        let gone = all.backends[2];
        let mut fewer = all.clone();
        fewer.backends.retain(|backend| *backend != gone);
        let mut load: BTreeMap<Backend, u32> = BTreeMap::new();
        for n in 0..4000 {
            let before = order(&all, client(n), u64::from(n));
            let mut expected = before.clone();
            expected.retain(|backend| *backend != gone);
            assert_eq!(order(&fewer, client(n), 7), expected);
            *load.entry(before[0]).or_default() += 1;
        }
        assert!(load.len() == 4 && load.values().all(|count| (850..1150).contains(count)), "{load:?}");
    }

    #[test]
    fn the_others_come_last_in_their_order_and_nobody_twice() {
        let all = backends(5);
        let route = ProxyRoute {
            backends: all[..2].to_vec(),
            others: vec![all[4], all[1], all[3]],
            affinity: Affinity::None,
        };
        for seed in 0..20 {
            let order = order(&route, client(1), seed);
            assert_eq!(order[2..], [all[4], all[3]]);
        }
    }
}
