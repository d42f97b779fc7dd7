use std::collections::BTreeMap;

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
fn second_dial_starts_when_the_first_gets_no_answer() {
    let start = Instant::now();
    let mut schedule = HappyEyeballs::new(vec![backend(0), backend(1), backend(2)], start);
    assert_eq!(schedule.step(start), dial(0, false));
    assert_eq!(schedule.step(start), Step::Wait(start + HEDGE_DELAY));
    assert_eq!(schedule.step(start + ms(249)), Step::Wait(start + HEDGE_DELAY));
    assert_eq!(schedule.step(start + ms(251)), dial(1, true));
    assert_eq!(schedule.step(start + ms(251)), Step::Wait(start + ms(501)));
    assert_eq!(schedule.step(start + ms(501)), dial(2, true));
    assert_eq!(schedule.step(start + ms(501)), Step::Wait(start + ATTEMPT_TIMEOUT));
}

#[test]
fn refused_dial_starts_the_next_at_once() {
    let start = Instant::now();
    let mut schedule = HappyEyeballs::new(vec![backend(0), backend(1)], start);
    assert_eq!(schedule.step(start), dial(0, false));
    schedule.failed(backend(0), start + ms(1));
    assert_eq!(schedule.step(start + ms(1)), dial(1, false));
    schedule.failed(backend(1), start + ms(2));
    assert_eq!(schedule.step(start + ms(2)), Step::GiveUp);
}

#[test]
fn no_backends_gives_up_at_once() {
    let now = Instant::now();
    assert_eq!(HappyEyeballs::new(Vec::new(), now).step(now), Step::GiveUp);
}

#[test]
fn dial_without_answer_times_out_and_is_repeated() {
    let start = Instant::now();
    let mut schedule = HappyEyeballs::new(vec![backend(0)], start);
    assert_eq!(schedule.step(start), dial(0, false));
    assert_eq!(schedule.step(start), Step::Wait(start + ATTEMPT_TIMEOUT));
    assert_eq!(schedule.step(start + ATTEMPT_TIMEOUT), Step::Cancel(backend(0)));
    assert_eq!(schedule.step(start + ATTEMPT_TIMEOUT), dial(0, false), "the network may be back");
    assert_eq!(schedule.step(start + ATTEMPT_TIMEOUT * 2), Step::Cancel(backend(0)));
    assert_eq!(schedule.step(start + ATTEMPT_TIMEOUT * 2), dial(0, false));
    assert_eq!(schedule.step(start + TOTAL_TIMEOUT), Step::GiveUp);
}

#[test]
fn unreachable_backend_is_dialed_again_after_a_second() {
    let start = Instant::now();
    let mut schedule = HappyEyeballs::new(vec![backend(0), backend(1)], start);
    assert_eq!(schedule.step(start), dial(0, false));
    schedule.unreachable(backend(0), start + ms(1));
    assert_eq!(schedule.step(start + ms(1)), dial(1, false), "another one may be on another network");
    schedule.unreachable(backend(1), start + ms(2));
    assert_eq!(schedule.step(start + ms(2)), Step::Wait(start + ms(1) + UNREACHABLE_RETRY));
    assert_eq!(schedule.step(start + ms(1) + UNREACHABLE_RETRY), dial(0, false));
    schedule.failed(backend(0), start + ms(5) + UNREACHABLE_RETRY);
    assert_eq!(schedule.step(start + ms(5) + UNREACHABLE_RETRY), dial(1, false));
    schedule.failed(backend(1), start + ms(6) + UNREACHABLE_RETRY);
    assert_eq!(schedule.step(start + ms(6) + UNREACHABLE_RETRY), Step::GiveUp, "both refused");
}

#[test]
fn local_failure_is_retried_and_does_not_blame_the_backend() {
    let start = Instant::now();
    let mut schedule = HappyEyeballs::new(vec![backend(0), backend(1)], start);
    assert_eq!(schedule.step(start), dial(0, false));
    schedule.failed_locally(backend(0), start);
    assert_eq!(schedule.step(start), Step::Wait(start + LOCAL_RETRY));
    assert_eq!(schedule.step(start + LOCAL_RETRY), dial(1, false));
    schedule.failed(backend(1), start + LOCAL_RETRY);
    assert_eq!(schedule.step(start + LOCAL_RETRY), dial(0, false));
    schedule.failed_locally(backend(0), start + TOTAL_TIMEOUT - ms(1));
    assert_eq!(schedule.step(start + TOTAL_TIMEOUT - ms(1)), Step::Wait(start + TOTAL_TIMEOUT));
    assert_eq!(schedule.step(start + TOTAL_TIMEOUT), Step::GiveUp);
}

/// How a backend takes a dial.
#[derive(Clone, Copy, Debug)]
enum Behavior {
    Connects(u64),
    Fails(u64),
    Silent,
    /// There is no way to it, as is known after so long.
    Unreachable(u64),
    /// So many times there is no descriptor for it, then it connects after so long.
    FailsLocally(u32, u64),
}

fn behavior() -> impl Strategy<Value = Behavior> {
    prop_oneof![
        (0..1200u64).prop_map(Behavior::Connects),
        (0..1200u64).prop_map(Behavior::Fails),
        Just(Behavior::Silent),
        (0..1200u64).prop_map(Behavior::Unreachable),
        (1..4u32, 0..1200u64).prop_map(|(times, after)| Behavior::FailsLocally(times, after)),
    ]
}

