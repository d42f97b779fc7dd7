//! What takes a backend out of the path, how soon, and how it comes back.

use super::*;

#[test]
fn a_refused_dial_is_enough_at_once_and_ends_nothing() {
    let mut story = both();
    story.detector.cue(backend(A), story.at(1000), Cue::Ended);
    assert_eq!((story.state(A), story.pace(A, 1000)), (State::Healthy, Pace::Burst), "a sign is no proof");
    story.refuse(A, 1001);
    let health = story.health(A, 1002);
    assert_eq!((health.state, health.ending, health.cue), (State::Suspect, false, Cue::Ended));
    assert_eq!((health.noticed, health.since), (story.at(1000), story.at(1002)));
    assert_eq!((health.failing, health.answering), (Some(FailReason::Refused), false));
    assert_eq!(story.pace(A, 1002), Pace::Watchful);
    for second in 2..600 {
        story.refuse(A, second * 1000);
        story.pong(B, second * 1000 + 10);
        story.pass(second * 1000 + 20, second * 1000 + 990);
        let health = story.health(A, second * 1000 + 990);
        assert_eq!((health.state, health.ending), (State::Suspect, false), "refused is not dead");
    }
}

#[test]
fn a_refused_dial_changes_nothing_while_no_other_is_believed_to_answer() {
    let mut story = Story::healthy(options(), &[A]);
    story.refuse(A, 1000);
    assert_eq!(story.state(A), State::Healthy, "it is the only one");
    let mut story = both();
    story.detector.cue(backend(B), story.at(990), Cue::Ended);
    story.refuse(A, 1000);
    assert_eq!((story.state(A), story.pace(A, 1001)), (State::Healthy, Pace::Rush), "B may be gone, too");
    assert_eq!(story.directive(B, 1001).not_before, Some(story.at(1001)), "it is asked");
    story.probe(B, 1001, 1002, Outcome::Ready);
    assert_eq!(story.state(A), State::Suspect);
}

/// A cable is cut at 1000: pings and dials stay unanswered.
fn cut(story: &mut Story, last: u8) {
    story.overdue(last, 1000, 1300);
    for (began, now) in [(1300, 1600), (1350, 1650)] {
        story.dial_overdue(last, began, false, now);
    }
}

#[test]
fn silence_is_enough_after_about_a_second_beside_a_witness() {
    let mut story = both();
    cut(&mut story, A);
    story.pass(1650, 1660);
    assert_eq!(story.state(A), State::Healthy, "nobody answered since");
    story.pong(B, 1301);
    for began in [1400, 1450] {
        story.dial_overdue(A, began, false, began + 300);
    }
    assert_eq!(story.state(A), State::Healthy, "the witness may have died of the same");
    assert!(story.directive(B, 1750).not_before >= Some(story.at(1400)), "it is asked again");
    story.pong(B, 1760);
    let health = story.health(A, 1761);
    assert_eq!((health.state, health.ending), (State::Suspect, false));
    assert_eq!((health.silent_since, health.noticed), (Some(story.at(1000)), story.at(1300)));
}

#[test]
fn silence_that_is_shorter_than_about_a_second_changes_nothing() {
    let mut story = both();
    story.overdue(A, 1000, 1300);
    story.pong(B, 1301);
    for began in [1310, 1320] {
        story.dial_overdue(A, began, false, 1500);
    }
    story.pong(B, 1510);
    story.pass(1511, 1590);
    assert_eq!(story.state(A), State::Healthy, "0.6 s have not passed");
    story.probe(A, 1310, 1595, Outcome::Ready);
    story.pass(1595, 10_000);
    assert_eq!(story.state(A), State::Healthy);
    assert_eq!(story.health(A, 10_000).silent_since, None);
}

#[test]
fn without_a_witness_nobody_leaves_the_path() {
    let mut story = both();
    for last in [A, B] {
        cut(&mut story, last);
        for began in (1400..20_000).step_by(1000) {
            story.dial_overdue(last, began, false, began + 300);
        }
    }
    story.pass(20_000, 30_000);
    for last in [A, B] {
        let health = story.health(last, 30_000);
        assert_eq!((health.state, health.ending), (State::Healthy, false));
    }
}

