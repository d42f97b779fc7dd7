//! Which evidence it takes: witnesses for taking a backend out of the rotation, and every proof, removed in turn, for
//! ending established connections.

use super::*;

#[test]
fn witness_must_do_what_the_failing_backend_cannot() {
    let fresh = Some(Duration::from_millis(2));
    let deeds = [(ProbeOutcome::Alive, None), (ProbeOutcome::Unready, None), (ProbeOutcome::Ready, fresh)];
    for (reason, needed) in [
        (FailReason::Timeout, 0),
        (FailReason::Unreachable, 0),
        (FailReason::Reset, 1),
        (FailReason::Protocol, 1),
        (FailReason::Tls, 2),
        (FailReason::BadCertificate, 2),
    ] {
        let mut story = both();
        let failed = |story: &mut Story, ms| story.probe(A, ms, ms + 1, ProbeOutcome::Failed(reason));
        failed(&mut story, 1000);
        story.pass(1001, 2000);
        for (n, (outcome, handshake)) in (0u64..).zip(deeds) {
            let from = 2000 + n * 500;
            let demand = story.directive(B, from);
            // What a silence wants besides is in `proofs`.
            if needed > 0 {
                assert_eq!(demand.not_before.is_some(), n <= needed, "{reason} and {outcome:?}");
                assert_eq!(demand.fresh_connection, n <= needed && needed == 2, "{reason} and {outcome:?}");
            }
            for (ms, who) in [(10, B), (20, A), (70, A), (80, B)] {
                match who {
                    A => failed(&mut story, from + ms),
                    _ => {
                        let probe = bare(story.at(from + ms), story.at(from + ms + 2), outcome);
                        story.detector.observe(backend(B), ProbeResult { handshake, ..probe });
                    }
                }
            }
            let expected = if n >= needed { HealthState::Suspect } else { HealthState::Healthy };
            assert_eq!(story.state(A), expected, "{reason} and {outcome:?}");
        }
    }
}

#[test]
fn answer_across_the_end_of_an_outage_is_a_witness_from_its_end() {
    let mut story = both();
    // All is lost from 1000 until 2000. A ping to B is sent again until it gets through.
    for began in [1500, 1600, 1700, 1800, 1900] {
        story.connect_overdue(A, began, false, began + 300);
    }
    story.probe(B, 1850, 2060, ProbeOutcome::Alive);
    for began in [1950, 1990] {
        story.connect_overdue(A, began, false, began + 300);
    }
    story.pong(B, 2300);
    assert_eq!(story.state(A), HealthState::Healthy, "these began while all was lost");
    for began in [2060, 2110] {
        story.connect_overdue(A, began, false, began + 300);
    }
    story.pong(B, 2420);
    assert_eq!(story.state(A), HealthState::Suspect, "and these did not");
}

/// Nobody trusts certificates: a wrong clock, or a new CA.
#[test]
fn certificate_failure_without_witness_keeps_all_in_rotation() {
    let mut story = both();
    for ms in (1000..60_000).step_by(500) {
        for last in [A, B] {
            story.probe(last, ms, ms + 1, ProbeOutcome::Failed(FailReason::BadCertificate));
            story.pong(last, ms + 100);
        }
        story.pass(ms + 200, ms + 400);
        for last in [A, B] {
            let health = story.health(last, ms + 400);
            assert_eq!(
                (health.state, health.end_flows, health.termination_blocked),
                (HealthState::Healthy, false, None)
            );
        }
    }
}

/// All end at 1000. One of them was under suspicion by chance, and too slow for its last probes to get through.
#[test]
fn failure_of_all_backends_keeps_all_in_rotation() {
    for slow in [0, 10, 25, 50] {
        let mut story = Story::healthy(options(), &[A, B, C]);
        story.detector.suspect(backend(A), story.at(900), Trigger::ConnectFailed);
        for last in [B, C] {
            story.pong(last, 950);
        }
        for began in (1000 - slow..4000).step_by(50) {
            for last in [A, B, C] {
                let began = if last == A { began } else { began + slow };
                story.connect_overdue(last, began, false, began + 300);
                assert_ne!(story.state(last), HealthState::Suspect, "at {began}");
            }
        }
    }
}

