//! Histories of flows, by hand and at random.

use proptest::prelude::*;

use super::*;
use crate::conntrack::entries::tests::sample;

fn flow(host: u8, port: u16) -> Flow {
    Flow { client: format!("10.244.0.{host}:{port}").parse().unwrap(), ..sample().flow }
}

fn entry(flow: Flow, state: State) -> Entry {
    let mut entry = sample();
    (entry.flow, entry.state) = (flow, state);
    entry
}

fn entries(flows: &[Flow], state: State) -> Vec<Entry> {
    flows.iter().map(|flow| entry(*flow, state)).collect()
}

#[test]
fn unanswered_entries_go_at_once_and_half_open_ones_when_they_stay() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let all = [entry(flow(1, 1), State::Unanswered), entry(flow(1, 2), State::HalfOpen)];
    assert_eq!(progress.look(all.to_vec(), start).delete, [all[0].clone()]);
    assert!(!progress.is_done());
    assert_eq!(progress.look(all[1..].to_vec(), start + HALF_OPEN).delete, [all[1].clone()]);
    progress.look(Vec::new(), start + HALF_OPEN);
    assert!(progress.is_done());
}

#[test]
fn a_flow_is_asked_once_in_550_ms_until_it_ends() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let one = flow(1, 1);
    progress.look(entries(&[one], State::Open), start);
    assert_eq!(progress.begin_round(start), [one]);
    progress.nudged(one, start);
    assert_eq!(progress.begin_round(start + ROUND / 2), []);
    assert_eq!(progress.begin_round(start + ROUND), [one]);
    let look = progress.look(entries(&[one], State::Ended), start + ROUND);
    assert!((look.ended, look.ended_asked) == (1, 1) && progress.is_done());
    assert_eq!(look.forget, entries(&[one], State::Ended), "its port may be used again at once");
}

#[test]
fn who_stays_open_is_asked_a_second_time() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let (lost, alive) = (flow(1, 1), flow(1, 2));
    progress.look(entries(&[lost, alive], State::Open), start);
    for flow in progress.to_ask(1, start) {
        assert!(progress.nudged(flow, start));
    }
    let later = start + ROUND;
    let late = flow(1, 3);
    let look = progress.look(entries(&[alive, late], State::Open), later);
    assert_eq!((look.ended, look.ended_asked), (1, 1));
    assert_eq!(progress.to_ask(2, later), [alive], "the other one began later");
    assert!(!progress.nudged(alive, later));
    progress.ask_anew();
    let mut anew = progress.to_ask(1, later + ROUND);
    anew.sort();
    assert_eq!(anew, [alive, late]);
}

#[test]
fn a_client_with_many_flows_is_asked_for_each_of_them_twice() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let flows: Vec<Flow> = (0..5000).map(|port| flow(1, port)).collect();
    for round in 1..=2 {
        let now = start + ROUND * round;
        progress.look(entries(&flows, State::Open), now);
        let asked = progress.to_ask(round, now);
        assert_eq!(asked.len(), flows.len());
        for flow in asked {
            progress.nudged(flow, now);
        }
    }
}

#[test]
fn a_flow_that_seems_closed_is_asked_after_the_others_and_then_believed() {
    let mut now = Instant::now();
    let mut progress = Progress::default();
    let (closing, open) = (flow(1, 1), flow(1, 2));
    let both = [entry(closing, State::Closing), entry(open, State::Open)];
    progress.look(both.to_vec(), now);
    assert_eq!(progress.begin_round(now), [open, closing]);
    assert_eq!(progress.count(), 1);
    for times in 1..=ENOUGH {
        assert!(!progress.is_done(), "asked {} times", times - 1);
        progress.nudged(closing, now);
        now += ROUND;
        progress.look(entries(&[closing], State::Closing), now);
    }
    assert!(progress.is_done() && progress.remaining().is_empty());
}

#[test]
fn a_client_that_says_closed_is_believed_once_it_was_asked() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let one = flow(1, 1);
    let closed = Answer { flow: one, kind: AnswerKind::Closed };
    progress.look(entries(&[one], State::Open), start);
    assert!(!progress.answered(closed));
    progress.nudged(one, start);
    assert!(!progress.answered(Answer { kind: AnswerKind::Open(1), ..closed }));
    assert!(progress.answered(closed));
    // Conntrack may go on to show it as open.
    progress.look(entries(&[one], State::Open), start + ROUND);
    assert!(progress.is_done() && progress.remaining().is_empty());
    assert_eq!(progress.begin_round(start + ROUND), []);
}

#[test]
fn resets_are_not_repeated_within_a_burst() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let one = flow(1, 1);
    assert!(!progress.wants_reset(one, start));
    progress.look(entries(&[one], State::Open), start);
    assert!(progress.wants_reset(one, start));
    assert!(!progress.wants_reset(one, start + RESET_AGAIN / 2));
    assert!(progress.wants_reset(one, start + RESET_AGAIN));
}

#[test]
fn what_remains_has_a_reason() {
    let start = Instant::now();
    let mut progress = Progress::default();
    let flows = [flow(1, 1), flow(2, 1), flow(3, 1)];
    progress.look(entries(&flows, State::Open), start);
    progress.nudged(flows[0], start);
    progress.failed(flows[1], Remaining::OutputPolicy, start);
    let expected = [(Remaining::NoAnswer, 1), (Remaining::OutputPolicy, 1), (Remaining::OutOfTime, 1)].into();
    assert_eq!(progress.remaining(), expected);
}

#[test]
fn a_client_of_one_thousand_answers_a_second_is_done_in_time() {
    // A host that answers at most 1,000 nudges in each second, as kernels before 6.1 do.
    let start = Instant::now();
    let mut now = start;
    let mut progress = Progress::default();
    let mut open: Vec<Flow> = (0..5000).map(|port| flow(1, port)).collect();
    let (mut second, mut budget) = (start, 1000);
    for _ in 0..30 {
        progress.look(entries(&open, State::Open), now);
        if progress.is_done() {
            break;
        }
        for flow in progress.begin_round(now) {
            progress.nudged(flow, now);
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
    fn every_open_flow_is_asked_in_time_and_none_too_often(
        count in 1u16..200,
        answers in prop::collection::vec(any::<bool>(), 0..2000),
    ) {
        let mut now = Instant::now();
        let mut answers = answers.into_iter();
        let mut progress = Progress::default();
        let mut open: Vec<Flow> = (0..count).map(|port| flow(1, port)).collect();
        let mut last: HashMap<Flow, Instant> = HashMap::new();
        for _ in 0..12 {
            progress.look(entries(&open, State::Open), now);
            for flow in progress.begin_round(now) {
                prop_assert!(open.contains(&flow));
                prop_assert!(last.insert(flow, now).is_none_or(|before| now - before >= ROUND));
                progress.nudged(flow, now);
                if answers.next().unwrap_or(true) {
                    open.retain(|one| *one != flow);
                }
            }
            now += ROUND;
        }
        progress.look(entries(&open, State::Open), now);
        let remaining: u64 = progress.remaining().values().sum();
        prop_assert_eq!(usize::try_from(remaining).unwrap(), open.len());
        prop_assert_eq!(progress.open().count(), open.len());
    }
}
