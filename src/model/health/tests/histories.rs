//! Randomised histories: what must hold whatever the backends do. proptest prints the seed of a failure and keeps it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::machine::HOLD_MAX;
use super::*;

const ALL: [u8; 3] = [11, 12, 13];

/// One event: the pause before it in ms, whose it is, how long the probe took in ms, what it found; `None` is a cue.
type Event = (u64, usize, u64, Option<Outcome>);

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        2 => Just(Outcome::Alive),
        3 => Just(Outcome::Ready),
        1 => Just(Outcome::Unready),
        4 => proptest::sample::select(&FailReason::ALL[..]).prop_map(Outcome::Failed),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    (0u64..400, 0..ALL.len(), 0u64..600, prop_oneof![1 => Just(None), 9 => outcome().prop_map(Some)])
}

/// Lets an event happen, and returns when the probe began.
fn happen(story: &mut Story, now: &mut u64, (pause, who, took, what): Event) -> u64 {
    *now += pause;
    let (last, started) = (ALL[who], now.saturating_sub(took));
    match what {
        None => story.health.cue(backend(last), story.at(*now), Cue::Ended),
        Some(outcome) => story.probe(last, started, *now, outcome),
    }
    started
}

proptest! {
    #[test]
    fn none_is_down_without_a_witness(events in proptest::collection::vec(event(), 1..300)) {
        let mut story = Story::new(options(), &ALL);
        let mut now = 1000;
        // By our own account: since when each one answered nothing, and when the others began to answer.
        let mut silent: BTreeMap<u8, u64> = BTreeMap::new();
        let mut answers: Vec<(u8, u64)> = Vec::new();
        let mut latest: BTreeMap<u8, u64> = BTreeMap::new();
        for event in events {
            let before = ALL.map(|last| story.state(last));
            let started = happen(&mut story, &mut now, event);
            let last = ALL[event.1];
            match event.3 {
                None => _ = silent.entry(last).or_insert(now),
                Some(Outcome::Failed(_)) if latest.get(&last).is_none_or(|answer| started > *answer) => {
                    silent.entry(last).or_insert(now);
                }
                Some(Outcome::Failed(_)) => {}
                Some(found) => {
                    answers.push((last, started));
                    let full = matches!(found, Outcome::Ready | Outcome::Unready);
                    if full && latest.get(&last).is_none_or(|answer| started >= *answer) {
                        latest.insert(last, started);
                        silent.remove(&last);
                    }
                }
            }
            for (last, before) in ALL.into_iter().zip(before) {
                if before != State::Down && story.state(last) == State::Down {
                    let since = silent.get(&last).copied();
                    prop_assert!(since.is_some(), "{last} answers");
                    let seen = answers.iter().any(|(other, at)| *other != last && Some(*at) >= since);
                    prop_assert!(seen, "nobody bears witness against {last}");
                }
                let health = story.health(last, now);
                let held = health.held_until.map(|until| until.duration_since(story.at(now)));
                prop_assert!(held.is_none_or(|held| held <= HOLD_MAX));
                prop_assert!(!health.ending || health.state == State::Down);
            }
        }
    }

    #[test]
    fn whoever_keeps_answering_is_up_again(events in proptest::collection::vec(event(), 1..300)) {
        let mut story = Story::new(options(), &ALL);
        let mut now = 1000;
        for event in events {
            happen(&mut story, &mut now, event);
        }
        let limit = u64::try_from(HOLD_MAX.as_millis()).unwrap() + 5_000;
        let end = now + limit;
        while now < end {
            now += 1000;
            for last in ALL {
                story.probe(last, now, now + 1, Outcome::Ready);
            }
        }
        for last in ALL {
            let health = story.health(last, now);
            prop_assert!(health.state == State::Up && health.answering, "{health:?}");
        }
    }

    /// The node loses its uplink: everything fails, each backend's probes at a phase of its own. Then all answer, some
    /// up to 3 s later than the first, because neighbours are found one by one.
    #[test]
    fn an_outage_of_the_node_ends_no_flow(
        phases in [0u64..1000, 0u64..1000, 0u64..1000],
        outage in 2_500u64..20_000,
        late in [0u64..3000, 0u64..3000, 0u64..3000],
    ) {
        let mut story = Story::new(options(), &ALL);
        for last in ALL {
            story.probe(last, 0, 1, Outcome::Ready);
        }
        let (cut, mended) = (1000, 1000 + outage);
        let first = late.iter().min().unwrap();
        let mut probes: Vec<(u64, u64, u8)> = Vec::new();
        for (i, last) in ALL.into_iter().enumerate() {
            let noticed = cut + phases[i] + 300;
            probes.extend((noticed..mended + 8_000).step_by(50).map(|start| (start, mended + late[i] - first, last)));
        }
        // By the time at which they are decided.
        let mut decided: Vec<(u64, u64, u8, Outcome)> = probes
            .into_iter()
            .map(|(start, back, last)| match start >= back {
                true => (start + 1, start, last, Outcome::Ready),
                false => (start + 300, start, last, Outcome::Failed(FailReason::Timeout)),
            })
            .collect();
        decided.sort_by_key(|(end, start, last, _)| (*end, *start, *last));
        for (end, start, last, found) in decided {
            story.probe(last, start, end, found);
            for each in ALL {
                prop_assert!(!story.health(each, end).ending, "{each} at {end}");
            }
        }
        // Whoever was Down for the while comes back.
        prop_assert!(ALL.iter().all(|last| story.state(*last) == State::Up));
    }

    /// All die at 1000. One of them was under suspicion by chance, and too slow for its last probes to get through.
    #[test]
    fn what_hits_all_at_once_brings_nobody_down(
        suspicion in 500u64..1000,
        slow in 0u64..=50,
        phases in [0u64..50, 0u64..50, 0u64..50],
    ) {
        let mut story = Story::new(options(), &ALL);
        for last in ALL {
            story.probe(last, 0, 1, Outcome::Ready);
        }
        let mut decided: Vec<(u64, u64, u8, Outcome)> = Vec::new();
        for (i, last) in ALL.into_iter().enumerate() {
            let fails_from = if i == 0 { 1000 - slow } else { 1000 };
            decided.extend((suspicion + phases[i]..4000).step_by(50).map(|start| match start < fails_from {
                true => (start + 1, start, last, Outcome::Ready),
                false => (start + 300, start, last, Outcome::Failed(FailReason::Timeout)),
            }));
        }
        decided.sort_by_key(|(end, start, last, _)| (*end, *start, *last));
        story.health.cue(backend(ALL[0]), story.at(suspicion), Cue::Dial);
        for (end, start, last, found) in decided {
            // A probe that got through before is the end of the suspicion; without it this is the worst case.
            if last != ALL[0] || found != Outcome::Ready {
                story.probe(last, start, end, found);
            }
            prop_assert!(ALL.iter().all(|last| story.state(*last) != State::Down), "at {end}");
        }
    }

    #[test]
    fn stale_results_change_no_state(
        events in proptest::collection::vec(event(), 0..100),
        stale in proptest::collection::vec((0..ALL.len(), 1u64..900, 0u64..500, outcome()), 1..50),
    ) {
        let mut story = Story::new(options(), &ALL);
        let mut now = 1000;
        for event in events {
            happen(&mut story, &mut now, event);
        }
        now += 1000;
        for last in ALL {
            story.probe(last, now, now + 1, Outcome::Ready);
        }
        let before = ALL.map(|last| story.state(last));
        for (who, ago, took, found) in stale {
            story.probe(ALL[who], now - ago, now + took, found);
        }
        prop_assert_eq!(before, ALL.map(|last| story.state(last)));
    }

    #[test]
    fn a_killed_process_is_down_within_fall_and_one_more(fall in 1u32..6, phase in 0u64..50) {
        let mut story = Story::new(HealthOptions { fall, ..options() }, &[A, B]);
        for last in [A, B] {
            story.probe(last, 0, 1, Outcome::Ready);
        }
        story.health.cue(backend(A), story.at(1000), Cue::Silent);
        story.probe(B, 1000 + phase, 1001 + phase, Outcome::Ready);
        for n in 0..=u64::from(fall) {
            story.fail(A, 1000 + n * 50);
        }
        let after = 1000 + u64::from(fall) * 50;
        story.probe(B, after, after + 1, Outcome::Ready);
        prop_assert_eq!(story.state(A), State::Down);
        prop_assert!(story.health(A, 2000).ending);
    }
}