/// Whoever asks once is enough: not all others shake hands because one is silent.
#[test]
fn one_witness_opens_a_fresh_connection_and_the_others_if_it_does_not() {
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
            [B, C].into_iter().filter(|last| story.directive(*last, ms).fresh_connection).collect()
        };
        let first = asked(&story, 1300);
        assert_eq!(first.len(), 1, "seed {seed}");
        assert_eq!(asked(&story, 3000), [B, C], "it took too long");
        story.detector.handshake_completed(backend(first[0]), story.at(1310), false);
        assert!(asked(&story, 1310).is_empty(), "that is enough");
        let dial = story.directive(A, 1310);
        assert_eq!(
            (dial.fresh_connection, dial.not_before),
            (true, Some(story.at(1310))),
            "and now the silent one"
        );
        chosen.extend(first);
    }
    assert_eq!(chosen.len(), 2, "nodes choose differently");
}

/// How a silent backend is watched, and what is seen: by default everything speaks for its end.
#[derive(Clone, Copy)]
struct Case {
    /// A fresh handshake with the other one, and when.
    handshake: Option<u64>,
    /// The other one answers pings from then on.
    witness_from: u64,
    /// Until then.
    witness_until: u64,
    witness: Witness,
    /// When the silent one is dialled last.
    dials_until: u64,
    /// SYN-ACKs come.
    connects: bool,
    /// Since when clients' connections are watched.
    observed: Option<u64>,
    /// From when on they are not any more.
    unobserved: Option<u64>,
    /// What comes of asking them.
    asked: Option<ChallengeOutcome>,
    /// A segment arrives on one of them at that time, with data or without.
    arrives: Option<(u64, bool)>,
    /// This process does not run from then until then.
    asleep: Option<(u64, u64)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Witness {
    Near,
    Local,
    OtherFamily,
}

const ALL: Case = Case {
    handshake: Some(1350),
    witness_from: 0,
    witness_until: u64::MAX,
    witness: Witness::Near,
    dials_until: u64::MAX,
    connects: false,
    observed: Some(1300),
    unobserved: None,
    asked: Some(ChallengeOutcome::Sent),
    arrives: None,
    asleep: None,
};

/// The silence begins at 1000 and is noticed at 1300.
fn play(case: Case, until: u64) -> Story {
    let mut story = Story::healthy(options(), &[A]);
    let other = match case.witness {
        Witness::OtherFamily => "[2001:db8::12]:6443".parse().unwrap(),
        Witness::Near | Witness::Local => backend(B),
    };
    story.detector.publish(&[backend(A), other].into(), story.at(0));
    let local = case.witness == Witness::Local;
    let answers = |story: &mut Story, ms: u64, outcome, fresh: bool| {
        let probe = bare(story.at(ms), story.at(ms + 1), outcome);
        let handshake = fresh.then_some(Duration::from_millis(1));
        story.detector.observe(other, ProbeResult { handshake, local: Some(local), ..probe });
    };
    story.detector.handshake_completed(other, story.at(10), local);
    answers(&mut story, 10, ProbeOutcome::Ready, true);
    story.overdue(A, 1000, 1300);
    let mut ms = 1300;
    while ms < until {
        let now = story.at(ms);
        if case.asleep.is_some_and(|(from, to)| (from..to).contains(&ms)) {
            ms += 50;
            continue;
        }
        if case.observed == Some(ms) {
            story.detector.watching_since(backend(A), Some(now));
        }
        if case.unobserved == Some(ms) {
            story.detector.watching_since(backend(A), None);
        }
        if case.arrives.is_some_and(|(at, _)| at == ms) {
            story.detector.segment_received(backend(A), now, case.arrives.unwrap().1);
        }
        if (case.witness_from..case.witness_until).contains(&ms) && ms % 500 == 300 {
            answers(&mut story, ms + 1, ProbeOutcome::Alive, false);
        }
        if case.handshake == Some(ms) {
            story.detector.handshake_completed(other, now, local);
            answers(&mut story, ms, ProbeOutcome::Ready, true);
        }
        if ms % 1000 == 400 && ms < case.dials_until {
            story.connect_overdue(A, ms - 300 + 260, case.connects, ms + 260);
        }
        if let Some(found) = case.asked.filter(|_| story.detector.challenges_due(now).contains(&backend(A))) {
            story.detector.challenge_started(backend(A), now);
            story.detector.challenge_finished(backend(A), now, found);
        }
        story.detector.evaluate(story.at(ms + 49));
        ms += 50;
    }
    story
}

fn found(case: Case, until: u64) -> (HealthState, bool, Option<TerminationBlocker>) {
    let health = play(case, until).health(A, until);
    (health.state, health.end_flows, health.termination_blocked)
}

#[test]
fn complete_proof_makes_failed_soon_after_the_timeout() {
    assert_eq!(found(ALL, 6000), (HealthState::Suspect, false, None), "not before it");
    assert_eq!(found(ALL, 6500), (HealthState::Failed, true, None));
    let frozen = Case { connects: true, asked: None, ..ALL };
    assert_eq!(found(frozen, 6500), (HealthState::Failed, true, None), "a process that stands still");
    let idle = Case { asked: Some(ChallengeOutcome::NoFlows), ..ALL };
    assert_eq!(found(idle, 6500), (HealthState::Failed, true, None), "nobody is there to be ended");
}

#[test]
fn incomplete_proof_ends_no_flows_and_reports_what_is_missing() {
    use TerminationBlocker::{DataArriving, NoWitness, NotObserved, OwnDialsBlocked};
    let frozen = Case { connects: true, asked: None, ..ALL };
    for (what, case, why) in [
        ("no fresh handshake: PONGs are none", Case { handshake: None, ..ALL }, NoWitness),
        ("the witness falls silent", Case { witness_until: 3000, ..ALL }, NoWitness),
        ("the witness is on this node", Case { witness: Witness::Local, ..ALL }, NoWitness),
        ("the witness is of the other family", Case { witness: Witness::OtherFamily, ..ALL }, NoWitness),
        (
            "no dial began after the handshake",
            Case { handshake: Some(3350), dials_until: 3300, ..ALL },
            NoWitness,
        ),
        ("nothing was watched", Case { observed: None, ..ALL }, NotObserved),
        ("it is watched since a moment ago", Case { observed: Some(3300), ..ALL }, NotObserved),
        ("it is watched no longer", Case { unobserved: Some(4000), ..ALL }, NotObserved),
        ("clients cannot be asked", Case { asked: Some(ChallengeOutcome::Impossible), ..ALL }, NotObserved),
        ("clients were not asked", Case { asked: None, ..ALL }, NotObserved),
        ("its host answers clients", Case { arrives: Some((3000, false)), ..ALL }, OwnDialsBlocked),
        ("data arrive", Case { arrives: Some((3000, true)), ..ALL }, DataArriving),
        ("data arrive, its own dials connect", Case { arrives: Some((3000, true)), ..frozen }, DataArriving),
        ("its own dials connect, nothing is watched", Case { observed: None, ..frozen }, NotObserved),
    ] {
        assert_eq!(found(case, 7900), (HealthState::Suspect, false, Some(why)), "{what}");
    }
}

#[test]
fn single_silent_backend_keeps_its_state_and_reports_why() {
    let case = Case { handshake: None, witness_until: 0, ..ALL };
    assert_eq!(found(case, 7900), (HealthState::Healthy, false, Some(TerminationBlocker::NoWitness)));
}

/// Where TCP comes about two handshakes are waited for. Segments of both may have been lost: more are begun, though
/// fewer than where it does not.
#[test]
fn connects_are_repeated_and_once_more_before_termination() {
    let frozen = Case { connects: true, asked: None, ..ALL };
    let story = play(Case { dials_until: 3000, ..frozen }, 5000);
    let directive = story.directive(A, 4700);
    assert_eq!((directive.not_before, directive.fresh_connection), (Some(story.at(4500)), true));
    assert_eq!(story.directive(A, 4400).not_before, None, "not before");
    assert_eq!(story.directive(A, 5000).not_before, Some(story.at(4860)), "2.5 s after the one before");
    let silent = play(Case { dials_until: 3000, ..ALL }, 5000);
    assert_eq!(silent.directive(A, 4400).not_before, Some(silent.at(3560)), "1.2 s after the one before");
    assert_eq!(silent.directive(A, 3500).not_before, None, "not before");
    assert!(!found(Case { dials_until: 3000, ..frozen }, 7900).1);
}

#[test]
fn segments_without_data_do_not_save_a_stopped_process() {
    let case = Case { connects: true, asked: None, arrives: Some((3000, false)), ..ALL };
    assert_eq!(found(case, 6500), (HealthState::Failed, true, None), "its kernel acknowledges");
}

#[test]
fn data_older_than_the_timeout_does_not_block_termination() {
    let case = Case { arrives: Some((3000, true)), ..ALL };
    assert_eq!(found(case, 7950), (HealthState::Suspect, false, Some(TerminationBlocker::DataArriving)));
    assert_eq!(found(case, 8300), (HealthState::Failed, true, None));
}

#[test]
fn witness_that_returns_with_this_nodes_network_ends_no_flows() {
    // The node's own link is out until 9000. The other one is found first.
    let case = Case { witness_from: 9000, handshake: Some(9100), ..ALL };
    for until in [9200, 10_000, 11_000, 13_900] {
        let (state, ending, _) = found(case, until);
        assert!(state != HealthState::Failed && !ending, "at {until}");
    }
    assert_eq!(found(case, 15_000).0, HealthState::Failed, "it stays away");
}

#[test]
fn suspended_daemon_restarts_the_silence() {
    for asleep in [(2000, 3200), (3000, 20_000), (6000, 3_600_000)] {
        let case = Case { asleep: Some(asleep), ..ALL };
        let woken = asleep.1;
        for after in [100, 2000, 4900] {
            let (state, ending, _) = found(case, woken + after);
            assert!(state != HealthState::Failed && !ending, "{asleep:?}, {after} ms later");
        }
    }
    assert_eq!(
        found(Case { asleep: Some((3000, 3900)), ..ALL }, 6500).0,
        HealthState::Failed,
        "a moment is none"
    );
}

#[test]
fn suspended_daemon_stops_terminating_flows_and_starts_over() {
    let case = Case { asleep: Some((7000, 60_000)), ..ALL };
    assert_eq!(found(case, 7000).0, HealthState::Failed);
    assert_eq!(found(case, 60_100), (HealthState::Suspect, false, None));
}

/// The last sign of life came up to a second before the first question that stays unanswered.
#[test]
fn flows_end_spread_out_within_6500_ms_of_the_fault() {
    let mut times = BTreeSet::new();
    for seed in 0..8 {
        for phase in (0..1000).step_by(111) {
            let reset_jitter = Duration::from_secs(1);
            let mut story = Story::healthy(HealthOptions { reset_jitter, ..options() }, &[A, B]);
            story.detector = Detector::new(HealthOptions { reset_jitter, ..options() }, seed);
            story.publish(0, &[A, B]);
            story.shakes(B, 0, false);
            // The fault comes at 10 s, and a keepalive was acknowledged in the second before.
            let asked = 11_000 - phase;
            story.shakes(A, asked - 1001, false);
            story.overdue(A, asked, asked + 300);
            story.detector.watching_since(backend(A), Some(story.at(asked + 300)));
            story.shakes(B, asked + 310, false);
            let mut ms = asked + 400;
            while story.state(A) != HealthState::Failed {
                assert!(ms < 16_400, "seed {seed}, phase {phase}: {:?}", story.health(A, ms));
                if ms % 500 == 0 {
                    story.pong(B, ms);
                    story.connect_overdue(A, ms - 300, false, ms);
                }
                if story.detector.challenges_due(story.at(ms)).contains(&backend(A)) {
                    story.detector.challenge_started(backend(A), story.at(ms));
                    story.detector.challenge_finished(backend(A), story.at(ms), ChallengeOutcome::Sent);
                }
                story.pass(ms, ms + 1);
                ms += 1;
            }
            assert!(ms >= asked + 5000, "seed {seed}, phase {phase}");
            times.insert(ms);
        }
    }
    let (first, last) = (times.first().unwrap(), times.last().unwrap());
    assert!(times.len() > 8 && last - first > 800, "{first} to {last}");
}
