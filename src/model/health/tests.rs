//! The state machine on a synthetic clock: single stories here, randomised ones in `histories`.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::machine::{Health, HealthOptions, Pace};
use super::*;

mod draining;
mod histories;
mod witnesses;

const A: u8 = 11;
const B: u8 = 12;
const C: u8 = 13;

fn backend(last: u8) -> Backend {
    Backend::from(([192, 0, 2, last], 6443))
}

fn options() -> HealthOptions {
    HealthOptions { fall: 2, rise: 2, removal_grace: Duration::from_secs(60), drain_timeout: None }
}

/// The health of a backend in this state, as tests of what follows from it need it.
pub(crate) fn health(state: State) -> BackendHealth {
    let now = Instant::now();
    BackendHealth {
        state,
        since: now,
        noticed: now,
        cue: Cue::Probe,
        published: true,
        answering: state != State::Down,
        ending: state == State::Down,
        failing: (state == State::Down).then_some(FailReason::Timeout),
        round_trip: Some(Duration::from_millis(1)),
        held_until: None,
        answered: None,
    }
}

/// A state machine and its clock.
struct Story {
    health: Health,
    begin: Instant,
}

impl Story {
    fn new(options: HealthOptions, backends: &[u8]) -> Self {
        let mut story = Self { health: Health::new(options), begin: Instant::now() };
        story.publish(0, backends);
        story
    }

    fn at(&self, ms: u64) -> Instant {
        self.begin + Duration::from_millis(ms)
    }

    fn publish(&mut self, ms: u64, backends: &[u8]) {
        let published: BTreeSet<Backend> = backends.iter().map(|last| backend(*last)).collect();
        self.health.publish(&published, self.at(ms));
    }

    fn probe(&mut self, last: u8, started: u64, finished: u64, outcome: Outcome) {
        let (started, finished) = (self.at(started), self.at(finished));
        self.observe(
            last,
            Probe {
                started,
                finished,
                outcome,
                round_trip: None,
                handshake: None,
                local: None,
                answered: None,
            },
        );
    }

    fn observe(&mut self, last: u8, probe: Probe) {
        self.health.observe(backend(last), probe);
    }

    fn fail(&mut self, last: u8, started: u64) {
        self.probe(last, started, started + 1, Outcome::Failed(FailReason::Refused));
    }

    fn health(&self, last: u8, ms: u64) -> BackendHealth {
        self.health.backends(self.at(ms))[&backend(last)]
    }

    fn state(&self, last: u8) -> State {
        self.health(last, 0).state
    }

    fn pace(&self, last: u8) -> Pace {
        self.health.directive(backend(last)).unwrap().pace
    }
}

fn both_up() -> Story {
    let mut story = Story::new(options(), &[A, B]);
    for last in [A, B] {
        assert_eq!((story.state(last), story.pace(last)), (State::Unknown, Pace::Burst));
        story.probe(last, 0, 1, Outcome::Ready);
        assert_eq!((story.state(last), story.pace(last)), (State::Up, Pace::Steady));
    }
    story
}

#[test]
fn a_killed_process_is_down_after_two_failures_that_a_witness_saw_begin() {
    let mut story = both_up();
    story.health.cue(backend(A), story.at(1000), Cue::Ended);
    assert_eq!(story.pace(A), Pace::Burst);
    let demand = story.health.directive(backend(B)).unwrap();
    assert_eq!(demand.not_before, Some(story.at(1000)), "the witness is asked");
    story.fail(A, 1000);
    assert_eq!(story.pace(A), Pace::Rush, "to be refused costs nobody anything");
    story.fail(A, 1050);
    assert_eq!(story.state(A), State::Up, "nobody bears witness");
    story.probe(B, 990, 1060, Outcome::Ready);
    assert_eq!(story.state(A), State::Up, "that was asked before the failure");
    story.probe(B, 1030, 1070, Outcome::Ready);
    assert_eq!(story.state(A), State::Up, "one failure began after the witness");
    story.fail(A, 1100);
    assert_eq!(story.state(A), State::Up, "the witness may have died of the same");
    let demand = story.health.directive(backend(B)).unwrap();
    assert_eq!(demand.not_before, Some(story.at(1100)), "it is asked again");
    story.probe(B, 1101, 1102, Outcome::Ready);
    let health = story.health(A, 1102);
    assert_eq!((health.state, health.ending), (State::Down, true));
    assert_eq!((health.noticed, health.since), (story.at(1000), story.at(1102)));
    assert_eq!(health.cue, Cue::Ended);
    assert_eq!(story.pace(A), Pace::Watchful);
    assert_eq!(story.health.directive(backend(B)).unwrap().not_before, None);
}

