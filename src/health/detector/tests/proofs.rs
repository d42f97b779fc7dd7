//! What it takes to end established connections: each proof is taken away in turn.

use super::*;

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
    asked: Option<Asked>,
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
    asked: Some(Asked::Sent),
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
        story.detector.observe(other, Probe { handshake, local: Some(local), ..probe });
    };
    story.detector.shook_hands(other, story.at(10), local);
    answers(&mut story, 10, Outcome::Ready, true);
    story.overdue(A, 1000, 1300);
    let mut ms = 1300;
    while ms < until {
        let now = story.at(ms);
        if case.asleep.is_some_and(|(from, to)| (from..to).contains(&ms)) {
            ms += 50;
            continue;
        }
        if case.observed == Some(ms) {
            story.detector.watched(backend(A), Some(now));
        }
        if case.unobserved == Some(ms) {
            story.detector.watched(backend(A), None);
        }
        if case.arrives.is_some_and(|(at, _)| at == ms) {
            story.detector.arrived(backend(A), now, case.arrives.unwrap().1);
        }
        if (case.witness_from..case.witness_until).contains(&ms) && ms % 500 == 300 {
            answers(&mut story, ms + 1, Outcome::Alive, false);
        }
        if case.handshake == Some(ms) {
            story.detector.shook_hands(other, now, local);
            answers(&mut story, ms, Outcome::Ready, true);
        }
        if ms % 1000 == 400 && ms < case.dials_until {
            story.dial_overdue(A, ms - 300 + 260, case.connects, ms + 260);
        }
        if let Some(found) = case.asked.filter(|_| story.detector.to_ask(now).contains(&backend(A))) {
            story.detector.asking(backend(A), now);
            story.detector.asked(backend(A), now, found);
        }
        story.detector.look(story.at(ms + 49));
        ms += 50;
    }
    story
}

fn found(case: Case, until: u64) -> (State, bool, Option<Withheld>) {
    let health = play(case, until).health(A, until);
    (health.state, health.ending, health.withheld)
}

#[test]
fn with_all_of_them_it_is_failed_soon_after_the_timeout() {
    assert_eq!(found(ALL, 6000), (State::Suspect, false, None), "not before it");
    assert_eq!(found(ALL, 6500), (State::Failed, true, None));
    let frozen = Case { connects: true, asked: None, ..ALL };
    assert_eq!(found(frozen, 6500), (State::Failed, true, None), "a process that stands still");
    let idle = Case { asked: Some(Asked::NoFlows), ..ALL };
    assert_eq!(found(idle, 6500), (State::Failed, true, None), "nobody is there to be ended");
}

#[test]
fn without_any_one_of_them_nothing_is_ended_and_it_says_why() {
    use Withheld::{DataArrive, NoWitness, NotObserved, OwnDialsBlocked};
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
        ("clients cannot be asked", Case { asked: Some(Asked::Impossible), ..ALL }, NotObserved),
        ("clients were not asked", Case { asked: None, ..ALL }, NotObserved),
        ("its host answers clients", Case { arrives: Some((3000, false)), ..ALL }, OwnDialsBlocked),
        ("data arrive", Case { arrives: Some((3000, true)), ..ALL }, DataArrive),
        ("data arrive, its own dials connect", Case { arrives: Some((3000, true)), ..frozen }, DataArrive),
        ("its own dials connect, nothing is watched", Case { observed: None, ..frozen }, NotObserved),
    ] {
        assert_eq!(found(case, 7900), (State::Suspect, false, Some(why)), "{what}");
    }
}

#[test]
fn a_lone_one_stays_as_it_is_and_says_why() {
    let case = Case { handshake: None, witness_until: 0, ..ALL };
    assert_eq!(found(case, 7900), (State::Healthy, false, Some(Withheld::NoWitness)));
}

