//! Who may bear witness against a backend, and when.

use super::*;

#[test]
fn a_witness_does_what_the_failing_one_cannot() {
    let fresh = Some(Duration::from_millis(2));
    let deeds = [(Outcome::Alive, None), (Outcome::Unready, None), (Outcome::Ready, fresh)];
    for (reason, needed) in [
        (FailReason::Refused, 0),
        (FailReason::Timeout, 0),
        (FailReason::Unreachable, 0),
        (FailReason::Reset, 1),
        (FailReason::Protocol, 1),
        (FailReason::Tls, 2),
        (FailReason::BadCertificate, 2),
    ] {
        let mut story = both_up();
        let failed = |story: &mut Story, ms| story.probe(A, ms, ms + 1, Outcome::Failed(reason));
        failed(&mut story, 1000);
        for (n, (outcome, handshake)) in (0u64..).zip(deeds) {
            let demand = story.health.directive(backend(B)).unwrap();
            assert_eq!(
                (demand.not_before.is_some(), demand.afresh),
                (n <= needed, n <= needed && needed == 2)
            );
            let (started, finished) = (story.at(1010 + n * 100), story.at(1012 + n * 100));
            story.observe(
                B,
                Probe {
                    started,
                    finished,
                    outcome,
                    round_trip: None,
                    handshake,
                    local: None,
                    answered: None,
                },
            );
            failed(&mut story, 1020 + n * 100);
            failed(&mut story, 1070 + n * 100);
            let (started, finished) = (story.at(1080 + n * 100), story.at(1082 + n * 100));
            story.observe(
                B,
                Probe {
                    started,
                    finished,
                    outcome,
                    round_trip: None,
                    handshake,
                    local: None,
                    answered: None,
                },
            );
            let expected = if n >= needed { State::Down } else { State::Up };
            assert_eq!(story.state(A), expected, "{reason} and {outcome:?}");
        }
    }
}

#[test]
fn an_answer_that_crossed_the_end_of_an_outage_is_a_witness_from_then_on() {
    let mut story = both_up();
    // All is lost from 1000 until 2000. A ping to B is sent again until it gets through.
    for started in [1500, 1600, 1700, 1800, 1900] {
        story.probe(A, started, started + 300, Outcome::Failed(FailReason::Timeout));
    }
    story.probe(B, 1850, 2060, Outcome::Alive);
    story.probe(A, 1950, 2250, Outcome::Failed(FailReason::Timeout));
    story.probe(A, 1990, 2290, Outcome::Failed(FailReason::Timeout));
    story.probe(B, 2300, 2301, Outcome::Alive);
    assert_eq!(story.state(A), State::Up, "these began while all was lost");
    story.probe(A, 2060, 2360, Outcome::Failed(FailReason::Timeout));
    story.probe(A, 2110, 2410, Outcome::Failed(FailReason::Timeout));
    story.probe(B, 2420, 2421, Outcome::Alive);
    assert_eq!(story.state(A), State::Down, "and these did not");
}

/// A goes silent at 1000; another backend answers all the time.
fn silent(story: &mut Story, reason: FailReason, mut answer: impl FnMut(&mut Story, u64), end: u64) {
    for ms in (1000..end).step_by(50) {
        answer(story, ms);
        story.probe(A, ms, ms + 10, Outcome::Failed(reason));
    }
    answer(story, end);
}

#[test]
fn one_on_this_node_says_nothing_of_the_way_to_others() {
    let answer = |story: &mut Story, ms| {
        let (started, finished) = (story.at(ms), story.at(ms + 1));
        let (handshake, local) = (Some(Duration::from_millis(1)), Some(true));
        story.observe(
            B,
            Probe {
                started,
                finished,
                outcome: Outcome::Ready,
                round_trip: None,
                handshake,
                local,
                answered: None,
            },
        );
    };
    let mut story = both_up();
    silent(&mut story, FailReason::Timeout, answer, 20_000);
    let health = story.health(A, 20_001);
    assert_eq!((health.state, health.ending), (State::Down, false), "this node may be cut off");
    silent(&mut story, FailReason::Timeout, answer, 40_000);
    assert!(story.health(A, 40_001).ending, "it is given up");
    let mut story = both_up();
    silent(&mut story, FailReason::Refused, answer, 1300);
    assert!(story.health(A, 1301).ending, "whoever refuses was reached");
}

#[test]
fn one_of_the_other_family_says_nothing_of_this_one() {
    let other: Backend = "[2001:db8::12]:6443".parse().unwrap();
    let mut story = both_up();
    let all = BTreeSet::from([backend(A), backend(B), other]);
    story.health.publish(&all, story.at(500));
    let ready = |started, finished| {
        let outcome = Outcome::Ready;
        Probe { started, finished, outcome, round_trip: None, handshake: None, local: None, answered: None }
    };
    let answer = |story: &mut Story, ms| story.health.observe(other, ready(story.at(ms), story.at(ms + 1)));
    // IPv4 alone is lost for five seconds.
    silent(&mut story, FailReason::Timeout, answer, 6000);
    assert_eq!((story.state(A), story.health(A, 6001).ending), (State::Down, false));
    story.probe(B, 6010, 6011, Outcome::Ready);
    story.probe(A, 6020, 6320, Outcome::Failed(FailReason::Timeout));
    story.probe(A, 6070, 6370, Outcome::Failed(FailReason::Timeout));
    story.probe(B, 6400, 6401, Outcome::Ready);
    assert!(!story.health(A, 6402).ending, "neighbours are found one by one");
    for ms in [10_100, 10_200] {
        story.probe(A, ms, ms + 300, Outcome::Failed(FailReason::Timeout));
    }
    assert!(story.health(A, 10_501).ending);
}

/// Apiservers that all go away do so one after the other, and come back so.
#[test]
fn an_outage_of_all_that_begins_and_ends_one_by_one_ends_no_flow() {
    for reason in [FailReason::Refused, FailReason::Timeout] {
        let mut story = both_up();
        let failed = |story: &mut Story, last, ms| story.probe(last, ms, ms + 1, Outcome::Failed(reason));
        failed(&mut story, A, 1000);
        story.probe(B, 1010, 1011, Outcome::Alive);
        for ms in (1020..4000).step_by(500) {
            failed(&mut story, A, ms);
            failed(&mut story, A, ms + 50);
            failed(&mut story, B, ms + 60);
        }
        for ms in (4000..8000).step_by(500) {
            story.probe(B, ms, ms + 1, Outcome::Ready);
            let health = story.health(A, ms + 1);
            assert_eq!((health.state, health.ending), (State::Down, false), "{reason} at {ms}");
            failed(&mut story, A, ms + 50);
            failed(&mut story, A, ms + 100);
        }
        for ms in [8010, 8060] {
            failed(&mut story, A, ms);
        }
        assert!(story.health(A, 8062).ending, "{reason}: it stays away");
    }
}

/// One that was away before says nothing against the proof that the others give.
#[test]
fn others_that_answer_all_the_time_are_proof_enough() {
    let mut story = Story::new(options(), &[A, B, C]);
    for last in [A, B, C] {
        story.probe(last, 0, 1, Outcome::Ready);
    }
    story.fail(B, 500);
    for ms in [1000, 2000, 3000] {
        story.fail(A, ms);
        story.fail(A, ms + 50);
        story.probe(C, ms + 60, ms + 61, Outcome::Alive);
    }
    story.probe(B, 3100, 3101, Outcome::Ready);
    assert!(story.health(A, 3102).ending);
}
