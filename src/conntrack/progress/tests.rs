//! Histories of flows, by hand and at random.

use proptest::prelude::*;

use super::*;
use crate::conntrack::entries::tests::sample;

fn flow(host: u8, port: u16) -> Flow {
    Flow { client: format!("10.244.0.{host}:{port}").parse().unwrap(), ..sample().flow }
}

fn entry(flow: Flow, state: TcpState) -> Entry {
    let mut entry = sample();
    (entry.flow, entry.state) = (flow, state);
    entry
}

fn entries(flows: &[Flow], state: TcpState) -> Vec<Entry> {
    flows.iter().map(|flow| entry(*flow, state)).collect()
}

#[test]
fn unanswered_entries_are_deleted_at_once_and_half_open_ones_after_a_while() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let all = [entry(flow(1, 1), TcpState::Unanswered), entry(flow(1, 2), TcpState::HalfOpen)];
    assert_eq!(progress.scan(all.to_vec(), start).delete, [all[0].clone()]);
    assert!(!progress.is_done());
    assert_eq!(progress.scan(all[1..].to_vec(), start + HALF_OPEN).delete, [all[1].clone()]);
    progress.scan(Vec::new(), start + HALF_OPEN);
    assert!(progress.is_done());
}

#[test]
fn flow_is_challenged_every_550_ms_until_it_ends() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let one = flow(1, 1);
    progress.scan(entries(&[one], TcpState::Open), start);
    assert_eq!(progress.begin_round(start), [one]);
    progress.challenged(one, start);
    assert_eq!(progress.begin_round(start + ROUND / 2), []);
    assert_eq!(progress.begin_round(start + ROUND), [one]);
    let scan = progress.scan(entries(&[one], TcpState::Ended), start + ROUND);
    assert!((scan.ended, scan.ended_challenged) == (1, 1) && progress.is_done());
    assert_eq!(scan.forget, entries(&[one], TcpState::Ended), "its port may be used again at once");
}

#[test]
fn flow_that_stays_open_is_challenged_a_second_time() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let (lost, alive) = (flow(1, 1), flow(1, 2));
    progress.scan(entries(&[lost, alive], TcpState::Open), start);
    for flow in progress.to_challenge(1, start) {
        assert!(progress.challenged(flow, start));
    }
    let later = start + ROUND;
    let late = flow(1, 3);
    let scan = progress.scan(entries(&[alive, late], TcpState::Open), later);
    assert_eq!((scan.ended, scan.ended_challenged), (1, 1));
    assert_eq!(progress.to_challenge(2, later), [alive], "the other one began later");
    assert!(!progress.challenged(alive, later));
    progress.restart_challenges();
    let mut anew = progress.to_challenge(1, later + ROUND);
    anew.sort();
    assert_eq!(anew, [alive, late]);
}

#[test]
fn each_of_many_flows_of_one_client_is_challenged_twice() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let flows: Vec<Flow> = (0..5000).map(|port| flow(1, port)).collect();
    for round in 1..=2 {
        let now = start + ROUND * round;
        progress.scan(entries(&flows, TcpState::Open), now);
        let asked = progress.to_challenge(round, now);
        assert_eq!(asked.len(), flows.len());
        for flow in asked {
            progress.challenged(flow, now);
        }
    }
}

#[test]
fn closing_flow_is_challenged_last_and_then_believed_closed() {
    let mut now = Instant::now();
    let mut progress = Progress::default();
    let (closing, open) = (flow(1, 1), flow(1, 2));
    let both = [entry(closing, TcpState::Closing), entry(open, TcpState::Open)];
    progress.scan(both.to_vec(), now);
    assert_eq!(progress.begin_round(now), [open, closing]);
    assert_eq!(progress.count(), 1);
    for times in 1..=ENOUGH {
        assert!(!progress.is_done(), "asked {} times", times - 1);
        progress.challenged(closing, now);
        now += ROUND;
        progress.scan(entries(&[closing], TcpState::Closing), now);
    }
    assert!(progress.is_done() && progress.remaining().is_empty());
}

#[test]
fn client_reset_ends_flow_only_after_a_challenge() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let one = flow(1, 1);
    let closed = ClientReply { flow: one, kind: ReplyKind::Closed };
    progress.scan(entries(&[one], TcpState::Open), start);
    assert!(!progress.replied(closed));
    progress.challenged(one, start);
    assert!(!progress.replied(ClientReply { kind: ReplyKind::Open(1), ..closed }));
    assert!(progress.replied(closed));
    // Conntrack may go on to show it as open.
    progress.scan(entries(&[one], TcpState::Open), start + ROUND);
    assert!(progress.is_done() && progress.remaining().is_empty());
    assert_eq!(progress.begin_round(start + ROUND), []);
}

#[test]
fn resets_are_not_repeated_within_a_burst() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let one = flow(1, 1);
    assert!(!progress.wants_reset(one, start));
    progress.scan(entries(&[one], TcpState::Open), start);
    assert!(progress.wants_reset(one, start));
    assert!(!progress.wants_reset(one, start + RESET_AGAIN / 2));
    assert!(progress.wants_reset(one, start + RESET_AGAIN));
}

