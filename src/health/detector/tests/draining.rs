//! Backends that live and are not to be used: unready ones and withdrawn ones.

use super::*;

const LIMIT: u64 = 30_000;

/// Both are healthy, and what drains is ended after [`LIMIT`].
fn limited() -> Story {
    let drain_timeout = Some(Duration::from_millis(LIMIT));
    Story::healthy(HealthOptions { drain_timeout, ..options() }, &[A, B])
}

fn unready(story: &mut Story, last: u8, ms: u64) {
    story.probe(last, ms, ms + 1, Outcome::Unready);
    story.probe(last, ms + 10, ms + 11, Outcome::Unready);
}

#[test]
fn one_that_is_unready_drains_for_ever_and_ends_nothing() {
    let mut story = both();
    story.probe(A, 1000, 1001, Outcome::Unready);
    assert_eq!((story.state(A), story.pace(A, 1001)), (State::Healthy, Pace::Burst), "once may be chance");
    story.probe(A, 1050, 1051, Outcome::Unready);
    assert_eq!(story.state(A), State::Draining);
    for second in 2..1000 {
        story.probe(A, second * 1000, second * 1000 + 1, Outcome::Unready);
    }
    let health = story.health(A, 1_000_000);
    assert_eq!((health.state, health.ending, health.answering), (State::Draining, false, true));
}

#[test]
fn they_are_ended_after_the_timeout_if_it_says_so_still() {
    let mut story = limited();
    unready(&mut story, A, 10);
    assert_eq!((story.state(A), story.detector.next_deadline(story.at(21))), (State::Draining, None));
    story.probe(A, 10_000, 10_001, Outcome::Unready);
    let deadline = story.detector.next_deadline(story.at(10_001)).unwrap();
    assert_eq!(deadline, story.at(21 + LIMIT));
    assert!(!story.health(A, 20 + LIMIT).ending && story.health(A, 21 + LIMIT).ending);
    assert_eq!(story.detector.next_deadline(deadline), None);
    for ms in [31_000, 31_050] {
        story.probe(A, ms, ms + 1, Outcome::Ready);
    }
    assert!(story.state(A) == State::Healthy && !story.health(A, 31_051).ending);
}

#[test]
fn the_first_that_is_ready_again_ends_nothing_of_the_others() {
    let mut story = limited();
    unready(&mut story, A, 10);
    unready(&mut story, B, 10);
    for ms in (1000..100_000).step_by(10_000) {
        story.probe(A, ms, ms + 1, Outcome::Unready);
        story.probe(B, ms, ms + 1, Outcome::Unready);
    }
    assert!(!story.health(A, 100_000).ending, "nobody else is healthy");
    for ms in [100_000, 100_050] {
        story.probe(B, ms, ms + 1, Outcome::Ready);
    }
    assert!(story.state(B) == State::Healthy && !story.health(A, 200_000).ending, "A was not asked since");
    story.probe(A, 101_000, 101_001, Outcome::Unready);
    assert!(!story.health(A, 100_050 + LIMIT).ending && story.health(A, 100_051 + LIMIT).ending);
}

#[test]
fn nothing_is_ended_while_nobody_else_answers() {
    let mut story = limited();
    unready(&mut story, A, 10);
    story.probe(A, 1000, 1001, Outcome::Unready);
    story.refuse(B, 20_000);
    assert!(!story.health(A, LIMIT * 2).ending);
    for ms in [60_000, 60_050] {
        story.probe(B, ms, ms + 1, Outcome::Ready);
    }
    story.probe(A, 60_100, 60_101, Outcome::Unready);
    assert!(!story.health(A, 60_101).ending, "B has only come back");
}

#[test]
fn a_withdrawn_one_drains_is_asked_once_and_is_kept_three_minutes_at_least() {
    let mut story = both();
    let demanded = |story: &Story| story.directive(A, 1000).not_before;
    assert_eq!(demanded(&story), None);
    story.publish(1000, &[B]);
    let health = story.health(A, 1000);
    assert_eq!((health.state, health.published), (State::Draining, false));
    assert_eq!(demanded(&story), Some(story.at(1000)));
    for ms in [1100, 1200] {
        story.probe(A, ms, ms + 1, Outcome::Ready);
    }
    assert_eq!(demanded(&story), None);
    assert_eq!(story.state(A), State::Draining, "ready or not, it was withdrawn");
    let deadline = story.detector.next_deadline(story.at(2000)).unwrap();
    assert_eq!(deadline, story.at(181_000));
    assert_eq!(story.detector.leaving(story.at(180_999)), []);
    assert_eq!(story.detector.leaving(deadline), [backend(A)]);
    story.detector.asked(backend(A), deadline, Asked::NoFlows);
    assert!(story.detector.directive(backend(A), deadline).is_none());
    assert_eq!(story.detector.next_deadline(deadline), None);
}

#[test]
fn a_withdrawn_one_is_kept_until_its_last_flow_is_gone() {
    let mut story = both();
    story.publish(1000, &[B]);
    let mut now = story.at(1000);
    for _ in 0..20 {
        now = story.detector.next_deadline(now).unwrap();
        assert_eq!(story.detector.leaving(now), [backend(A)]);
        assert_eq!(story.detector.leaving(now), [], "it is being asked");
        story.detector.asking(backend(A), now);
        story.detector.asked(backend(A), now, Asked::Sent);
        assert!(story.detector.next_deadline(now) > Some(now), "a pause");
        assert!(story.detector.directive(backend(A), now).is_some());
    }
    let later = story.detector.next_deadline(now).unwrap();
    assert_eq!(story.detector.leaving(later), [backend(A)]);
    story.detector.asked(backend(A), later, Asked::NoFlows);
    assert!(story.detector.directive(backend(A), later).is_none());
}

#[test]
fn a_withdrawn_one_that_stops_is_suspect_and_its_clients_are_asked() {
    let mut story = both();
    story.publish(1000, &[B]);
    story.refuse(A, 71_000);
    story.pass(71_001, 71_001);
    let health = story.health(A, 71_001);
    assert_eq!((health.state, health.ending, health.ask), (State::Suspect, false, Some(story.at(71_001))));
}

#[test]
fn one_that_is_ended_by_the_drain_timeout_is_kept_for_as_long() {
    let drain_timeout = Some(Duration::from_secs(300));
    let mut story = Story::healthy(HealthOptions { drain_timeout, ..options() }, &[A, B]);
    story.publish(1000, &[B]);
    assert_eq!(story.detector.leaving(story.at(301_000)), []);
    assert!(story.health(A, 301_000).ending, "longer than the grace after a removal");
    assert_eq!(story.detector.leaving(story.at(331_000)), [backend(A)]);
}

#[test]
fn an_empty_list_removes_nobody_and_one_that_comes_back_is_used_again() {
    let mut story = both();
    story.publish(1000, &[]);
    assert_eq!((story.state(A), story.detector.next_deadline(story.at(1000))), (State::Healthy, None));
    story.publish(2000, &[B]);
    story.publish(3000, &[A, B]);
    let health = story.health(A, 3000);
    assert_eq!((health.state, health.published), (State::Healthy, true));
}
