//! Signs of life, silences that are this node's own, and when clients' connections are checked afterwards.

use super::*;

/// A is Failed at 6400: its cable was cut at 1000 and B answered all the time.
fn failed() -> Story {
    let mut story = both();
    story.overdue(A, 1000, 1300);
    story.detector.watching_since(backend(A), Some(story.at(1300)));
    story.shakes(B, 1310, false);
    for ms in (1400..6400).step_by(250) {
        story.pong(B, ms);
        if ms % 500 == 400 {
            story.connect_overdue(A, ms, false, ms + 200);
        }
        let now = story.at(ms + 200);
        if story.detector.challenges_due(now).contains(&backend(A)) {
            story.detector.challenge_started(backend(A), now);
            story.detector.challenge_finished(backend(A), now, ChallengeOutcome::Sent);
        }
        story.detector.evaluate(now);
    }
    let health = story.health(A, 6400);
    assert_eq!((health.state, health.end_flows), (HealthState::Failed, true));
    story
}

#[test]
fn response_at_any_time_stops_flow_termination() {
    type Sign = fn(&mut Story, u64);
    let signs: [(&str, Sign); 9] = [
        ("a PONG", |story, ms| story.probe(A, ms - 1, ms, ProbeOutcome::Alive)),
        ("ready", |story, ms| story.probe(A, ms - 1, ms, ProbeOutcome::Ready)),
        ("unready", |story, ms| story.probe(A, ms - 1, ms, ProbeOutcome::Unready)),
        ("an answer to the oldest question", |story, ms| story.probe(A, 1400, ms, ProbeOutcome::Ready)),
        ("refused", |story, ms| story.probe(A, ms - 1, ms, ProbeOutcome::Failed(FailReason::Refused))),
        ("reset", |story, ms| story.probe(A, ms - 1, ms, ProbeOutcome::Failed(FailReason::Reset))),
        ("a certificate", |story, ms| {
            story.probe(A, ms - 1, ms, ProbeOutcome::Failed(FailReason::BadCertificate));
        }),
        ("hands", |story, ms| story.detector.handshake_completed(backend(A), story.at(ms), false)),
        ("a keepalive", |story, ms| story.detector.host_responded(backend(A), story.at(ms))),
    ];
    for (what, sign) in signs {
        let mut story = failed();
        sign(&mut story, 6500);
        let health = story.health(A, 6500);
        assert_ne!(health.state, HealthState::Failed, "{what}");
        assert_eq!((health.end_flows, health.silent_since), (false, None), "{what}");
        story.pass(6500, 6500);
        assert_eq!(story.health(A, 6500).challenge_at, Some(story.at(6500)), "{what}: its clients are asked");
    }
    for data in [false, true] {
        let mut story = failed();
        story.detector.segment_received(backend(A), story.at(6500), data);
        let health = story.health(A, 6500);
        assert_eq!((health.state, health.end_flows), (HealthState::Suspect, false), "a segment");
        for ms in (6600..11_400).step_by(200) {
            story.pong(B, ms);
            story.pass(ms, ms + 190);
            assert_eq!(story.state(A), HealthState::Suspect, "at {ms}");
        }
    }
}

#[test]
fn unreachable_counts_as_silence() {
    let mut story = failed();
    story.probe(A, 6410, 6420, ProbeOutcome::Failed(FailReason::Unreachable));
    assert_eq!(story.state(A), HealthState::Failed);
    story.probe(A, 6420, 6430, ProbeOutcome::Failed(FailReason::Timeout));
    assert_eq!(story.state(A), HealthState::Failed);
}

#[test]
fn one_that_is_back_is_healthy_after_two_answers() {
    let mut story = failed();
    story.probe(A, 6500, 6501, ProbeOutcome::Ready);
    assert_eq!((story.state(A), story.pace(A, 6501)), (HealthState::Suspect, Pace::Burst));
    story.probe(A, 6550, 6551, ProbeOutcome::Ready);
    assert_eq!((story.state(A), story.health(A, 6551).end_flows), (HealthState::Healthy, false));
}

