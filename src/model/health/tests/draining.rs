//! When the flows of a backend that drains are ended.

use super::*;

const LIMIT: u64 = 30_000;

/// Both are up, and what drains is cut after [`LIMIT`].
fn story() -> Story {
    let limit = Duration::from_millis(LIMIT);
    let mut story = Story::new(HealthOptions { drain_timeout: Some(limit), ..options() }, &[A, B]);
    for last in [A, B] {
        story.probe(last, 0, 1, Outcome::Ready);
    }
    story
}

fn unready(story: &mut Story, last: u8, ms: u64) {
    story.probe(last, ms, ms + 1, Outcome::Unready);
    story.probe(last, ms + 10, ms + 11, Outcome::Unready);
}

#[test]
fn they_are_ended_after_the_timeout_if_it_says_so_still() {
    let mut story = story();
    unready(&mut story, A, 10);
    assert_eq!((story.state(A), story.health.next_deadline(story.at(21))), (State::Draining, None));
    story.probe(A, 10_000, 10_001, Outcome::Unready);
    let deadline = story.health.next_deadline(story.at(10_001)).unwrap();
    assert_eq!(deadline, story.at(21 + LIMIT));
    assert!(!story.health(A, 20 + LIMIT).ending && story.health(A, 21 + LIMIT).ending);
    assert_eq!(story.health.next_deadline(deadline), None);
    story.probe(A, 31_000, 31_001, Outcome::Ready);
    story.probe(A, 31_050, 31_051, Outcome::Ready);
    assert!(story.state(A) == State::Up && !story.health(A, 31_051).ending);
}

#[test]
fn the_first_that_is_ready_again_ends_nothing_of_the_others() {
    let mut story = story();
    unready(&mut story, A, 10);
    unready(&mut story, B, 10);
    for ms in (1000..100_000).step_by(10_000) {
        story.probe(A, ms, ms + 1, Outcome::Unready);
        story.probe(B, ms, ms + 1, Outcome::Unready);
    }
    assert!(!story.health(A, 100_000).ending, "nobody else is up");
    story.probe(B, 100_000, 100_001, Outcome::Ready);
    story.probe(B, 100_050, 100_051, Outcome::Ready);
    assert!(story.state(B) == State::Up && !story.health(A, 200_000).ending, "A was not asked since");
    story.probe(A, 101_000, 101_001, Outcome::Unready);
    assert!(!story.health(A, 100_050 + LIMIT).ending && story.health(A, 100_051 + LIMIT).ending);
}

#[test]
fn nothing_is_ended_while_nobody_else_answers() {
    let mut story = story();
    unready(&mut story, A, 10);
    story.probe(A, 1000, 1001, Outcome::Unready);
    story.fail(B, 20_000);
    assert!(!story.health(A, LIMIT * 2).ending);
    story.probe(B, 60_000, 60_001, Outcome::Ready);
    assert!(story.health(A, LIMIT * 2 + 1).ending);
}

#[test]
fn one_that_was_removed_is_kept_until_its_flows_are_ended() {
    let limit = Duration::from_secs(120);
    let mut story = Story::new(HealthOptions { drain_timeout: Some(limit), ..options() }, &[A, B]);
    for last in [A, B] {
        story.probe(last, 0, 1, Outcome::Ready);
    }
    story.publish(1000, &[B]);
    story.health.expire(story.at(121_000));
    assert!(story.health(A, 121_000).ending, "longer than the grace after a removal");
    story.health.expire(story.at(151_000));
    assert!(!story.health.backends(story.at(151_000)).contains_key(&backend(A)));
}

/// An apiserver that stops withdraws itself, and says so when it is asked.
#[test]
fn one_that_is_withdrawn_is_asked_once() {
    let mut story = both_up();
    let demanded = |story: &Story| story.health.directive(backend(A)).unwrap().not_before;
    assert_eq!(demanded(&story), None);
    let at = story.at(1000);
    story.health.publish(&[backend(B)].into(), at);
    assert_eq!(demanded(&story), Some(at));
    story.probe(A, 1001, 1002, Outcome::Ready);
    assert_eq!(demanded(&story), None);
    assert_eq!(story.state(A), State::Draining);
}
