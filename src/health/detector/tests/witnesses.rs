//! Who speaks for a backend's leaving the path. What ends connections is in `proofs`.

use super::*;

#[test]
fn a_witness_does_what_the_failing_one_cannot() {
    let fresh = Some(Duration::from_millis(2));
    let deeds = [(Outcome::Alive, None), (Outcome::Unready, None), (Outcome::Ready, fresh)];
    for (reason, needed) in [
        (FailReason::Timeout, 0),
        (FailReason::Unreachable, 0),
        (FailReason::Reset, 1),
        (FailReason::Protocol, 1),
        (FailReason::Tls, 2),
        (FailReason::BadCertificate, 2),
    ] {
        let mut story = both();
        let failed = |story: &mut Story, ms| story.probe(A, ms, ms + 1, Outcome::Failed(reason));
        failed(&mut story, 1000);
        story.pass(1001, 2000);
        for (n, (outcome, handshake)) in (0u64..).zip(deeds) {
            let from = 2000 + n * 500;
            let demand = story.directive(B, from);
            // What a silence wants besides is in `proofs`.
            if needed > 0 {
                assert_eq!(demand.not_before.is_some(), n <= needed, "{reason} and {outcome:?}");
                assert_eq!(demand.afresh, n <= needed && needed == 2, "{reason} and {outcome:?}");
            }
            for (ms, who) in [(10, B), (20, A), (70, A), (80, B)] {
                match who {
                    A => failed(&mut story, from + ms),
                    _ => {
                        let probe = bare(story.at(from + ms), story.at(from + ms + 2), outcome);
                        story.detector.observe(backend(B), Probe { handshake, ..probe });
                    }
                }
            }
            let expected = if n >= needed { State::Suspect } else { State::Healthy };
            assert_eq!(story.state(A), expected, "{reason} and {outcome:?}");
        }
    }
}

#[test]
fn an_answer_that_crossed_the_end_of_an_outage_is_a_witness_from_then_on() {
    let mut story = both();
    // All is lost from 1000 until 2000. A ping to B is sent again until it gets through.
    for began in [1500, 1600, 1700, 1800, 1900] {
        story.dial_overdue(A, began, false, began + 300);
    }
    story.probe(B, 1850, 2060, Outcome::Alive);
    for began in [1950, 1990] {
        story.dial_overdue(A, began, false, began + 300);
    }
    story.pong(B, 2300);
    assert_eq!(story.state(A), State::Healthy, "these began while all was lost");
    for began in [2060, 2110] {
        story.dial_overdue(A, began, false, began + 300);
    }
    story.pong(B, 2420);
    assert_eq!(story.state(A), State::Suspect, "and these did not");
}

/// Nobody trusts certificates: a wrong clock, or a new CA.
#[test]
fn what_no_handshake_verifies_brings_nobody_out_of_the_path() {
    let mut story = both();
    for ms in (1000..60_000).step_by(500) {
        for last in [A, B] {
            story.probe(last, ms, ms + 1, Outcome::Failed(FailReason::BadCertificate));
            story.pong(last, ms + 100);
        }
        story.pass(ms + 200, ms + 400);
        for last in [A, B] {
            let health = story.health(last, ms + 400);
            assert_eq!((health.state, health.ending, health.withheld), (State::Healthy, false, None));
        }
    }
}

/// All end at 1000. One of them was under suspicion by chance, and too slow for its last probes to get through.
#[test]
fn what_hits_all_at_once_brings_nobody_out_of_the_path() {
    for slow in [0, 10, 25, 50] {
        let mut story = Story::healthy(options(), &[A, B, C]);
        story.detector.cue(backend(A), story.at(900), Cue::Dial);
        for last in [B, C] {
            story.pong(last, 950);
        }
        for began in (1000 - slow..4000).step_by(50) {
            for last in [A, B, C] {
                let began = if last == A { began } else { began + slow };
                story.dial_overdue(last, began, false, began + 300);
                assert_ne!(story.state(last), State::Suspect, "at {began}");
            }
        }
    }
}

/// Whoever asks once is enough: not all others shake hands because one is silent.
#[test]
fn one_witness_shakes_hands_and_the_others_if_it_does_not() {
    let mut chosen = BTreeSet::new();
    for seed in 0..40_u64 {
        let mut story = Story::healthy(options(), &[A, B, C]);
        story.detector = Detector::new(options(), seed << 33);
        story.publish(0, &[A, B, C]);
        for last in [A, B, C] {
            story.shakes(last, 0, false);
        }
        story.overdue(A, 1000, 1300);
        let asked = |story: &Story, ms| -> Vec<u8> {
            [B, C].into_iter().filter(|last| story.directive(*last, ms).afresh).collect()
        };
        let first = asked(&story, 1300);
        assert_eq!(first.len(), 1, "seed {seed}");
        assert_eq!(asked(&story, 3000), [B, C], "it took too long");
        story.detector.shook_hands(backend(first[0]), story.at(1310), false);
        assert!(asked(&story, 1310).is_empty(), "that is enough");
        let dial = story.directive(A, 1310);
        assert_eq!((dial.afresh, dial.not_before), (true, Some(story.at(1310))), "and now the silent one");
        chosen.extend(first);
    }
    assert_eq!(chosen.len(), 2, "nodes choose differently");
}
