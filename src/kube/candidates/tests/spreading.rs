//! How many of 1,000 nodes read each apiserver.

use super::*;

const NODES: u64 = 1000;
const ALL: [u8; 3] = [11, 12, 13];

/// Nodes that know three apiservers, each connected to its first.
fn nodes() -> Vec<Candidates> {
    let all = ALL.map(address);
    let node = |seed: u64| {
        let mut candidates = Candidates::new(seed);
        candidates.publish(&snapshot(&all));
        dial(&mut candidates);
        candidates
    };
    (0..NODES).map(node).collect()
}

/// The first is dialled, and answers.
fn dial(candidates: &mut Candidates) {
    let Slot::Endpoint(address) = candidates.slots()[0] else { panic!("{:?}", candidates.slots()) };
    candidates.connected(Slot::Endpoint(address), address);
}

/// One apiserver restarts: whoever reads it is cut off, and dials while it is known not to answer.
fn restart(nodes: &mut [Candidates], last: u8) {
    for node in nodes.iter_mut() {
        node.distrust([address(last)].into());
        if node.address() == Some(address(last)) {
            node.failed(true);
            dial(node);
        }
    }
    nodes.iter_mut().for_each(|node| node.distrust(BTreeSet::new()));
}

fn choose_anew(nodes: &mut [Candidates]) -> usize {
    nodes
        .iter_mut()
        .map(|node| node.choose_anew().then(|| dial(node)).is_some())
        .filter(|moved| *moved)
        .count()
}

fn readers(nodes: &[Candidates]) -> [usize; 3] {
    ALL.map(|last| nodes.iter().filter(|node| node.address() == Some(address(last))).count())
}

fn is_even(readers: [usize; 3]) -> bool {
    // Four standard deviations of 1,000 throws of a die with three sides are 60.
    readers.iter().all(|count| count.abs_diff(333) < 60)
}

#[test]
fn nodes_are_spread_at_the_start_when_one_is_lost_and_after_an_upgrade() {
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

    let moved = choose_anew(&mut nodes);
    println!("after each node chose anew: {:?}, {moved} moved", readers(&nodes));
    assert!(is_even(readers(&nodes)));
}

#[test]
fn nobody_chooses_one_that_is_not_ready_or_leaves_a_load_balancer() {
    let mut nodes = nodes();
    nodes.iter_mut().for_each(|node| node.distrust([address(12)].into()));
    choose_anew(&mut nodes);
    assert_eq!(readers(&nodes)[1], 0);
    let mut alone = Candidates::new(1);
    alone.publish(&snapshot(&[address(11)]));
    dial(&mut alone);
    assert!(!alone.choose_anew(), "there is no other");
    assert_eq!(alone.address(), Some(address(11)));
    let mut balanced = three();
    balanced.connected(Slot::Bootstrap, address(30));
    assert!((0..100).all(|_| !balanced.choose_anew()));
    assert_eq!(balanced.address(), Some(address(30)));
}

#[test]
fn whoever_chooses_the_same_stays_connected() {
    let mut candidates = three();
    dial(&mut candidates);
    let mut stayed = 0;
    for _ in 0..90 {
        let before = candidates.address();
        if candidates.choose_anew() {
            assert_eq!(candidates.address(), None);
            dial(&mut candidates);
            assert_ne!(candidates.address(), before);
        } else {
            stayed += 1;
            assert_eq!(candidates.address(), before);
            assert_eq!(candidates.slots()[0], Slot::Endpoint(before.unwrap()));
        }
    }
    assert!((15..=45).contains(&stayed), "{stayed} of 90");
}
