//! Who may bear witness against a backend, and when.

use super::*;

#[test]
fn a_witness_does_what_the_failing_one_cannot() {
    let fresh = Some(Duration::from_millis(2));
    let deeds = [(Outcome::Alive, None), (Outcome::Unready, None), (Outcome::Ready, fresh)];
    for (reason, needed) in [
        (FailReason::Refused, 0),
        (FailReason::Timeout, 0),
        (FailReason::Unreachable, 0),
        (FailReason::Reset, 1),
        (FailReason::Protocol, 1),
        (FailReason::Tls, 2),
        (FailReason::BadCertificate, 2),
    ] {
        let mut story = both_up();
        let failed = |story: &mut Story, ms| story.probe(A, ms, ms + 1, Outcome::Failed(reason));
        failed(&mut story, 1000);
        for (n, (outcome, handshake)) in (0u64..).zip(deeds) {
            let demand = story.health.directive(backend(B)).unwrap();
            assert_eq!(
                (demand.not_before.is_some(), demand.afresh),
                (n <= needed, n <= needed && needed == 2)
            );
            let (started, finished) = (story.at(1010 + n * 100), story.at(1012 + n * 100));
            story.observe(B, Probe { started, finished, outcome, round_trip: None, handshake });
            failed(&mut story, 1020 + n * 100);
            failed(&mut story, 1070 + n * 100);
            let (started, finished) = (story.at(1080 + n * 100), story.at(1082 + n * 100));
            story.observe(B, Probe { started, finished, outcome, round_trip: None, handshake });
            let expected = if n >= needed { State::Down } else { State::Up };
            assert_eq!(story.state(A), expected, "{reason} and {outcome:?}");
        }
    }
}

#[test]
fn an_answer_that_crossed_the_end_of_an_outage_is_a_witness_from_then_on() {
    let mut story = both_up();
    // All is lost from 1000 until 2000. A PING to B is sent again until it gets through.
    for started in [1500, 1600, 1700, 1800, 1900] {
        story.probe(A, started, started + 300, Outcome::Failed(FailReason::Timeout));
    }
    story.probe(B, 1850, 2060, Outcome::Alive);
    story.probe(A, 1950, 2250, Outcome::Failed(FailReason::Timeout));
    story.probe(A, 1990, 2290, Outcome::Failed(FailReason::Timeout));
    story.probe(B, 2300, 2301, Outcome::Alive);
    assert_eq!(story.state(A), State::Up, "these began while all was lost");
    story.probe(A, 2060, 2360, Outcome::Failed(FailReason::Timeout));
    story.probe(A, 2110, 2410, Outcome::Failed(FailReason::Timeout));
    story.probe(B, 2420, 2421, Outcome::Alive);
    assert_eq!(story.state(A), State::Down, "and these did not");
}
