use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

fn backend(n: usize) -> Backend {
    SocketAddr::from(([10, 0, 0, n as u8 + 1], 6443))
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn dial(n: usize, hedge: bool) -> Step {
    Step::Dial { backend: backend(n), hedge }
}

#[test]
fn a_second_dial_starts_when_the_first_is_silent() {
    let start = Instant::now();
    let mut dialing = Dialing::new(vec![backend(0), backend(1), backend(2)], start);
    assert_eq!(dialing.step(start), dial(0, false));
    assert_eq!(dialing.step(start), Step::Wait(start + HEDGE));
    assert_eq!(dialing.step(start + ms(249)), Step::Wait(start + HEDGE));
    assert_eq!(dialing.step(start + ms(251)), dial(1, true));
    assert_eq!(dialing.step(start + ms(251)), Step::Wait(start + ms(501)));
    assert_eq!(dialing.step(start + ms(501)), dial(2, true));
    assert_eq!(dialing.step(start + ms(501)), Step::Wait(start + ATTEMPT));
}

#[test]
fn a_refused_dial_moves_on_at_once() {
    let start = Instant::now();
    let mut dialing = Dialing::new(vec![backend(0), backend(1)], start);
    assert_eq!(dialing.step(start), dial(0, false));
    dialing.failed(backend(0), start + ms(1));
    assert_eq!(dialing.step(start + ms(1)), dial(1, false));
    dialing.failed(backend(1), start + ms(2));
    assert_eq!(dialing.step(start + ms(2)), Step::GiveUp);
}

#[test]
fn nobody_to_dial_is_known_at_once() {
    let now = Instant::now();
    assert_eq!(Dialing::new(Vec::new(), now).step(now), Step::GiveUp);
}

#[test]
fn the_silent_have_their_time_and_no_more() {
    let start = Instant::now();
    let mut dialing = Dialing::new(vec![backend(0)], start);
    assert_eq!(dialing.step(start), dial(0, false));
    assert_eq!(dialing.step(start), Step::Wait(start + ATTEMPT));
    assert_eq!(dialing.step(start + ATTEMPT), Step::Abandon(backend(0)));
    assert_eq!(dialing.step(start + ATTEMPT), dial(0, false), "the network may be back");
    assert_eq!(dialing.step(start + ATTEMPT * 2), Step::Abandon(backend(0)));
    assert_eq!(dialing.step(start + ATTEMPT * 2), dial(0, false));
    assert_eq!(dialing.step(start + WHOLE), Step::GiveUp);
}

#[test]
fn a_way_that_is_missing_is_looked_for_again() {
    let start = Instant::now();
    let mut dialing = Dialing::new(vec![backend(0), backend(1)], start);
    assert_eq!(dialing.step(start), dial(0, false));
    dialing.unreachable(backend(0), start + ms(1));
    assert_eq!(dialing.step(start + ms(1)), dial(1, false), "another one may be on another network");
    dialing.unreachable(backend(1), start + ms(2));
    assert_eq!(dialing.step(start + ms(2)), Step::Wait(start + ms(1) + NO_WAY));
    assert_eq!(dialing.step(start + ms(1) + NO_WAY), dial(0, false));
    dialing.failed(backend(0), start + ms(5) + NO_WAY);
    assert_eq!(dialing.step(start + ms(5) + NO_WAY), dial(1, false));
    dialing.failed(backend(1), start + ms(6) + NO_WAY);
    assert_eq!(dialing.step(start + ms(6) + NO_WAY), Step::GiveUp, "both refused");
}

#[test]
fn a_lack_of_this_node_is_no_failure_of_a_backend() {
    let start = Instant::now();
    let mut dialing = Dialing::new(vec![backend(0), backend(1)], start);
    assert_eq!(dialing.step(start), dial(0, false));
    dialing.hampered(backend(0), start);
    assert_eq!(dialing.step(start), Step::Wait(start + RETRY));
    assert_eq!(dialing.step(start + RETRY), dial(1, false));
    dialing.failed(backend(1), start + RETRY);
    assert_eq!(dialing.step(start + RETRY), dial(0, false));
    dialing.hampered(backend(0), start + WHOLE - ms(1));
    assert_eq!(dialing.step(start + WHOLE - ms(1)), Step::Wait(start + WHOLE));
    assert_eq!(dialing.step(start + WHOLE), Step::GiveUp);
}

/// How a backend takes a dial.
#[derive(Clone, Copy, Debug)]
enum Nature {
    Connects(u64),
    Fails(u64),
    Silent,
    /// There is no way to it, as is known after so long.
    Unreachable(u64),
    /// So many times there is no descriptor for it, then it connects after so long.
    Hampered(u32, u64),
}

fn nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        (0..1200u64).prop_map(Nature::Connects),
        (0..1200u64).prop_map(Nature::Fails),
        Just(Nature::Silent),
        (0..1200u64).prop_map(Nature::Unreachable),
        (1..4u32, 0..1200u64).prop_map(|(times, after)| Nature::Hampered(times, after)),
    ]
}