/// The node's own link is out for eight seconds. Then neighbours are found one by one, the last one 3 s after the first.
#[test]
fn link_outage_of_this_node_ends_no_flows_and_changes_rotation_briefly() {
    for outage in [1500, 3000, 8000, 20_000_u64] {
        for late in [0, 500, 1000, 2000, 3000_u64] {
            let mut story = Story::healthy(options(), &[A, B, C]);
            let back = |last: u8| 1000 + outage + u64::from(last - A) * late / 2;
            for last in [A, B, C] {
                story.overdue(last, 1000 + u64::from(last) * 20, 1300 + u64::from(last) * 20);
                story.detector.watching_since(backend(last), Some(story.at(1300 + u64::from(last) * 20)));
            }
            for ms in (1600..1000 + outage + 8000).step_by(50) {
                for last in [A, B, C] {
                    let now = story.at(ms);
                    if ms >= back(last) && ms % 250 == 0 {
                        story.shakes(last, ms, false);
                    } else if ms < back(last) && ms % 500 == 0 {
                        story.connect_overdue(last, ms - 300, false, ms);
                    }
                    if story.detector.challenges_due(now).contains(&backend(last)) {
                        story.detector.challenge_started(backend(last), now);
                        story.detector.challenge_finished(backend(last), now, ChallengeOutcome::Sent);
                    }
                    story.detector.evaluate(now);
                    let health = story.health(last, ms);
                    assert!(
                        health.state != HealthState::Failed && !health.end_flows,
                        "{last} at {ms}: {outage}, {late}"
                    );
                }
            }
            for last in [A, B, C] {
                assert_eq!(story.state(last), HealthState::Healthy, "{last} after {outage}, {late}");
            }
        }
    }
}

/// A restart in the middle of a fault knows nothing of what was before.
#[test]
fn restarted_daemon_starts_a_new_silence() {
    let mut story = failed();
    story.detector = Detector::new(options(), 2);
    story.publish(6400, &[A, B]);
    story.shakes(B, 6410, false);
    story.connect_overdue(A, 6400, false, 6700);
    story.detector.watching_since(backend(A), Some(story.at(6700)));
    story.shakes(B, 6710, false);
    for ms in (6800..11_450).step_by(250) {
        story.pong(B, ms);
        story.connect_overdue(A, ms, false, ms + 200);
        let now = story.at(ms + 210);
        if story.detector.challenges_due(now).contains(&backend(A)) {
            story.detector.challenge_started(backend(A), now);
            story.detector.challenge_finished(backend(A), now, ChallengeOutcome::Sent);
        }
        assert_ne!(story.state(A), HealthState::Failed, "at {ms}");
    }
    story.pong(B, 11_800);
    story.pass(11_801, 12_000);
    assert_eq!(story.state(A), HealthState::Failed);
}

#[test]
fn clients_of_a_refusing_backend_are_challenged_once() {
    let mut story = both();
    story.refuse(A, 1000);
    story.pass(1001, 1001);
    assert_eq!(story.health(A, 1001).challenge_at, Some(story.at(1001)));
    for ms in [1010, 2000, 3000] {
        story.refuse(A, ms);
        story.pass(ms + 1, ms + 1);
    }
    assert_eq!(story.health(A, 3001).challenge_at, Some(story.at(1001)), "it refuses still");
    story.probe(A, 4000, 4001, ProbeOutcome::Ready);
    story.refuse(A, 5000);
    story.pass(5001, 5001);
    assert_eq!(story.health(A, 5001).challenge_at, Some(story.at(5001)), "it refuses again");
}

/// A lone one gets no new connections elsewhere, and its clients hang all the same.
#[test]
fn clients_are_challenged_without_another_backend() {
    let mut story = Story::healthy(options(), &[A]);
    story.refuse(A, 1000);
    story.pass(1001, 1001);
    assert_eq!(
        (story.state(A), story.health(A, 1001).challenge_at),
        (HealthState::Healthy, Some(story.at(1001)))
    );
}

