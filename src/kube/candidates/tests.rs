//! Whom the ring holds, and where it begins.

use rand::TryRng;

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
    candidates.set_endpoints(&snapshot(&[address(11), address(12), address(13)]));
    candidates
}

fn lasts(candidates: &Candidates) -> Vec<u8> {
    let last = |slot: Slot| match slot {
        Slot::Endpoint(SocketAddr::V4(address)) => address.ip().octets()[3],
        _ => 0,
    };
    candidates.targets().into_iter().map(last).collect()
}

#[test]
fn bootstrap_server_is_the_only_candidate_at_first() {
    assert_eq!(Candidates::new(7).targets(), [Slot::Bootstrap]);
}

#[test]
fn node_stays_with_the_connected_server() {
    let mut candidates = three();
    let order = lasts(&candidates);
    assert_eq!(order[3], 0, "the bootstrap server is last");
    candidates.connected(Slot::Endpoint(address(order[1])), address(order[1]));
    assert_eq!(lasts(&candidates), [order[1], order[2], 0, order[0]]);
}

#[test]
fn failure_moves_through_all_servers_even_removed_ones() {
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
    candidates.set_endpoints(&snapshot(&[address(11), address(12)]));
    candidates.failed(true);
    let mut left = lasts(&candidates);
    assert_eq!(left.pop(), Some(0), "a session that lasted clears the others");
    left.sort_unstable();
    assert_eq!(left, [11, 12]);
}

#[test]
fn interrupted_dial_continues_behind_the_last_target() {
    let mut candidates = three();
    let order = lasts(&candidates);
    candidates.dial_failed(Slot::Endpoint(address(order[0])));
    candidates.dial_failed(Slot::Endpoint(address(order[1])));
    candidates.failed(false);
    assert_eq!(lasts(&candidates), [order[2], 0, order[0], order[1]]);
}

#[test]
fn vip_is_dialled_until_it_is_known_as_one() {
    let mut candidates = Candidates::new(0);
    assert_eq!(candidates.addresses(Slot::Bootstrap, &[vip()]), [vip()]);
    candidates.connected(Slot::Bootstrap, vip());
    candidates.set_endpoints(&snapshot(&[]));
    assert!(!candidates.is_through_vip(), "there is no other way yet");
    assert_eq!(candidates.addresses(Slot::Bootstrap, &[vip()]), [vip()], "nor is there after a failure");
    candidates.set_endpoints(&snapshot(&[address(11)]));
    assert!(candidates.is_through_vip());
    assert!(candidates.addresses(Slot::Bootstrap, &[vip()]).is_empty());
    candidates.restart();
    assert_eq!((candidates.address(), lasts(&candidates)), (None, vec![11, 0]));
}

#[test]
fn bootstrap_server_that_is_an_endpoint_is_treated_as_one() {
    let mut candidates = Candidates::new(0);
    candidates.connected(Slot::Bootstrap, address(11));
    candidates.set_endpoints(&snapshot(&[address(11), address(12)]));
    candidates.failed(false);
    assert_eq!(lasts(&candidates), [12, 0, 11]);
}

#[test]
fn empty_endpoints_keep_the_known_ones() {
    let mut candidates = three();
    candidates.set_endpoints(&snapshot(&[]));
    assert_eq!(candidates.targets().len(), 4);
}

