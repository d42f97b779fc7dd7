//! What takes a backend out of the rotation, how soon, and how it comes back; answers that come late: late is not silent.

use super::*;

#[test]
fn refused_connection_makes_suspect_at_once_and_ends_no_flows() {
    let mut story = both();
    story.detector.suspect(backend(A), story.at(1000), Trigger::ConnectionClosed);
    assert_eq!(
        (story.state(A), story.pace(A, 1000)),
        (HealthState::Healthy, Pace::Burst),
        "a sign is no proof"
    );
    story.refuse(A, 1001);
    let health = story.health(A, 1002);
    assert_eq!(
        (health.state, health.end_flows, health.trigger),
        (HealthState::Suspect, false, Trigger::ConnectionClosed)
    );
    assert_eq!((health.noticed, health.since), (story.at(1000), story.at(1002)));
    assert_eq!((health.failure, health.answering), (Some(FailReason::Refused), false));
    assert_eq!(story.pace(A, 1002), Pace::Watchful);
    for second in 2..600 {
        story.refuse(A, second * 1000);
        story.pong(B, second * 1000 + 10);
        story.pass(second * 1000 + 20, second * 1000 + 990);
        let health = story.health(A, second * 1000 + 990);
        assert_eq!((health.state, health.end_flows), (HealthState::Suspect, false), "refused is not dead");
    }
}

#[test]
fn refused_connection_changes_nothing_while_no_other_backend_is_presumed_alive() {
    let mut story = Story::healthy(options(), &[A]);
    story.refuse(A, 1000);
    assert_eq!(story.state(A), HealthState::Healthy, "it is the only one");
    let mut story = both();
    story.detector.suspect(backend(B), story.at(990), Trigger::ConnectionClosed);
    story.refuse(A, 1000);
    assert_eq!(
        (story.state(A), story.pace(A, 1001)),
        (HealthState::Healthy, Pace::Rush),
        "B may be gone, too"
    );
    assert_eq!(story.directive(B, 1001).not_before, Some(story.at(1001)), "it is asked");
    story.probe(B, 1001, 1002, ProbeOutcome::Ready);
    assert_eq!(story.state(A), HealthState::Suspect);
}

/// A cable is cut at 1000: pings and dials stay unanswered.
fn cut(story: &mut Story, last: u8) {
    story.overdue(last, 1000, 1300);
    for (began, now) in [(1300, 1600), (1350, 1650)] {
        story.connect_overdue(last, began, false, now);
    }
}

#[test]
fn silence_of_about_a_second_beside_a_witness_makes_suspect() {
    let mut story = both();
    cut(&mut story, A);
    story.pass(1650, 1660);
    assert_eq!(story.state(A), HealthState::Healthy, "nobody answered since");
    story.pong(B, 1301);
    for began in [1400, 1450] {
        story.connect_overdue(A, began, false, began + 300);
    }
    assert_eq!(story.state(A), HealthState::Healthy, "the witness may have died of the same");
    assert!(story.directive(B, 1750).not_before >= Some(story.at(1400)), "it is asked again");
    story.pong(B, 1760);
    let health = story.health(A, 1761);
    assert_eq!((health.state, health.end_flows), (HealthState::Suspect, false));
    assert_eq!((health.silent_since, health.noticed), (Some(story.at(1000)), story.at(1300)));
}

#[test]
fn silence_that_is_shorter_than_about_a_second_changes_nothing() {
    let mut story = both();
    story.overdue(A, 1000, 1300);
    story.pong(B, 1301);
    for began in [1310, 1320] {
        story.connect_overdue(A, began, false, 1500);
    }
    story.pong(B, 1510);
    story.pass(1511, 1590);
    assert_eq!(story.state(A), HealthState::Healthy, "0.6 s have not passed");
    story.probe(A, 1310, 1595, ProbeOutcome::Ready);
    story.pass(1595, 10_000);
    assert_eq!(story.state(A), HealthState::Healthy);
    assert_eq!(story.health(A, 10_000).silent_since, None);
}

#[test]
fn without_a_witness_all_stay_in_rotation() {
    let mut story = both();
    for last in [A, B] {
        cut(&mut story, last);
        for began in (1400..20_000).step_by(1000) {
            story.connect_overdue(last, began, false, began + 300);
        }
    }
    story.pass(20_000, 30_000);
    for last in [A, B] {
        let health = story.health(last, 30_000);
        assert_eq!((health.state, health.end_flows), (HealthState::Healthy, false));
    }
}

#[test]
fn stale_results_change_nothing() {
    let mut story = both();
    story.pong(B, 1100);
    story.probe(A, 1200, 1201, ProbeOutcome::Ready);
    for reason in FailReason::ALL {
        for started in [1000, 1050, 1150, 1200] {
            story.probe(A, started, 1300, ProbeOutcome::Failed(reason));
        }
    }
    story.probe(A, 1190, 1310, ProbeOutcome::Unready);
    for began in [1000, 1050, 1150] {
        story.connect_overdue(A, began, false, 1320);
    }
    story.pong(B, 1321);
    story.pass(1322, 1900);
    let health = story.health(A, 1900);
    assert!(health.state == HealthState::Healthy && health.failure.is_none() && health.answering);
}