/// Plays a dial out: who connected, when, and all dials.
fn play(natures: &[Nature], start: Instant) -> (Option<usize>, Duration, Vec<(usize, Duration)>) {
    let mut natures = natures.to_vec();
    let mut dialing = Dialing::new((0..natures.len()).map(backend).collect(), start);
    let mut now = start;
    let mut dials = Vec::new();
    // Who, and when.
    let mut coming: Vec<(usize, Instant)> = Vec::new();
    let who = |b: Backend, count: usize| (0..count).find(|n| backend(*n) == b).unwrap();
    for _ in 0..2000 {
        match dialing.step(now) {
            Step::GiveUp => return (None, now - start, dials),
            Step::Abandon(b) => coming.retain(|(n, _)| backend(*n) != b),
            Step::Dial { backend: b, .. } => {
                let n = who(b, natures.len());
                dials.push((n, now - start));
                match natures[n] {
                    Nature::Connects(after) | Nature::Fails(after) | Nature::Unreachable(after) => {
                        coming.push((n, now + ms(after)));
                    }
                    Nature::Silent => {}
                    Nature::Hampered(times, after) => {
                        natures[n] = if times > 1 {
                            Nature::Hampered(times - 1, after)
                        } else {
                            Nature::Connects(after)
                        };
                        dialing.hampered(b, now);
                    }
                }
            }
            Step::Wait(until) => match coming.iter().min_by_key(|(_, at)| *at).copied() {
                Some((n, at)) if at <= until => {
                    now = now.max(at);
                    coming.retain(|(other, _)| *other != n);
                    match natures[n] {
                        Nature::Connects(_) => return (Some(n), now - start, dials),
                        Nature::Unreachable(_) => dialing.unreachable(backend(n), now),
                        _ => dialing.failed(backend(n), now),
                    }
                }
                _ => {
                    assert!(until > now, "it must not spin");
                    now = until;
                }
            },
        }
    }
    panic!("it does not end");
}

proptest! {
    #[test]
    fn no_client_is_lost_while_one_answers(natures in prop::collection::vec(nature(), 0..12)) {
        let start = Instant::now();
        let (winner, took, dials) = play(&natures, start);
        let answering = natures.iter().any(|n| matches!(n, Nature::Connects(_) | Nature::Hampered(..)));
        prop_assert_eq!(winner.is_some(), answering);
        prop_assert!(took <= WHOLE);
        // The first that answers is dialled in its turn at the latest.
        if let Some((at, Nature::Connects(after))) =
            natures.iter().enumerate().find(|(_, n)| matches!(n, Nature::Connects(_)))
        {
            prop_assert!(took <= HEDGE * at as u32 + ms(*after));
        }
        let most = |nature: &Nature| match nature {
            Nature::Hampered(times, _) => times + WHOLE.as_secs() as u32 / ATTEMPT.as_secs() as u32,
            Nature::Silent => WHOLE.as_secs() as u32 / ATTEMPT.as_secs() as u32,
            Nature::Unreachable(_) => WHOLE.as_secs() as u32,
            _ => 1,
        };
        let most = natures.iter().map(most).sum::<u32>();
        prop_assert!(dials.len() <= most as usize);
        prop_assert_eq!(dials.first().map(|(n, at)| (*n, *at)), (!natures.is_empty()).then_some((0, Duration::ZERO)));
    }
}
