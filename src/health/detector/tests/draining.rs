//! Backends that live and are not to be used: unready ones and withdrawn ones.

use super::*;

const LIMIT: u64 = 30_000;

/// Both are healthy, and what drains is ended after [`LIMIT`].
fn limited() -> Story {
    let drain_timeout = Some(Duration::from_millis(LIMIT));
    Story::healthy(HealthOptions { drain_timeout, ..options() }, &[A, B])
}

fn unready(story: &mut Story, last: u8, ms: u64) {
    story.probe(last, ms, ms + 1, ProbeOutcome::Unready);
    story.probe(last, ms + 10, ms + 11, ProbeOutcome::Unready);
}

#[test]
fn one_that_is_unready_drains_for_ever_and_ends_nothing() {
    let mut story = both();
    story.probe(A, 1000, 1001, ProbeOutcome::Unready);
    assert_eq!(
        (story.state(A), story.pace(A, 1001)),
        (HealthState::Healthy, Pace::Burst),
        "once may be chance"
    );
    story.probe(A, 1050, 1051, ProbeOutcome::Unready);
    assert_eq!(story.state(A), HealthState::Draining);
    for second in 2..1000 {
        story.probe(A, second * 1000, second * 1000 + 1, ProbeOutcome::Unready);
    }
    let health = story.health(A, 1_000_000);
    assert_eq!((health.state, health.end_flows, health.answering), (HealthState::Draining, false, true));
}

#[test]
fn flows_end_after_the_drain_timeout_if_still_unready() {
    let mut story = limited();
    unready(&mut story, A, 10);
    assert_eq!((story.state(A), story.detector.next_deadline(story.at(21))), (HealthState::Draining, None));
    story.probe(A, 10_000, 10_001, ProbeOutcome::Unready);
    let deadline = story.detector.next_deadline(story.at(10_001)).unwrap();
    assert_eq!(deadline, story.at(21 + LIMIT));
    assert!(!story.health(A, 20 + LIMIT).end_flows && story.health(A, 21 + LIMIT).end_flows);
    assert_eq!(story.detector.next_deadline(deadline), None);
    for ms in [31_000, 31_050] {
        story.probe(A, ms, ms + 1, ProbeOutcome::Ready);
    }
    assert!(story.state(A) == HealthState::Healthy && !story.health(A, 31_051).end_flows);
}

#[test]
fn the_first_that_is_ready_again_ends_nothing_of_the_others() {
    let mut story = limited();
    unready(&mut story, A, 10);
    unready(&mut story, B, 10);
    for ms in (1000..100_000).step_by(10_000) {
        story.probe(A, ms, ms + 1, ProbeOutcome::Unready);
        story.probe(B, ms, ms + 1, ProbeOutcome::Unready);
    }
    assert!(!story.health(A, 100_000).end_flows, "nobody else is healthy");
    for ms in [100_000, 100_050] {
        story.probe(B, ms, ms + 1, ProbeOutcome::Ready);
    }
    assert!(
        story.state(B) == HealthState::Healthy && !story.health(A, 200_000).end_flows,
        "A was not asked since"
    );
    story.probe(A, 101_000, 101_001, ProbeOutcome::Unready);
    assert!(!story.health(A, 100_050 + LIMIT).end_flows && story.health(A, 100_051 + LIMIT).end_flows);
}

#[test]
fn no_flow_ends_while_no_other_backend_answers() {
    let mut story = limited();
    unready(&mut story, A, 10);
    story.probe(A, 1000, 1001, ProbeOutcome::Unready);
    story.refuse(B, 20_000);
    assert!(!story.health(A, LIMIT * 2).end_flows);
    for ms in [60_000, 60_050] {
        story.probe(B, ms, ms + 1, ProbeOutcome::Ready);
    }
    story.probe(A, 60_100, 60_101, ProbeOutcome::Unready);
    assert!(!story.health(A, 60_101).end_flows, "B has only come back");
}

#[test]
fn removed_backend_drains_is_probed_once_and_is_kept_for_the_grace_period() {
    let mut story = both();
    let demanded = |story: &Story| story.directive(A, 1000).not_before;
    assert_eq!(demanded(&story), None);
    story.publish(1000, &[B]);
    let health = story.health(A, 1000);
    assert_eq!((health.state, health.published), (HealthState::Draining, false));
    assert_eq!(demanded(&story), Some(story.at(1000)));
    for ms in [1100, 1200] {
        story.probe(A, ms, ms + 1, ProbeOutcome::Ready);
    }
    assert_eq!(demanded(&story), None);
    assert_eq!(story.state(A), HealthState::Draining, "ready or not, it was withdrawn");
    let deadline = story.detector.next_deadline(story.at(2000)).unwrap();
    assert_eq!(deadline, story.at(181_000));
    assert_eq!(story.detector.removals_due(story.at(180_999)), []);
    assert_eq!(story.detector.removals_due(deadline), [backend(A)]);
    story.detector.challenge_finished(backend(A), deadline, ChallengeOutcome::NoFlows);
    assert!(story.detector.directive(backend(A), deadline).is_none());
    assert_eq!(story.detector.next_deadline(deadline), None);
}

#[test]
fn removed_backend_is_kept_until_its_last_flow_is_gone() {
    let mut story = both();
    story.publish(1000, &[B]);
    let mut now = story.at(1000);
    for _ in 0..20 {
        now = story.detector.next_deadline(now).unwrap();
        assert_eq!(story.detector.removals_due(now), [backend(A)]);
        assert_eq!(story.detector.removals_due(now), [], "it is being asked");
        story.detector.challenge_started(backend(A), now);
        story.detector.challenge_finished(backend(A), now, ChallengeOutcome::Sent);
        assert!(story.detector.next_deadline(now) > Some(now), "a pause");
        assert!(story.detector.directive(backend(A), now).is_some());
    }
    let later = story.detector.next_deadline(now).unwrap();
    assert_eq!(story.detector.removals_due(later), [backend(A)]);
    story.detector.challenge_finished(backend(A), later, ChallengeOutcome::NoFlows);
    assert!(story.detector.directive(backend(A), later).is_none());
}

#[test]
fn removed_backend_that_stops_is_suspect_and_its_clients_are_challenged() {
    let mut story = both();
    story.publish(1000, &[B]);
    story.refuse(A, 71_000);
    story.pass(71_001, 71_001);
    let health = story.health(A, 71_001);
    assert_eq!(
        (health.state, health.end_flows, health.challenge_at),
        (HealthState::Suspect, false, Some(story.at(71_001)))
    );
}

#[test]
fn one_that_is_ended_by_the_drain_timeout_is_kept_for_as_long() {
    let drain_timeout = Some(Duration::from_secs(300));
    let mut story = Story::healthy(HealthOptions { drain_timeout, ..options() }, &[A, B]);
    story.publish(1000, &[B]);
    assert_eq!(story.detector.removals_due(story.at(301_000)), []);
    assert!(story.health(A, 301_000).end_flows, "longer than the grace after a removal");
    assert_eq!(story.detector.removals_due(story.at(331_000)), [backend(A)]);
}

#[test]
fn empty_list_removes_no_backend_and_a_readded_one_is_used_again() {
    let mut story = both();
    story.publish(1000, &[]);
    assert_eq!((story.state(A), story.detector.next_deadline(story.at(1000))), (HealthState::Healthy, None));
    story.publish(2000, &[B]);
    story.publish(3000, &[A, B]);
    let health = story.health(A, 3000);
    assert_eq!((health.state, health.published), (HealthState::Healthy, true));
}