#[test]
fn remaining_flows_have_a_reason() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let flows = [flow(1, 1), flow(2, 1), flow(3, 1)];
    progress.scan(entries(&flows, TcpState::Open), start);
    progress.challenged(flows[0], start);
    progress.failed(flows[1], Remaining::OutputPolicy, start);
    let expected = [(Remaining::NoAnswer, 1), (Remaining::OutputPolicy, 1), (Remaining::OutOfTime, 1)].into();
    assert_eq!(progress.remaining(), expected);
}

#[test]
fn client_with_1000_challenge_acks_per_second_finishes_in_time() {
    // A host that answers at most 1,000 challenge SYNs in each second, as kernels before 6.1 do.
    let start = Instant::now();
    let mut now = start;
    let mut progress = Progress::default();
    let mut open: Vec<Flow> = (0..5000).map(|port| flow(1, port)).collect();
    let (mut second, mut budget) = (start, 1000);
    for _ in 0..30 {
        progress.scan(entries(&open, TcpState::Open), now);
        if progress.is_done() {
            break;
        }
        for flow in progress.begin_round(now) {
            progress.challenged(flow, now);
            if now - second >= Duration::from_secs(1) {
                (second, budget) = (now, 1000);
            }
            if budget > 0 {
                budget -= 1;
                open.retain(|one| *one != flow);
            }
        }
        now += ROUND;
    }
    assert!(progress.is_done(), "{} are open", open.len());
    assert!(now - start < Duration::from_secs(8), "{:?}", now - start);
}

proptest! {
    #[test]
    fn every_open_flow_is_challenged_in_time_and_none_too_often(
        count in 1u16..200,
        answers in prop::collection::vec(any::<bool>(), 0..2000),
    ) {
        let mut now = Instant::now();
        let mut answers = answers.into_iter();
        let mut progress = Progress::default();
        let mut open: Vec<Flow> = (0..count).map(|port| flow(1, port)).collect();
        let mut last: HashMap<Flow, Instant> = HashMap::new();
        for _ in 0..12 {
            progress.scan(entries(&open, TcpState::Open), now);
            for flow in progress.begin_round(now) {
                prop_assert!(open.contains(&flow));
                prop_assert!(last.insert(flow, now).is_none_or(|before| now - before >= ROUND));
                progress.challenged(flow, now);
                if answers.next().unwrap_or(true) {
                    open.retain(|one| *one != flow);
                }
            }
            now += ROUND;
        }
        progress.scan(entries(&open, TcpState::Open), now);
        let remaining: u64 = progress.remaining().values().sum();
        prop_assert_eq!(usize::try_from(remaining).unwrap(), open.len());
        prop_assert_eq!(progress.open().count(), open.len());
    }
}

#[test]
fn bucket_allows_one_second_burst_then_the_rate() {
    let start = Instant::now();
    let mut bucket = TokenBucket::new(100, start);
    assert_eq!((0..200).filter(|_| bucket.take(start)).count(), 100);
    assert!(bucket.next(start) > start);
    let later = start + Duration::from_millis(501);
    assert_eq!((0..200).filter(|_| bucket.take(later)).count(), 50);
    bucket.put_back();
    assert!(bucket.take(later));
}

#[test]
fn client_limit_falls_with_few_replies_and_grows_again() {
    let mut pace = ClientPacing::default();
    assert_eq!((0..5000).filter(|_| pace.take()).count(), 5000);
    pace.end_round(4000);
    assert_eq!((0..5000).filter(|_| pace.take()).count(), 1500);
    pace.end_round(0);
    assert_eq!((0..5000).filter(|_| pace.take()).count(), 3000);
    pace.end_round(3000);
    assert_eq!((0..5000).filter(|_| pace.take()).count(), 2250);
    pace.end_round(2250);
    assert_eq!((0..5000).filter(|_| pace.take()).count(), 100);
    assert!(pace.has_answered());
}

#[test]
fn few_open_flows_set_no_client_limit() {
    let mut pace = ClientPacing::default();
    assert!((0..50).all(|_| pace.take()));
    pace.end_round(50);
    assert_eq!(pace, ClientPacing::default());
}

proptest! {
    #[test]
    fn bucket_never_exceeds_rate(rate in 1u32..10_000, steps in prop::collection::vec(0u64..50, 1..100)) {
        let start = Instant::now();
        let mut now = start;
        let mut bucket = TokenBucket::new(rate, now);
        let mut sent = 0u32;
        for step in steps {
            now += Duration::from_millis(step);
            while bucket.take(now) {
                sent += 1;
            }
        }
        let allowed = f64::from(rate) * (1.0 + (now - start).as_secs_f64());
        prop_assert!(f64::from(sent) <= allowed + 1.0);
    }

    #[test]
    fn client_limit_never_falls_below_minimum(rounds in prop::collection::vec(0u32..10_000, 0..40)) {
        let mut pace = ClientPacing::default();
        for open in rounds {
            while pace.sent < 2000 && pace.take() {}
            prop_assert!(pace.sent >= LEAST);
            let open = open.min(pace.sent);
            pace.end_round(open);
        }
    }
}