/// Plays a dial out: who connected, when, and all dials.
fn play(behaviors: &[Behavior], start: Instant) -> (Option<usize>, Duration, Vec<(usize, Duration)>) {
    let mut behaviors = behaviors.to_vec();
    let mut schedule = HappyEyeballs::new((0..behaviors.len()).map(backend).collect(), start);
    let mut now = start;
    let mut dials = Vec::new();
    // Who, and when.
    let mut coming: Vec<(usize, Instant)> = Vec::new();
    let who = |b: Backend, count: usize| (0..count).find(|n| backend(*n) == b).unwrap();
    for _ in 0..2000 {
        match schedule.step(now) {
            Step::GiveUp => return (None, now - start, dials),
            Step::Cancel(b) => coming.retain(|(n, _)| backend(*n) != b),
            Step::Dial { backend: b, .. } => {
                let n = who(b, behaviors.len());
                dials.push((n, now - start));
                match behaviors[n] {
                    Behavior::Connects(after) | Behavior::Fails(after) | Behavior::Unreachable(after) => {
                        coming.push((n, now + ms(after)));
                    }
                    Behavior::Silent => {}
                    Behavior::FailsLocally(times, after) => {
                        behaviors[n] = if times > 1 {
                            Behavior::FailsLocally(times - 1, after)
                        } else {
                            Behavior::Connects(after)
                        };
                        schedule.failed_locally(b, now);
                    }
                }
            }
            Step::Wait(until) => match coming.iter().min_by_key(|(_, at)| *at).copied() {
                Some((n, at)) if at <= until => {
                    now = now.max(at);
                    coming.retain(|(other, _)| *other != n);
                    match behaviors[n] {
                        Behavior::Connects(_) => return (Some(n), now - start, dials),
                        Behavior::Unreachable(_) => schedule.unreachable(backend(n), now),
                        _ => schedule.failed(backend(n), now),
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
    fn client_gets_a_backend_while_one_answers(behaviors in prop::collection::vec(behavior(), 0..12)) {
        let start = Instant::now();
        let (winner, took, dials) = play(&behaviors, start);
        let answering = behaviors.iter().any(|n| matches!(n, Behavior::Connects(_) | Behavior::FailsLocally(..)));
        prop_assert_eq!(winner.is_some(), answering);
        prop_assert!(took <= TOTAL_TIMEOUT);
        // The first that answers is dialled in its turn at the latest.
        if let Some((at, Behavior::Connects(after))) =
            behaviors.iter().enumerate().find(|(_, n)| matches!(n, Behavior::Connects(_)))
        {
            prop_assert!(took <= HEDGE_DELAY * at as u32 + ms(*after));
        }
        let most = |behavior: &Behavior| match behavior {
            Behavior::FailsLocally(times, _) => times + TOTAL_TIMEOUT.as_secs() as u32 / ATTEMPT_TIMEOUT.as_secs() as u32,
            Behavior::Silent => TOTAL_TIMEOUT.as_secs() as u32 / ATTEMPT_TIMEOUT.as_secs() as u32,
            Behavior::Unreachable(_) => TOTAL_TIMEOUT.as_secs() as u32,
            _ => 1,
        };
        let most = behaviors.iter().map(most).sum::<u32>();
        prop_assert!(dials.len() <= most as usize);
        prop_assert_eq!(dials.first().map(|(n, at)| (*n, *at)), (!behaviors.is_empty()).then_some((0, Duration::ZERO)));
    }
}

fn backends(count: u8) -> Vec<Backend> {
    (1..=count).map(|n| SocketAddr::from(([10, 0, 0, n], 6443))).collect()
}

fn client(n: u16) -> IpAddr {
    IpAddr::from([10, 1, (n >> 8) as u8, n as u8])
}

#[test]
fn every_order_is_equally_likely_without_affinity() {
    let route = ProxyRoute { backends: backends(3), ..ProxyRoute::default() };
    let mut seen: BTreeMap<Vec<Backend>, u32> = BTreeMap::new();
    for seed in 0..6000 {
        *seen.entry(backend_order(&route, client(1), seed)).or_default() += 1;
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.values().all(|count| (850..1150).contains(count)), "{seen:?}");
}

#[test]
fn client_keeps_its_order_when_another_backend_is_removed() {
    let all = ProxyRoute { backends: backends(4), affinity: Affinity::ClientIP, ..ProxyRoute::default() };
    let gone = all.backends[2];
    let mut fewer = all.clone();
    fewer.backends.retain(|backend| *backend != gone);
    let mut load: BTreeMap<Backend, u32> = BTreeMap::new();
    for n in 0..4000 {
        let before = backend_order(&all, client(n), u64::from(n));
        let mut expected = before.clone();
        expected.retain(|backend| *backend != gone);
        assert_eq!(backend_order(&fewer, client(n), 7), expected);
        *load.entry(before[0]).or_default() += 1;
    }
    assert!(load.len() == 4 && load.values().all(|count| (850..1150).contains(count)), "{load:?}");
}

#[test]
fn fallback_backends_come_last_in_their_order_without_duplicates() {
    let all = backends(5);
    let route = ProxyRoute {
        backends: all[..2].to_vec(),
        others: vec![all[4], all[1], all[3]],
        affinity: Affinity::None,
    };
    for seed in 0..20 {
        let order = backend_order(&route, client(1), seed);
        assert_eq!(order[2..], [all[4], all[3]]);
    }
}
