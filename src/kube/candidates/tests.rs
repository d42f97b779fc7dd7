//! Whom the ring holds, and where it begins.

use super::*;
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus};
use crate::model::sources::FallbackEndpoints;

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
fn a_node_stays_with_what_works() {
    let mut candidates = three();
    let order = lasts(&candidates);
    assert_eq!(order[3], 0, "the bootstrap server is last");
    candidates.connected(Slot::Endpoint(address(order[1])), address(order[1]));
    assert_eq!(lasts(&candidates), [order[1], order[2], 0, order[0]]);
}

#[test]
fn a_failure_moves_on_through_all_even_when_the_server_left_the_ring() {
    let mut candidates = three();
    let mut failed = Vec::new();
    for _ in 0..3 {
        let next = lasts(&candidates)[0];
        assert!(next != 0 && !failed.contains(&next), "{next} after {failed:?}");
        candidates.connected(Slot::Endpoint(address(next)), address(next));
        candidates.failed(false);
        failed.push(next);
        assert_eq!(lasts(&candidates).last(), Some(&next));
    }
    assert_eq!(lasts(&candidates)[0], 0, "none of them can be read: the bootstrap server is next");
    let before = lasts(&candidates);
    candidates.failed(false);
    assert_eq!(lasts(&candidates), before, "nothing was connected, nobody is to blame");
    candidates.connected(Slot::Endpoint(address(13)), address(13));
    candidates.publish(&snapshot(&[address(11), address(12)]));
    candidates.failed(true);
    let mut left = lasts(&candidates);
    assert_eq!(left.pop(), Some(0), "a session that lasted clears the others");
    left.sort_unstable();
    assert_eq!(left, [11, 12]);
}

#[test]
fn a_dial_that_was_given_up_continues_where_it_stopped() {
    let mut candidates = three();
    let order = lasts(&candidates);
    candidates.passed(Slot::Endpoint(address(order[0])));
    candidates.passed(Slot::Endpoint(address(order[1])));
    candidates.failed(false);
    assert_eq!(lasts(&candidates), [order[2], 0, order[0], order[1]]);
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
    candidates.failed(false);
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
    candidates.failed(false);
    assert_eq!(candidates.addresses(Slot::Bootstrap, &resolved)[0], address(22));
}

fn offered(seeds: &[u8], vips: &[SocketAddr]) -> FallbackEndpoints {
    FallbackEndpoints {
        addresses: seeds.iter().map(|last| address(*last)).collect(),
        vips: vips.iter().map(SocketAddr::ip).collect(),
        exist: true,
    }
}

#[test]
fn what_seeds_and_saved_state_name_comes_before_the_bootstrap_server_and_behind_endpoints() {
    let mut candidates = Candidates::new(1);
    candidates.offer(offered(&[21, 22, 23], &[]));
    assert_eq!(candidates.slots().last(), Some(&Slot::Bootstrap));
    assert!(matches!(candidates.slots()[0], Slot::Offered(_)));
    candidates.connected(Slot::Offered(address(22)), address(22));
    candidates.publish(&snapshot(&[address(11), address(22)]));
    candidates.failed(false);
    let slots = candidates.slots();
    assert_eq!(slots[0], Slot::Endpoint(address(11)));
    assert!(slots[1..3].iter().all(|slot| matches!(slot, Slot::Offered(_))), "{slots:?}");
    let left = [Slot::Bootstrap, Slot::Endpoint(address(22))];
    assert_eq!(slots[3..], left, "a seed that is an endpoint is left like one");
    candidates.restart();
    assert_eq!(candidates.slots()[3..], left, "whoever failed stays behind");
    candidates.offer(offered(&[23], &[]));
    assert!(!candidates.slots().contains(&Slot::Offered(address(21))), "a name stands for others now");
    assert!(candidates.slots().contains(&Slot::Endpoint(address(11))), "endpoints stay");
}

#[test]
fn with_seeds_the_virtual_ip_is_never_dialled_not_even_before_their_names_are_resolved() {
    let mut candidates = Candidates::new(0);
    candidates.offer(offered(&[], &[vip()]));
    assert!(candidates.addresses(Slot::Bootstrap, &[vip()]).is_empty());
    assert_eq!(candidates.addresses(Slot::Bootstrap, &[vip(), address(30)]), [address(30)]);
    candidates.offer(offered(&[21], &[vip()]));
    assert!(candidates.addresses(Slot::Bootstrap, &[vip()]).is_empty());
    // A snapshot knows better: this was no virtual IP.
    candidates.offer(offered(&[21], &[address(40)]));
    candidates.publish(&snapshot(&[]));
    assert_eq!(candidates.addresses(Slot::Bootstrap, &[address(40), vip()]), [address(40)]);
}

mod spreading;