#[test]
fn the_limit_follows_the_handshake_and_not_the_answer() {
    let mut story = both();
    let answered = |story: &Story, handshake: Option<u64>| ProbeResult {
        handshake: handshake.map(Duration::from_millis),
        ..bare(story.at(1000), story.at(1500), ProbeOutcome::Ready)
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
    let sent_again = ProbeResult { round_trip: Some(Duration::from_secs(1)), ..answered(&story, Some(1010)) };
    story.detector.observe(backend(A), sent_again);
    assert_eq!(story.directive(A, 1500).limit, slow, "that was a lost packet");
    for _ in 0..3 {
        let probe = answered(&story, Some(10));
        story.detector.observe(backend(A), probe);
    }
    assert_eq!(story.directive(A, 1500).limit, TIMEOUT_MIN, "quicker again");
}

#[test]
fn flapping_backend_has_a_growing_hold_down_of_at_most_a_minute() {
    let mut story = both();
    let (mut now, mut waits) = (1000, Vec::new());
    for _ in 0..9 {
        story.pong(B, now);
        story.refuse(A, now + 10);
        assert_eq!(story.state(A), HealthState::Suspect);
        let first = now + 100;
        now = first;
        while story.state(A) == HealthState::Suspect {
            story.probe(A, now, now + 1, ProbeOutcome::Ready);
            story.pong(B, now + 2);
            assert!(now - first < 70_000, "it is let in at last");
            now += 500;
        }
        assert_eq!(story.state(A), HealthState::Healthy);
        waits.push((now - first) / 1000);
    }
    assert!(waits.is_sorted() && waits[0] <= 1 && *waits.last().unwrap() >= 59, "{waits:?}");
}

#[test]
fn passing_time_does_not_extend_the_hold_down() {
    let mut story = both();
    story.refuse(A, 1000);
    for second in 2..100 {
        story.refuse(A, second * 1000);
        story.pong(B, second * 1000 + 10);
        story.pass(second * 1000 + 20, second * 1000 + 900);
    }
    for ms in [100_000, 100_050] {
        story.probe(A, ms, ms + 1, ProbeOutcome::Ready);
    }
    assert_eq!(story.state(A), HealthState::Healthy, "the first fall costs nothing");
}

#[test]
fn failure_outside_the_flap_window_is_forgotten() {
    let mut story = both();
    let mut now = 1000;
    for _ in 0..5 {
        story.pong(B, now);
        story.refuse(A, now + 10);
        assert_eq!(story.state(A), HealthState::Suspect);
        for ms in [now + 50, now + 100] {
            story.probe(A, ms, ms + 1, ProbeOutcome::Ready);
        }
        assert_eq!(story.state(A), HealthState::Healthy, "at {now}");
        now += 121_000;
    }
}

#[test]
fn one_that_is_ready_again_is_watched_until_its_hold_down_ends() {
    let mut story = both();
    for round in 0..2 {
        let now = 1000 + round * 100;
        for (after, found) in
            [(0, ProbeOutcome::Unready), (10, ProbeOutcome::Unready), (20, ProbeOutcome::Ready)]
        {
            story.probe(A, now + after, now + after + 1, found);
        }
        assert_eq!((story.state(A), story.pace(A, now + 30)), (HealthState::Draining, Pace::Burst));
        story.probe(A, now + 30, now + 31, ProbeOutcome::Ready);
    }
    assert_eq!((story.state(A), story.pace(A, 1131)), (HealthState::Draining, Pace::Watchful));
    assert_eq!(story.health(A, 1131).hold_down_until, Some(story.at(2121)));
    story.probe(A, 2121, 2122, ProbeOutcome::Ready);
    assert_eq!((story.state(A), story.pace(A, 2122)), (HealthState::Healthy, Pace::Steady));
}

/// A question of that time stays open, is overdue, and is answered so much later.
fn answered_after(story: &mut Story, asked: u64, took: u64, outcome: ProbeOutcome) {
    story.overdue(A, asked, asked + 300);
    story.pong(B, asked + 310);
    for began in [asked + 320, asked + 370] {
        story.connect_overdue(A, began, true, began + 300);
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
fn backend_is_late_as_long_as_it_answers_late() {
    let mut story = both();
    answered_after(&mut story, 1000, 3000, ProbeOutcome::Ready);
    assert_eq!((story.state(A), story.pace(A, 4001)), (HealthState::Late, Pace::Watchful));
    for round in 1..20 {
        answered_after(&mut story, 1000 + round * 4000, 3000, ProbeOutcome::Ready);
        let health = story.health(A, 5000 + round * 4000);
        assert_eq!(
            (health.state, health.end_flows, health.termination_blocked),
            (HealthState::Late, false, None)
        );
    }
    // In time again, and no hold-down for what was one fall.
    for ms in [85_000, 86_000] {
        story.probe(A, ms, ms + 1, ProbeOutcome::Ready);
    }
    assert_eq!(story.state(A), HealthState::Healthy);
}

#[test]
fn single_late_answer_keeps_the_backend_in_rotation() {
    let mut story = both();
    story.probe(A, 1000, 1900, ProbeOutcome::Ready);
    assert_eq!(story.state(A), HealthState::Healthy);
}

#[test]
fn after_five_seconds_without_an_answer_it_is_silent() {
    let mut story = both();
    answered_after(&mut story, 1000, 3000, ProbeOutcome::Ready);
    story.overdue(A, 5000, 5300);
    for ms in (5300..8700).step_by(250) {
        story.pong(B, ms);
        story.pass(ms, ms + 240);
        assert_eq!(story.state(A), HealthState::Late, "at {ms}");
    }
    story.pong(B, 9000);
    story.pass(9002, 9300);
    assert_eq!((story.state(A), story.health(A, 9300).end_flows), (HealthState::Suspect, false));
}

#[test]
fn late_and_unready_drains() {
    let mut story = both();
    answered_after(&mut story, 1000, 3000, ProbeOutcome::Unready);
    assert_eq!(story.state(A), HealthState::Draining);
}

#[test]
fn late_and_removed_backend_drains() {
    let mut story = both();
    answered_after(&mut story, 1000, 3000, ProbeOutcome::Ready);
    story.publish(5000, &[B]);
    assert_eq!(story.state(A), HealthState::Draining);
}
