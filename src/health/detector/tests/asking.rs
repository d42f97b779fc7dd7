//! When clients are asked whether their connections still stand.

use super::*;

#[test]
fn the_clients_of_one_that_refuses_are_asked_once() {
    let mut story = both();
    story.refuse(A, 1000);
    story.pass(1001, 1001);
    assert_eq!(story.health(A, 1001).ask, Some(story.at(1001)));
    for ms in [1010, 2000, 3000] {
        story.refuse(A, ms);
        story.pass(ms + 1, ms + 1);
    }
    assert_eq!(story.health(A, 3001).ask, Some(story.at(1001)), "it refuses still");
    story.probe(A, 4000, 4001, Outcome::Ready);
    story.refuse(A, 5000);
    story.pass(5001, 5001);
    assert_eq!(story.health(A, 5001).ask, Some(story.at(5001)), "it refuses again");
}

/// A lone one gets no new connections elsewhere, and its clients hang all the same.
#[test]
fn they_are_asked_where_there_is_no_other_one() {
    let mut story = Story::healthy(options(), &[A]);
    story.refuse(A, 1000);
    story.pass(1001, 1001);
    assert_eq!((story.state(A), story.health(A, 1001).ask), (State::Healthy, Some(story.at(1001))));
}

/// How it is heard at that time.
type Way = fn(&mut Story, u64);

#[test]
fn they_are_asked_after_a_silence_of_a_second_whatever_ends_it() {
    let pong: Way = |story, ms| story.probe(A, ms - 1, ms, Outcome::Alive);
    let reset: Way = |story, ms| story.probe(A, ms - 1, ms, Outcome::Failed(FailReason::Reset));
    let host: Way = |story, ms| story.detector.host_heard(backend(A), story.at(ms));
    let hands: Way = |story, ms| story.detector.shook_hands(backend(A), story.at(ms), false);
    let ways: [Way; 4] = [pong, reset, host, hands];
    for (n, way) in ways.into_iter().enumerate() {
        for (lasted, asked) in [(999, false), (1000, true), (3000, true)] {
            let mut story = both();
            story.overdue(A, 1000, 1300);
            story.pass(1300, 1000 + lasted);
            way(&mut story, 1000 + lasted);
            let due = story.detector.next_deadline(story.at(1000 + lasted));
            story.pass(1000 + lasted, 1000 + lasted);
            let found = story.health(A, 5000).ask;
            assert_eq!(found.is_some(), asked, "way {n}, {lasted} ms");
            assert!(!asked || found == Some(story.at(1000 + lasted)));
            assert!(n == 1 || due.is_none_or(|due| due == story.at(1000 + lasted)), "way {n}");
        }
    }
}

#[test]
fn nodes_spread_their_questions() {
    let mut times = BTreeSet::new();
    for seed in 0..100 {
        let spread = HealthOptions { kill_spread: Duration::from_secs(1), ..options() };
        let mut story = Story::healthy(spread, &[A, B]);
        story.detector = Detector::new(spread, seed);
        story.publish(0, &[A, B]);
        for last in [A, B] {
            story.shakes(last, 0, false);
        }
        story.refuse(A, 1000);
        assert_eq!((story.state(A), story.health(A, 1001).ask), (State::Suspect, None), "seed {seed}");
        let due = story.detector.next_deadline(story.at(1001)).unwrap();
        assert!((story.at(1001)..story.at(2001)).contains(&due));
        story.pass(1001, 2001);
        assert_eq!(story.health(A, 2001).ask, Some(due));
        times.insert(due);
    }
    let gaps = times.iter().zip(times.iter().skip(1)).map(|(a, b)| *b - *a);
    assert!(times.len() > 95 && gaps.max() < Some(Duration::from_millis(100)));
}

#[test]
fn a_silence_that_goes_on_asks_no_client() {
    let mut story = both();
    story.overdue(A, 1000, 1300);
    story.pass(1300, 60_000);
    assert_eq!(story.health(A, 60_000).ask, None);
}

/// Whoever is back after a silence is asked for each second by each node, at a time of its own. A process that goes on answers all
/// nodes in the same instant.
#[test]
fn a_host_that_is_back_is_no_reason_to_wait() {
    let kill_spread = Duration::from_secs(1);
    let silent = || {
        let mut story = Story::healthy(HealthOptions { kill_spread, ..options() }, &[A, B]);
        story.overdue(A, 1000, 1300);
        story.pass(1300, 4000);
        story
    };
    let ask = |story: &Story| story.detector.next_deadline(story.at(4001));
    for refused in [true, false] {
        let mut story = silent();
        match refused {
            true => story.refuse(A, 4000),
            false => story.detector.host_heard(backend(A), story.at(4001)),
        }
        story.pass(4001, 4001);
        assert_eq!(story.health(A, 4001).ask, Some(story.at(4001)));
    }
    let mut story = silent();
    story.pong(A, 4000);
    assert_eq!(story.health(A, 4001).ask, None);
    assert!(ask(&story) > Some(story.at(4001)) && ask(&story) < Some(story.at(5001)));
}