/// Where TCP comes about two handshakes are waited for. Segments of both may have been lost: more are begun, though fewer than where it
/// does not.
#[test]
fn dials_are_begun_again_and_once_more_before_the_end_and_waited_for() {
    let frozen = Case { connects: true, asked: None, ..ALL };
    let story = play(Case { dials_until: 3000, ..frozen }, 5000);
    let directive = story.directive(A, 4700);
    assert_eq!((directive.not_before, directive.afresh), (Some(story.at(4500)), true));
    assert_eq!(story.directive(A, 4400).not_before, None, "not before");
    assert_eq!(story.directive(A, 5000).not_before, Some(story.at(4860)), "2.5 s after the one before");
    let silent = play(Case { dials_until: 3000, ..ALL }, 5000);
    assert_eq!(silent.directive(A, 4400).not_before, Some(silent.at(3560)), "1.2 s after the one before");
    assert_eq!(silent.directive(A, 3500).not_before, None, "not before");
    assert!(!found(Case { dials_until: 3000, ..frozen }, 7900).1);
}

#[test]
fn what_is_no_sign_of_the_process_does_not_save_one_that_stands_still() {
    let case = Case { connects: true, asked: None, arrives: Some((3000, false)), ..ALL };
    assert_eq!(found(case, 6500), (State::Failed, true, None), "its kernel acknowledges");
}

#[test]
fn data_that_are_older_than_the_timeout_prevent_nothing() {
    let case = Case { arrives: Some((3000, true)), ..ALL };
    assert_eq!(found(case, 7950), (State::Suspect, false, Some(Withheld::DataArrive)));
    assert_eq!(found(case, 8300), (State::Failed, true, None));
}

#[test]
fn a_witness_that_comes_back_with_this_nodes_network_condemns_nobody() {
    // The node's own link is out until 9000. The other one is found first.
    let case = Case { witness_from: 9000, handshake: Some(9100), ..ALL };
    for until in [9200, 10_000, 11_000, 13_900] {
        let (state, ending, _) = found(case, until);
        assert!(state != State::Failed && !ending, "at {until}");
    }
    assert_eq!(found(case, 15_000).0, State::Failed, "it stays away");
}

#[test]
fn a_daemon_that_slept_begins_anew() {
    for asleep in [(2000, 3200), (3000, 20_000), (6000, 3_600_000)] {
        let case = Case { asleep: Some(asleep), ..ALL };
        let woken = asleep.1;
        for after in [100, 2000, 4900] {
            let (state, ending, _) = found(case, woken + after);
            assert!(state != State::Failed && !ending, "{asleep:?}, {after} ms later");
        }
    }
    assert_eq!(found(Case { asleep: Some((3000, 3900)), ..ALL }, 6500).0, State::Failed, "a moment is none");
}

#[test]
fn a_daemon_that_sleeps_while_it_ends_connections_stops_and_begins_anew() {
    let case = Case { asleep: Some((7000, 60_000)), ..ALL };
    assert_eq!(found(case, 7000).0, State::Failed);
    assert_eq!(found(case, 60_100), (State::Suspect, false, None));
}

/// The last sign of life came up to a second before the first question that stays unanswered.
#[test]
fn all_are_ended_within_six_seconds_and_a_half_of_the_fault_and_not_at_once() {
    let mut times = BTreeSet::new();
    for seed in 0..8 {
        for phase in (0..1000).step_by(111) {
            let kill_spread = Duration::from_secs(1);
            let mut story = Story::healthy(HealthOptions { kill_spread, ..options() }, &[A, B]);
            story.detector = Detector::new(HealthOptions { kill_spread, ..options() }, seed);
            story.publish(0, &[A, B]);
            story.shakes(B, 0, false);
            // The fault comes at 10 s, and a keepalive was acknowledged in the second before.
            let asked = 11_000 - phase;
            story.shakes(A, asked - 1001, false);
            story.overdue(A, asked, asked + 300);
            story.detector.watched(backend(A), Some(story.at(asked + 300)));
            story.shakes(B, asked + 310, false);
            let mut ms = asked + 400;
            while story.state(A) != State::Failed {
                assert!(ms < 16_400, "seed {seed}, phase {phase}: {:?}", story.health(A, ms));
                if ms % 500 == 0 {
                    story.pong(B, ms);
                    story.dial_overdue(A, ms - 300, false, ms);
                }
                if story.detector.to_ask(story.at(ms)).contains(&backend(A)) {
                    story.detector.asking(backend(A), story.at(ms));
                    story.detector.asked(backend(A), story.at(ms), Asked::Sent);
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