/// How it is heard at that time.
type Way = fn(&mut Story, u64);

#[test]
fn clients_are_challenged_after_a_second_of_silence_however_it_ends() {
    let pong: Way = |story, ms| story.probe(A, ms - 1, ms, ProbeOutcome::Alive);
    let reset: Way = |story, ms| story.probe(A, ms - 1, ms, ProbeOutcome::Failed(FailReason::Reset));
    let host: Way = |story, ms| story.detector.host_responded(backend(A), story.at(ms));
    let hands: Way = |story, ms| story.detector.handshake_completed(backend(A), story.at(ms), false);
    let ways: [Way; 4] = [pong, reset, host, hands];
    for (n, way) in ways.into_iter().enumerate() {
        for (lasted, asked) in [(999, false), (1000, true), (3000, true)] {
            let mut story = both();
            story.overdue(A, 1000, 1300);
            story.pass(1300, 1000 + lasted);
            way(&mut story, 1000 + lasted);
            let due = story.detector.next_deadline(story.at(1000 + lasted));
            story.pass(1000 + lasted, 1000 + lasted);
            let found = story.health(A, 5000).challenge_at;
            assert_eq!(found.is_some(), asked, "way {n}, {lasted} ms");
            assert!(!asked || found == Some(story.at(1000 + lasted)));
            assert!(n == 1 || due.is_none_or(|due| due == story.at(1000 + lasted)), "way {n}");
        }
    }
}

#[test]
fn nodes_spread_their_challenges() {
    let mut times = BTreeSet::new();
    for seed in 0..100 {
        let spread = HealthOptions { reset_jitter: Duration::from_secs(1), ..options() };
        let mut story = Story::healthy(spread, &[A, B]);
        story.detector = Detector::new(spread, seed);
        story.publish(0, &[A, B]);
        for last in [A, B] {
            story.shakes(last, 0, false);
        }
        story.refuse(A, 1000);
        assert_eq!(
            (story.state(A), story.health(A, 1001).challenge_at),
            (HealthState::Suspect, None),
            "seed {seed}"
        );
        let due = story.detector.next_deadline(story.at(1001)).unwrap();
        assert!((story.at(1001)..story.at(2001)).contains(&due));
        story.pass(1001, 2001);
        assert_eq!(story.health(A, 2001).challenge_at, Some(due));
        times.insert(due);
    }
    let gaps = times.iter().zip(times.iter().skip(1)).map(|(a, b)| *b - *a);
    assert!(times.len() > 95 && gaps.max() < Some(Duration::from_millis(100)));
}

#[test]
fn continuing_silence_challenges_no_client() {
    let mut story = both();
    story.overdue(A, 1000, 1300);
    story.pass(1300, 60_000);
    assert_eq!(story.health(A, 60_000).challenge_at, None);
}

/// Whoever is back after a silence is asked for each second by each node, at a time of its own. A process that goes
/// on answers all nodes in the same instant.
#[test]
fn clients_of_a_restarted_host_are_challenged_without_spread() {
    let reset_jitter = Duration::from_secs(1);
    let silent = || {
        let mut story = Story::healthy(HealthOptions { reset_jitter, ..options() }, &[A, B]);
        story.overdue(A, 1000, 1300);
        story.pass(1300, 4000);
        story
    };
    let ask = |story: &Story| story.detector.next_deadline(story.at(4001));
    for refused in [true, false] {
        let mut story = silent();
        match refused {
            true => story.refuse(A, 4000),
            false => story.detector.host_responded(backend(A), story.at(4001)),
        }
        story.pass(4001, 4001);
        assert_eq!(story.health(A, 4001).challenge_at, Some(story.at(4001)));
    }
    let mut story = silent();
    story.pong(A, 4000);
    assert_eq!(story.health(A, 4001).challenge_at, None);
    assert!(ask(&story) > Some(story.at(4001)) && ask(&story) < Some(story.at(5001)));
}