#[test]
fn an_old_probe_that_ends_late_changes_nothing() {
    let mut story = both_up();
    story.probe(B, 1100, 1101, Outcome::Alive);
    story.probe(A, 1200, 1201, Outcome::Ready);
    for started in [1000, 1050, 1150, 1200] {
        story.probe(A, started, 1300, Outcome::Failed(FailReason::Timeout));
    }
    story.probe(A, 1190, 1310, Outcome::Unready);
    story.probe(B, 1301, 1302, Outcome::Alive);
    let health = story.health(A, 1400);
    assert!(health.state == State::Up && health.failing.is_none() && health.answering);
}

#[test]
fn a_removed_one_drains_and_is_forgotten_after_its_grace() {
    let mut story = both_up();
    story.publish(1000, &[B]);
    let health = story.health(A, 1000);
    assert_eq!((health.state, health.published), (State::Draining, false));
    story.probe(A, 1100, 1101, Outcome::Ready);
    story.probe(A, 1200, 1201, Outcome::Ready);
    assert_eq!(story.state(A), State::Draining, "ready or not, it was removed");
    let deadline = story.health.next_deadline(story.at(2000)).unwrap();
    assert_eq!(deadline, story.at(61_000));
    story.health.expire(story.at(60_999));
    assert!(story.health.directive(backend(A)).is_some());
    story.health.expire(deadline);
    assert!(story.health.directive(backend(A)).is_none());
    assert_eq!(story.health.next_deadline(deadline), None);
}

#[test]
fn an_empty_list_removes_nobody_and_one_that_comes_back_is_used_again() {
    let mut story = both_up();
    story.publish(1000, &[]);
    assert_eq!((story.state(A), story.health.next_deadline(story.at(1000))), (State::Up, None));
    story.publish(2000, &[B]);
    story.publish(3000, &[A, B]);
    let health = story.health(A, 3000);
    assert_eq!((health.state, health.published), (State::Up, true));
}

#[test]
fn the_limit_follows_the_handshake_and_not_the_answer() {
    let mut story = both_up();
    let limit = |story: &Story| story.health.directive(backend(A)).unwrap().timeout;
    let late = |story: &Story, handshake: Option<u64>| Probe {
        started: story.at(1000),
        finished: story.at(4000),
        outcome: Outcome::Ready,
        round_trip: None,
        handshake: handshake.map(Duration::from_millis),
        local: None,
        answered: None,
    };
    for handshake in [Some(10), None] {
        let probe = late(&story, handshake);
        story.observe(A, probe);
        assert_eq!(limit(&story), super::machine::TIMEOUT_MIN, "slow to answer, and not to shake hands");
    }
    for _ in 0..40 {
        let probe = late(&story, Some(200));
        story.observe(A, probe);
    }
    let slow = limit(&story).as_millis();
    assert!((790..=800).contains(&slow), "four times the usual: {slow}");
    let sent_again = Probe { round_trip: Some(Duration::from_secs(1)), ..late(&story, Some(1010)) };
    story.observe(A, sent_again);
    assert_eq!(limit(&story).as_millis(), slow, "that was a lost packet");
    for _ in 0..2 {
        let probe = late(&story, Some(10));
        story.observe(A, probe);
    }
    assert_eq!(limit(&story), super::machine::TIMEOUT_MIN, "quicker again");
}

#[test]
fn one_that_flaps_waits_longer_each_time() {
    let mut story = both_up();
    let mut now = 1000;
    let mut waits = Vec::new();
    for _ in 0..9 {
        story.probe(B, now + 1, now + 2, Outcome::Alive);
        story.health.cue(backend(A), story.at(now), Cue::Ended);
        story.probe(B, now + 1, now + 2, Outcome::Alive);
        story.fail(A, now + 10);
        story.fail(A, now + 60);
        story.probe(B, now + 61, now + 62, Outcome::Alive);
        assert_eq!(story.state(A), State::Down);
        let first = now + 100;
        now = first;
        while story.state(A) == State::Down {
            story.probe(A, now, now + 1, Outcome::Ready);
            assert!(now - first < 70_000, "it is let in at last");
            now += 500;
        }
        assert_eq!(story.state(A), State::Up);
        waits.push((now - first) / 1000);
    }
    assert!(waits.is_sorted() && waits[0] <= 1 && *waits.last().unwrap() >= 59, "{waits:?}");
}

#[test]
fn one_that_is_ready_again_is_watched_until_its_hold_down_ends() {
    let mut story = both_up();
    for round in 0..2 {
        let now = 1000 + round * 100;
        for (after, found) in [(0, Outcome::Unready), (10, Outcome::Unready), (20, Outcome::Ready)] {
            story.probe(A, now + after, now + after + 1, found);
        }
        assert_eq!((story.state(A), story.pace(A)), (State::Draining, Pace::Burst));
        story.probe(A, now + 30, now + 31, Outcome::Ready);
    }
    assert_eq!((story.state(A), story.pace(A)), (State::Draining, Pace::Watchful));
    assert_eq!(story.health(A, 1131).held_until, Some(story.at(2121)));
    story.probe(A, 2121, 2122, Outcome::Ready);
    assert_eq!((story.state(A), story.pace(A)), (State::Up, Pace::Steady));
}