#[test]
fn stale_results_change_nothing() {
    let mut story = both();
    story.pong(B, 1100);
    story.probe(A, 1200, 1201, Outcome::Ready);
    for reason in FailReason::ALL {
        for started in [1000, 1050, 1150, 1200] {
            story.probe(A, started, 1300, Outcome::Failed(reason));
        }
    }
    story.probe(A, 1190, 1310, Outcome::Unready);
    for began in [1000, 1050, 1150] {
        story.dial_overdue(A, began, false, 1320);
    }
    story.pong(B, 1321);
    story.pass(1322, 1900);
    let health = story.health(A, 1900);
    assert!(health.state == State::Healthy && health.failing.is_none() && health.answering);
}

#[test]
fn the_limit_follows_the_handshake_and_not_the_answer() {
    let mut story = both();
    let answered = |story: &Story, handshake: Option<u64>| Probe {
        handshake: handshake.map(Duration::from_millis),
        ..bare(story.at(1000), story.at(1500), Outcome::Ready)
    };
    for handshake in [Some(10), None] {
        let probe = answered(&story, handshake);
        story.detector.observe(backend(A), probe);
        assert_eq!(story.directive(A, 1500).limit, TIMEOUT_MIN, "slow to answer, and not to shake hands");
    }
    for _ in 0..40 {
        let probe = answered(&story, Some(200));
        story.detector.observe(backend(A), probe);
    }
    let slow = story.directive(A, 1500).limit;
    assert!((790..=800).contains(&slow.as_millis()), "four times the usual: {slow:?}");
    let sent_again = Probe { round_trip: Some(Duration::from_secs(1)), ..answered(&story, Some(1010)) };
    story.detector.observe(backend(A), sent_again);
    assert_eq!(story.directive(A, 1500).limit, slow, "that was a lost packet");
    for _ in 0..3 {
        let probe = answered(&story, Some(10));
        story.detector.observe(backend(A), probe);
    }
    assert_eq!(story.directive(A, 1500).limit, TIMEOUT_MIN, "quicker again");
}

#[test]
fn one_that_flaps_waits_longer_each_time_and_never_longer_than_a_minute() {
    let mut story = both();
    let (mut now, mut waits) = (1000, Vec::new());
    for _ in 0..9 {
        story.pong(B, now);
        story.refuse(A, now + 10);
        assert_eq!(story.state(A), State::Suspect);
        let first = now + 100;
        now = first;
        while story.state(A) == State::Suspect {
            story.probe(A, now, now + 1, Outcome::Ready);
            story.pong(B, now + 2);
            assert!(now - first < 70_000, "it is let in at last");
            now += 500;
        }
        assert_eq!(story.state(A), State::Healthy);
        waits.push((now - first) / 1000);
    }
    assert!(waits.is_sorted() && waits[0] <= 1 && *waits.last().unwrap() >= 59, "{waits:?}");
}

#[test]
fn time_alone_makes_no_hold_down_longer() {
    let mut story = both();
    story.refuse(A, 1000);
    for second in 2..100 {
        story.refuse(A, second * 1000);
        story.pong(B, second * 1000 + 10);
        story.pass(second * 1000 + 20, second * 1000 + 900);
    }
    for ms in [100_000, 100_050] {
        story.probe(A, ms, ms + 1, Outcome::Ready);
    }
    assert_eq!(story.state(A), State::Healthy, "the first fall costs nothing");
}

#[test]
fn a_fall_that_is_long_ago_is_forgotten() {
    let mut story = both();
    let mut now = 1000;
    for _ in 0..5 {
        story.pong(B, now);
        story.refuse(A, now + 10);
        assert_eq!(story.state(A), State::Suspect);
        for ms in [now + 50, now + 100] {
            story.probe(A, ms, ms + 1, Outcome::Ready);
        }
        assert_eq!(story.state(A), State::Healthy, "at {now}");
        now += 121_000;
    }
}

#[test]
fn one_that_is_ready_again_is_watched_until_its_hold_down_ends() {
    let mut story = both();
    for round in 0..2 {
        let now = 1000 + round * 100;
        for (after, found) in [(0, Outcome::Unready), (10, Outcome::Unready), (20, Outcome::Ready)] {
            story.probe(A, now + after, now + after + 1, found);
        }
        assert_eq!((story.state(A), story.pace(A, now + 30)), (State::Draining, Pace::Burst));
        story.probe(A, now + 30, now + 31, Outcome::Ready);
    }
    assert_eq!((story.state(A), story.pace(A, 1131)), (State::Draining, Pace::Watchful));
    assert_eq!(story.health(A, 1131).held_until, Some(story.at(2121)));
    story.probe(A, 2121, 2122, Outcome::Ready);
    assert_eq!((story.state(A), story.pace(A, 2122)), (State::Healthy, Pace::Steady));
}
