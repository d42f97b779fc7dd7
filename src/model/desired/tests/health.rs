//! What health does to the choice of backends.
use super::*;
use crate::model::health::sample as health;
use crate::model::health::{BackendHealth, State};

const VIP: &str = "10.96.0.1:443";

fn backend(last: u8) -> Backend {
    Backend::from(([192, 0, 2, last], 6443))
}

/// Three published backends, 11 to 13, in these states.
fn three(states: [State; 3]) -> HealthView {
    let mut view =
        view(&found(vec![frontend(VIP, &["192.0.2.11:6443", "192.0.2.12:6443", "192.0.2.13:6443"])]));
    view.backends = (11..).zip(states).map(|(last, state)| (backend(last), health(state))).collect();
    view
}

fn lasts(backends: &[Backend]) -> Vec<u8> {
    let last = |b: &Backend| b.ip().to_string().rsplit('.').next().unwrap().parse().unwrap();
    backends.iter().map(last).collect()
}

fn choice(view: &HealthView, last: Option<&DesiredState>) -> (Vec<u8>, Vec<u8>, Vec<Hold>) {
    let (state, holds) = desire(view, last, &NodeView::default(), &policy());
    (lasts(&state.frontends[0].backends), lasts(&state.frontends[0].dead), holds)
}

fn vip() -> Vip {
    VIP.parse().unwrap()
}

#[test]
fn only_those_that_are_up_get_new_connections() {
    use State::{Draining, Failed, Healthy, Unknown};
    assert_eq!(choice(&three([Healthy, Healthy, Healthy]), None), (vec![11, 12, 13], vec![], vec![]));
    assert_eq!(
        choice(&three([Healthy, Unknown, Healthy]), None).0,
        [11, 12, 13],
        "nothing was programmed yet"
    );
    let without = desire(&three([Healthy, Draining, Healthy]), None, &NodeView::default(), &policy()).0;
    assert_eq!(
        choice(&three([Healthy, Unknown, Healthy]), Some(&without)).0,
        [11, 13],
        "it may lead nowhere"
    );
    assert_eq!(choice(&three([Unknown, Draining, Unknown]), None), (vec![11, 13], vec![], vec![]));
    assert_eq!(
        choice(&three([Healthy, Draining, Healthy]), None),
        (vec![11, 13], vec![], vec![]),
        "it keeps its flows"
    );
    assert_eq!(choice(&three([Failed, Draining, Healthy]), None), (vec![13], vec![11], vec![]));
    let hold = vec![Hold::NoneReady { vip: vip() }];
    assert_eq!(choice(&three([Failed, Draining, Failed]), None), (vec![12], vec![11, 13], hold));
}

/// As after a start: the table that was found, or the first one, has them all.
#[test]
fn one_that_is_programmed_shares_until_something_speaks_against_it() {
    use State::{Healthy, Unknown};
    let last = desire(&three([Unknown; 3]), None, &NodeView::default(), &policy()).0;
    assert_eq!(lasts(&last.frontends[0].backends), [11, 12, 13]);
    let mut view = three([Healthy, Unknown, Unknown]);
    assert_eq!(choice(&view, Some(&last)).0, [11, 12, 13]);
    view.backends
        .insert(backend(13), BackendHealth { failing: Some(FailReason::Timeout), ..health(Unknown) });
    assert_eq!(choice(&view, Some(&last)).0, [11, 12]);
    for health in view.backends.values_mut() {
        *health = BackendHealth { failing: Some(FailReason::Timeout), ..*health };
        health.state = Unknown;
    }
    assert_eq!(choice(&view, Some(&last)).0, [11, 12, 13], "better than none");
}

#[test]
fn when_all_are_down_the_last_good_ones_stay_and_no_flow_is_ended() {
    use State::{Failed, Healthy};
    let last = desire(&three([Healthy, Failed, Healthy]), None, &NodeView::default(), &policy()).0;
    let hold = vec![Hold::NoneAnswers { vip: vip(), reason: Some(FailReason::Timeout) }];
    assert_eq!(choice(&three([Failed, Failed, Failed]), Some(&last)), (vec![11, 13], vec![], hold.clone()));
    assert_eq!(choice(&three([Failed, Failed, Failed]), None), (vec![11, 12, 13], vec![], hold));
}

