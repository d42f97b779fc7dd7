//! Signs of life, and silences that are this node's own.

use super::*;

/// A is Failed at 6400: its cable was cut at 1000 and B answered all the time.
fn failed() -> Story {
    let mut story = both();
    story.overdue(A, 1000, 1300);
    story.detector.watched(backend(A), Some(story.at(1300)));
    story.shakes(B, 1310, false);
    for ms in (1400..6400).step_by(250) {
        story.pong(B, ms);
        if ms % 500 == 400 {
            story.dial_overdue(A, ms, false, ms + 200);
        }
        let now = story.at(ms + 200);
        if story.detector.to_ask(now).contains(&backend(A)) {
            story.detector.asking(backend(A), now);
            story.detector.asked(backend(A), now, Asked::Sent);
        }
        story.detector.look(now);
    }
    let health = story.health(A, 6400);
    assert_eq!((health.state, health.ending), (State::Failed, true));
    story
}

#[test]
fn a_sign_of_life_at_any_moment_stops_the_ending() {
    type Sign = fn(&mut Story, u64);
    let signs: [(&str, Sign); 9] = [
        ("a PONG", |story, ms| story.probe(A, ms - 1, ms, Outcome::Alive)),
        ("ready", |story, ms| story.probe(A, ms - 1, ms, Outcome::Ready)),
        ("unready", |story, ms| story.probe(A, ms - 1, ms, Outcome::Unready)),
        ("an answer to the oldest question", |story, ms| story.probe(A, 1400, ms, Outcome::Ready)),
        ("refused", |story, ms| story.probe(A, ms - 1, ms, Outcome::Failed(FailReason::Refused))),
        ("reset", |story, ms| story.probe(A, ms - 1, ms, Outcome::Failed(FailReason::Reset))),
        ("a certificate", |story, ms| {
            story.probe(A, ms - 1, ms, Outcome::Failed(FailReason::BadCertificate));
        }),
        ("hands", |story, ms| story.detector.shook_hands(backend(A), story.at(ms), false)),
        ("a keepalive", |story, ms| story.detector.host_heard(backend(A), story.at(ms))),
    ];
    for (what, sign) in signs {
        let mut story = failed();
        sign(&mut story, 6500);
        let health = story.health(A, 6500);
        assert_ne!(health.state, State::Failed, "{what}");
        assert_eq!((health.ending, health.silent_since), (false, None), "{what}");
        story.pass(6500, 6500);
        assert_eq!(story.health(A, 6500).ask, Some(story.at(6500)), "{what}: its clients are asked");
    }
    for data in [false, true] {
        let mut story = failed();
        story.detector.arrived(backend(A), story.at(6500), data);
        let health = story.health(A, 6500);
        assert_eq!((health.state, health.ending), (State::Suspect, false), "a segment");
        for ms in (6600..11_400).step_by(200) {
            story.pong(B, ms);
            story.pass(ms, ms + 190);
            assert_eq!(story.state(A), State::Suspect, "at {ms}");
        }
    }
}

#[test]
fn unreachable_is_silence() {
    let mut story = failed();
    story.probe(A, 6410, 6420, Outcome::Failed(FailReason::Unreachable));
    assert_eq!(story.state(A), State::Failed);
    story.probe(A, 6420, 6430, Outcome::Failed(FailReason::Timeout));
    assert_eq!(story.state(A), State::Failed);
}

#[test]
fn one_that_is_back_is_healthy_after_two_answers() {
    let mut story = failed();
    story.probe(A, 6500, 6501, Outcome::Ready);
    assert_eq!((story.state(A), story.pace(A, 6501)), (State::Suspect, Pace::Burst));
    story.probe(A, 6550, 6551, Outcome::Ready);
    assert_eq!((story.state(A), story.health(A, 6551).ending), (State::Healthy, false));
}

/// The node's own link is out for eight seconds. Then neighbours are found one by one, the last one 3 s after the first.
#[test]
fn an_outage_of_this_nodes_link_ends_nothing_and_moves_nobody_for_long() {
    for outage in [1500, 3000, 8000, 20_000_u64] {
        for late in [0, 500, 1000, 2000, 3000_u64] {
            let mut story = Story::healthy(options(), &[A, B, C]);
            let back = |last: u8| 1000 + outage + u64::from(last - A) * late / 2;
            for last in [A, B, C] {
                story.overdue(last, 1000 + u64::from(last) * 20, 1300 + u64::from(last) * 20);
                story.detector.watched(backend(last), Some(story.at(1300 + u64::from(last) * 20)));
            }
            for ms in (1600..1000 + outage + 8000).step_by(50) {
                for last in [A, B, C] {
                    let now = story.at(ms);
                    if ms >= back(last) && ms % 250 == 0 {
                        story.shakes(last, ms, false);
                    } else if ms < back(last) && ms % 500 == 0 {
                        story.dial_overdue(last, ms - 300, false, ms);
                    }
                    if story.detector.to_ask(now).contains(&backend(last)) {
                        story.detector.asking(backend(last), now);
                        story.detector.asked(backend(last), now, Asked::Sent);
                    }
                    story.detector.look(now);
                    let health = story.health(last, ms);
                    assert!(
                        health.state != State::Failed && !health.ending,
                        "{last} at {ms}: {outage}, {late}"
                    );
                }
            }
            for last in [A, B, C] {
                assert_eq!(story.state(last), State::Healthy, "{last} after {outage}, {late}");
            }
        }
    }
}

/// A restart in the middle of a fault knows nothing of what was before.
#[test]
fn a_new_daemon_starts_the_silence_anew() {
    let mut story = failed();
    story.detector = Detector::new(options(), 2);
    story.publish(6400, &[A, B]);
    story.shakes(B, 6410, false);
    story.dial_overdue(A, 6400, false, 6700);
    story.detector.watched(backend(A), Some(story.at(6700)));
    story.shakes(B, 6710, false);
    for ms in (6800..11_450).step_by(250) {
        story.pong(B, ms);
        story.dial_overdue(A, ms, false, ms + 200);
        let now = story.at(ms + 210);
        if story.detector.to_ask(now).contains(&backend(A)) {
            story.detector.asking(backend(A), now);
            story.detector.asked(backend(A), now, Asked::Sent);
        }
        assert_ne!(story.state(A), State::Failed, "at {ms}");
    }
    story.pong(B, 11_800);
    story.pass(11_801, 12_000);
    assert_eq!(story.state(A), State::Failed);
}
