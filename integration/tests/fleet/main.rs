//! A fleet of nodes in virtual time: no connection is ended wrongly, whatever fails, and clients of failed API servers are notified
//! in time.
//!
//! `APIVIP_FLEET_SEED=N` selects other runs.

use integration::fleet::{Kind, Tally, simulate, table};

/// Nodes of each run, and faults.
const NODES: usize = 80;
const FAULTS: usize = 6;
/// A large cluster, once.
const MANY: usize = 1000;

/// Runs that went wrong once: kind, seed, nodes and faults.
const SEEDS: [(Kind, u64, usize, usize); 7] = [
    // Two handshakes whose TCP was established waited for lost segments, and no other dial began.
    (Kind::RandomLoss, 107, 24, 4),
    (Kind::RandomLoss, 109, 24, 4),
    // A daemon that was suspended; a partition that heals while connections are about to be ended; overload that ends.
    (Kind::NodeStall, 1, 20, 3),
    (Kind::NodeCutFromOne, 4, 20, 3),
    (Kind::Overload, 2, 20, 3),
    (Kind::Overload, 3, 20, 3),
    (Kind::Overload, 4, 20, 3),
];

fn seed() -> u64 {
    std::env::var("APIVIP_FLEET_SEED").map_or(1, |seed| seed.parse().expect("a number"))
}

fn assert_good(kind: Kind, seed: u64, tally: &Tally) {
    let wrong = &tally.wrong[..tally.wrong.len().min(5)];
    assert_eq!(tally.ended_wrongly(), 0, "{kind:?}, seed {seed}: {wrong:#?}");
    if matches!(kind, Kind::CableOut | Kind::PowerLost | Kind::PowerCycle) {
        let latest = tally.by_daemon.latest();
        assert!(latest <= 6_500_000, "{kind:?}, seed {seed}: ended after {latest} us");
        assert_eq!(tally.not_reset, 0, "{kind:?}, seed {seed}");
    }
}

/// Those whose number has this rest: two tests share the work, and each of two cores has one.
fn half(rest: usize) {
    let kinds = Kind::ALL.into_iter().enumerate().filter(|(n, _)| n % 2 == rest).map(|(_, kind)| kind);
    let rows: Vec<(Kind, Tally)> = kinds.map(|kind| (kind, simulate(kind, seed(), NODES, FAULTS))).collect();
    println!("{}", table(&rows));
    for (kind, tally) in &rows {
        assert_good(*kind, seed(), tally);
    }
}

#[test]
fn no_connection_is_ended_wrongly_in_the_first_half_of_the_kinds() {
    half(0);
}

#[test]
fn no_connection_is_ended_wrongly_in_the_other_half_of_the_kinds() {
    half(1);
}

#[test]
fn a_thousand_nodes_do_as_a_few() {
    let tally = simulate(Kind::PowerCycle, seed(), MANY, 1);
    assert_good(Kind::PowerCycle, seed(), &tally);
    println!("{}", table(&[(Kind::PowerCycle, tally)]));
}

#[test]
fn what_went_wrong_once_does_not_again() {
    for (kind, seed, nodes, faults) in SEEDS {
        assert_good(kind, seed, &simulate(kind, seed, nodes, faults));
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = || table(&[(Kind::TwoAtOnce, simulate(Kind::TwoAtOnce, seed(), 10, 2))]);
    assert_eq!(run(), run());
}
