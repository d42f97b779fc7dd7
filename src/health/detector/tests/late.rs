//! Answers that come late: late is not silent.

use super::*;

/// A question of that time stays open, is overdue, and is answered so much later.
fn answered_after(story: &mut Story, asked: u64, took: u64, outcome: Outcome) {
    story.overdue(A, asked, asked + 300);
    story.pong(B, asked + 310);
    for began in [asked + 320, asked + 370] {
        story.dial_overdue(A, began, true, began + 300);
    }
    let mut ms = asked + 680;
    while ms < asked + took {
        story.pong(B, ms);
        story.pass(ms + 1, (ms + 500).min(asked + took));
        ms += 500;
    }
    story.probe(A, asked, asked + took, outcome);
    story.probe(A, asked + 320, asked + took + 1, outcome);
}

#[test]
fn whoever_answers_late_is_late_as_long_as_it_does() {
    let mut story = both();
    answered_after(&mut story, 1000, 3000, Outcome::Ready);
    assert_eq!((story.state(A), story.pace(A, 4001)), (State::Late, Pace::Watchful));
    for round in 1..20 {
        answered_after(&mut story, 1000 + round * 4000, 3000, Outcome::Ready);
        let health = story.health(A, 5000 + round * 4000);
        assert_eq!((health.state, health.ending, health.withheld), (State::Late, false, None));
    }
    // In time again, and no hold-down for what was one fall.
    for ms in [85_000, 86_000] {
        story.probe(A, ms, ms + 1, Outcome::Ready);
    }
    assert_eq!(story.state(A), State::Healthy);
}

#[test]
fn a_single_late_answer_moves_nobody() {
    let mut story = both();
    story.probe(A, 1000, 1900, Outcome::Ready);
    assert_eq!(story.state(A), State::Healthy);
}

#[test]
fn after_five_seconds_without_an_answer_it_is_silent() {
    let mut story = both();
    answered_after(&mut story, 1000, 3000, Outcome::Ready);
    story.overdue(A, 5000, 5300);
    for ms in (5300..8700).step_by(250) {
        story.pong(B, ms);
        story.pass(ms, ms + 240);
        assert_eq!(story.state(A), State::Late, "at {ms}");
    }
    story.pong(B, 9000);
    story.pass(9002, 9300);
    assert_eq!((story.state(A), story.health(A, 9300).ending), (State::Suspect, false));
}

#[test]
fn late_and_unready_drains() {
    let mut story = both();
    answered_after(&mut story, 1000, 3000, Outcome::Unready);
    assert_eq!(story.state(A), State::Draining);
}

#[test]
fn late_and_withdrawn_drains() {
    let mut story = both();
    answered_after(&mut story, 1000, 3000, Outcome::Ready);
    story.publish(5000, &[B]);
    assert_eq!(story.state(A), State::Draining);
}