#[test]
fn one_that_answers_again_is_better_than_none() {
    let mut view = three([State::Failed, State::Failed, State::Failed]);
    let held = BackendHealth { answering: true, ending: false, failing: None, ..health(State::Failed) };
    view.backends.insert(backend(12), held);
    assert_eq!(choice(&view, None), (vec![12], vec![11, 13], vec![Hold::NoneReady { vip: vip() }]));
}

#[test]
fn certificates_that_nobody_can_verify_are_told_apart_from_silence() {
    let mut view = three([State::Healthy, State::Healthy, State::Healthy]);
    for health in view.backends.values_mut() {
        health.failing = Some(FailReason::BadCertificate);
    }
    let (backends, dead, holds) = choice(&view, None);
    assert_eq!((backends, dead), (vec![11, 12, 13], vec![]));
    assert!(holds[0].to_string().contains("clock"), "{}", holds[0]);
    assert!(holds[0].keeps());
}

#[test]
fn a_removed_one_is_used_only_when_no_published_one_answers() {
    let mut view = three([State::Healthy, State::Failed, State::Failed]);
    let removed = BackendHealth { published: false, ..health(State::Draining) };
    view.backends.insert(backend(14), removed);
    assert_eq!(choice(&view, None), (vec![11], vec![12, 13], vec![]));
    view.backends.insert(backend(11), health(State::Failed));
    assert_eq!(choice(&view, None).0, [14]);
    view.backends.insert(backend(11), health(State::Healthy));
    view.backends.insert(backend(14), BackendHealth { published: false, ..health(State::Failed) });
    assert_eq!(choice(&view, None).1, [12, 13, 14], "its flows hang like any other's");
}

#[test]
fn an_emptied_service_still_follows_the_health_of_its_last_backends() {
    let good = desire(&three([State::Healthy; 3]), None, &NodeView::default(), &policy()).0;
    for service in [ServiceStatus::Missing, ServiceStatus::Found] {
        let frontends = if service == ServiceStatus::Found { vec![frontend(VIP, &[])] } else { vec![] };
        let mut view = view(&snapshot(service, frontends));
        view.backends = three([State::Healthy, State::Failed, State::Healthy]).backends;
        let (backends, dead, holds) = choice(&view, Some(&good));
        assert_eq!((backends, dead, holds.len()), (vec![11, 13], vec![12], 1));
        let (before, _) = desire(&view, Some(&good), &NodeView::default(), &policy());
        view.backends = three([State::Healthy; 3]).backends;
        assert_eq!(choice(&view, Some(&before)).0, [11, 12, 13], "it came back");
    }
}

fn any_view() -> impl Strategy<Value = HealthView> {
    let state = prop::sample::select(State::ALL.to_vec());
    let one = (state, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (any_snapshot(), prop::collection::btree_map(1u8..6, one, 0..6)).prop_map(|(snapshot, states)| {
        let mut view = view(&snapshot);
        view.backends = states
            .into_iter()
            .map(|(last, (state, published, answering, ending, failing))| {
                let failing = failing.then_some(FailReason::Refused);
                (backend(last), BackendHealth { published, answering, ending, failing, ..health(state) })
            })
            .collect();
        view
    })
}

proptest! {
    #[test]
    fn whatever_probes_say_there_is_a_way_and_no_dead_one_is_used(history in prop::collection::vec(any_view(), 1..12)) {
        let mut last: Option<DesiredState> = None;
        for view in history {
            let (state, _) = desire(&view, last.as_ref(), &NodeView::default(), &policy());
            for frontend in &state.frontends {
                prop_assert!(!frontend.backends.is_empty());
                prop_assert!(frontend.backends.is_sorted() && frontend.dead.is_sorted());
                prop_assert!(frontend.dead.iter().all(|b| !frontend.backends.contains(b)));
                let nobody = frontend.backends.iter().all(|b| {
                    view.backends.get(b).is_some_and(|h| h.state == State::Failed && !h.answering)
                });
                prop_assert!(!nobody || frontend.dead.is_empty(), "no flow is ended while all are down");
            }
            for published in view.snapshot.frontends.iter().filter(|f| !f.backends.is_empty()) {
                prop_assert!(state.frontends.iter().any(|f| f.vip == published.vip));
            }
            let again = desire(&view, Some(&state), &NodeView::default(), &policy()).0;
            prop_assert_eq!(&again, &state, "the same view again changes nothing");
            last = Some(state);
        }
    }
}