#[test]
fn addresses_of_one_name_rotate_with_failures() {
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
fn alternatives_come_after_endpoints_and_before_the_bootstrap_server() {
    let mut candidates = Candidates::new(1);
    candidates.set_alternatives(offered(&[21, 22, 23], &[]));
    assert_eq!(candidates.targets().last(), Some(&Slot::Bootstrap));
    assert!(matches!(candidates.targets()[0], Slot::Alternative(_)));
    candidates.connected(Slot::Alternative(address(22)), address(22));
    candidates.set_endpoints(&snapshot(&[address(11), address(22)]));
    candidates.failed(false);
    let slots = candidates.targets();
    assert_eq!(slots[0], Slot::Endpoint(address(11)));
    assert!(slots[1..3].iter().all(|slot| matches!(slot, Slot::Alternative(_))), "{slots:?}");
    let left = [Slot::Bootstrap, Slot::Endpoint(address(22))];
    assert_eq!(slots[3..], left, "a seed that is an endpoint is left like one");
    candidates.restart();
    assert_eq!(candidates.targets()[3..], left, "whoever failed stays behind");
    candidates.set_alternatives(offered(&[23], &[]));
    assert!(!candidates.targets().contains(&Slot::Alternative(address(21))), "a name stands for others now");
    assert!(candidates.targets().contains(&Slot::Endpoint(address(11))), "endpoints stay");
}

#[test]
fn vip_is_never_dialled_with_seeds_even_unresolved() {
    let mut candidates = Candidates::new(0);
    candidates.set_alternatives(offered(&[], &[vip()]));
    assert!(candidates.addresses(Slot::Bootstrap, &[vip()]).is_empty());
    assert_eq!(candidates.addresses(Slot::Bootstrap, &[vip(), address(30)]), [address(30)]);
    candidates.set_alternatives(offered(&[21], &[vip()]));
    assert!(candidates.addresses(Slot::Bootstrap, &[vip()]).is_empty());
    // A snapshot knows better: this was no virtual IP.
    candidates.set_alternatives(offered(&[21], &[address(40)]));
    candidates.set_endpoints(&snapshot(&[]));
    assert_eq!(candidates.addresses(Slot::Bootstrap, &[address(40), vip()]), [address(40)]);
}

const NODES: u64 = 1000;
const ALL: [u8; 3] = [11, 12, 13];

/// Nodes that know three apiservers, each connected to its first.
fn nodes() -> Vec<Candidates> {
    let all = ALL.map(address);
    let node = |seed: u64| {
        let mut candidates = Candidates::new(seed);
        candidates.set_endpoints(&snapshot(&all));
        dial(&mut candidates);
        candidates
    };
    (0..NODES).map(node).collect()
}

/// The first is dialled, and answers.
fn dial(candidates: &mut Candidates) {
    let Slot::Endpoint(address) = candidates.targets()[0] else { panic!("{:?}", candidates.targets()) };
    candidates.connected(Slot::Endpoint(address), address);
}

/// One apiserver restarts: whoever reads it is cut off, and dials while it is known not to answer.
fn restart(nodes: &mut [Candidates], last: u8) {
    for node in nodes.iter_mut() {
        node.set_unready([address(last)].into());
        if node.address() == Some(address(last)) {
            node.failed(true);
            dial(node);
        }
    }
    nodes.iter_mut().for_each(|node| node.set_unready(BTreeSet::new()));
}

fn reselect(nodes: &mut [Candidates]) -> usize {
    nodes.iter_mut().map(|node| node.reselect().then(|| dial(node)).is_some()).filter(|moved| *moved).count()
}

fn readers(nodes: &[Candidates]) -> [usize; 3] {
    ALL.map(|last| nodes.iter().filter(|node| node.address() == Some(address(last))).count())
}

fn is_even(readers: [usize; 3]) -> bool {
    // Four standard deviations of 1,000 throws of a die with three sides are 60.
    readers.iter().all(|count| count.abs_diff(333) < 60)
}

#[test]
fn nodes_spread_evenly_at_start_after_a_loss_and_after_an_upgrade() {
    let mut nodes = nodes();
    println!("at the start: {:?}", readers(&nodes));
    assert!(is_even(readers(&nodes)));

    restart(&mut nodes, 11);
    println!("after the restart of the first: {:?}", readers(&nodes));
    let [first, second, third] = readers(&nodes);
    assert!(first == 0 && second.abs_diff(third) < 130, "those of one that is lost go to all others");

    restart(&mut nodes, 12);
    restart(&mut nodes, 13);
    println!("after a rolling restart of all three: {:?}", readers(&nodes));
    // Nobody has a reason to leave yet; but those of the last one went to both others.
    let [first, second, third] = readers(&nodes);
    assert!(third == 0 && first > 200 && second > 200);

    let moved = reselect(&mut nodes);
    println!("after each node chose anew: {:?}, {moved} moved", readers(&nodes));
    assert!(is_even(readers(&nodes)));
}

#[test]
fn reselect_skips_unready_servers_and_keeps_load_balancers() {
    let mut nodes = nodes();
    nodes.iter_mut().for_each(|node| node.set_unready([address(12)].into()));
    reselect(&mut nodes);
    assert_eq!(readers(&nodes)[1], 0);
    let mut alone = Candidates::new(1);
    alone.set_endpoints(&snapshot(&[address(11)]));
    dial(&mut alone);
    assert!(!alone.reselect(), "there is no other");
    assert_eq!(alone.address(), Some(address(11)));
    let mut balanced = three();
    balanced.connected(Slot::Bootstrap, address(30));
    assert!((0..100).all(|_| !balanced.reselect()));
    assert_eq!(balanced.address(), Some(address(30)));
}

#[test]
fn reselecting_the_same_server_keeps_the_connection() {
    let mut candidates = three();
    dial(&mut candidates);
    let mut stayed = 0;
    for _ in 0..90 {
        let before = candidates.address();
        if candidates.reselect() {
            assert_eq!(candidates.address(), None);
            dial(&mut candidates);
            assert_ne!(candidates.address(), before);
        } else {
            stayed += 1;
            assert_eq!(candidates.address(), before);
            assert_eq!(candidates.targets()[0], Slot::Endpoint(before.unwrap()));
        }
    }
    assert!((15..=45).contains(&stayed), "{stayed} of 90");
}

/// Draws the same number for ever.
struct Fixed(u64);

impl TryRng for Fixed {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok((self.0 >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        bytes.fill(self.0 as u8);
        Ok(())
    }
}

fn upper() -> Fixed {
    Fixed(u64::MAX)
}

#[test]
fn delay_doubles_to_the_maximum_and_resets_after_success() {
    let mut backoff = Backoff::default();
    let steps: Vec<u128> = (0..9).map(|_| backoff.next(Duration::ZERO, &mut upper()).as_millis()).collect();
    assert_eq!(steps, [200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]);
    assert_eq!(backoff.next(Duration::from_secs(14), &mut upper()).as_millis(), 15_000);
    assert_eq!(backoff.next(Duration::from_secs(15), &mut upper()).as_millis(), 200);
}

#[test]
fn jitter_removes_up_to_half() {
    let mut backoff = Backoff::default();
    assert_eq!(backoff.next(Duration::ZERO, &mut Fixed(0)).as_millis(), 100);
}

#[test]
fn delay_never_overflows() {
    let mut backoff = Backoff { failures: u32::MAX };
    assert_eq!(backoff.next(Duration::ZERO, &mut upper()), MAX_DELAY);
}
