//! The desired state by example, and for arbitrary histories of snapshots and health.

use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::model::health::sample as health;
use crate::model::health::{BackendHealth, HealthState};
use crate::model::snapshot::Snapshot;

fn policy() -> Policy {
    Policy {
        service: "default/kubernetes".parse().unwrap(),
        masquerade: Masquerade::Auto,
        cluster_cidrs: Vec::new(),
        balance: Balance::Random,
    }
}

fn view(snapshot: &Snapshot) -> HealthView {
    HealthView::unprobed(Arc::new(snapshot.clone()), Instant::now())
}

fn frontend(vip: &str, backends: &[&str]) -> Frontend {
    Frontend {
        vip: vip.parse().unwrap(),
        port_name: "https".to_owned(),
        affinity: Affinity::None,
        backends: backends.iter().map(|b| b.parse().unwrap()).collect(),
    }
}

fn snapshot(service: ServiceStatus, frontends: Vec<Frontend>) -> Snapshot {
    Snapshot { generation: 1, service, frontends, rejected: BTreeSet::new() }
}

fn found(frontends: Vec<Frontend>) -> Snapshot {
    snapshot(ServiceStatus::Found, frontends)
}

fn good() -> DesiredState {
    let snapshot = found(vec![frontend("10.96.0.1:443", &["192.0.2.11:6443", "192.0.2.12:6443"])]);
    compute_desired_state(&view(&snapshot), None, &NodeView::default(), &policy()).0
}

#[test]
fn a_service_that_is_gone_or_headless_keeps_the_last_good_rules() {
    for (status, hold) in [
        (ServiceStatus::Missing, FailOpenReason::ServiceMissing),
        (ServiceStatus::Headless, FailOpenReason::ServiceHeadless),
        (ServiceStatus::Unusable, FailOpenReason::ServiceUnusable),
    ] {
        let (state, fail_open) = compute_desired_state(
            &view(&snapshot(status, vec![])),
            Some(&good()),
            &NodeView::default(),
            &policy(),
        );
        assert_eq!(state, good());
        assert_eq!(fail_open, [hold]);
        assert!(fail_open[0].keeps());
    }
}

#[test]
fn empty_slices_keep_the_last_good_backends_of_that_virtual_ip_only() {
    let snapshot = found(vec![
        frontend("10.96.0.1:443", &[]),
        frontend("[fd00:10:96::1]:443", &["[2001:db8::11]:6443"]),
    ]);
    let (state, fail_open) =
        compute_desired_state(&view(&snapshot), Some(&good()), &NodeView::default(), &policy());
    assert_eq!(state.frontends[0], good().frontends[0]);
    assert_eq!(state.frontends[1].backends, ["[2001:db8::11]:6443".parse().unwrap()]);
    assert_eq!(
        fail_open,
        [FailOpenReason::NoEndpoints { vip: "10.96.0.1:443".parse().unwrap(), kept: true }]
    );
}

#[test]
fn a_virtual_ip_that_never_had_a_backend_is_left_alone() {
    let (state, fail_open) = compute_desired_state(
        &view(&found(vec![frontend("10.96.0.1:443", &[])])),
        None,
        &NodeView::default(),
        &policy(),
    );
    assert!(state.frontends.is_empty());
    assert_eq!(
        fail_open,
        [FailOpenReason::NoEndpoints { vip: "10.96.0.1:443".parse().unwrap(), kept: false }]
    );
    assert!(!fail_open[0].keeps());
}

#[test]
fn a_recreated_service_moves_to_its_new_virtual_ip() {
    let snapshot = found(vec![frontend("10.96.0.9:443", &["192.0.2.11:6443"])]);
    let (state, fail_open) =
        compute_desired_state(&view(&snapshot), Some(&good()), &NodeView::default(), &policy());
    let vips: Vec<_> = state.frontends.iter().map(|f| f.vip.to_string()).collect();
    assert_eq!(vips, ["10.96.0.9:443"]);
    assert!(fail_open.is_empty());
}

#[test]
fn an_address_that_another_component_bound_has_no_guard() {
    let snapshot = found(vec![frontend("10.96.0.1:443", &["192.0.2.11:6443"])]);
    let node = NodeView { taken_vips: BTreeSet::from(["10.96.0.1".parse().unwrap()]), ..NodeView::default() };
    assert!(
        !compute_desired_state(&view(&snapshot), None, &node, &policy()).0.frontends[0].local_route_allowed
    );
    assert!(
        compute_desired_state(&view(&snapshot), None, &NodeView::default(), &policy()).0.frontends[0]
            .local_route_allowed
    );
}

#[test]
fn only_sources_that_a_rule_can_use_are_part_of_the_state() {
    let snapshot = found(vec![frontend("10.96.0.1:443", &["192.0.2.11:6443"])]);
    let source = PreferredSource::Address(SourceAddress::anywhere("192.0.2.1".parse().unwrap()));
    let preferred = ["192.0.2.11", "192.0.2.99"].map(|b| (b.parse().unwrap(), source.clone())).into();
    let node = NodeView { preferred, ..NodeView::default() };
    let state = compute_desired_state(&view(&snapshot), None, &node, &policy()).0;
    assert_eq!(state.source.preferred.len(), 1);
    let never = Policy { masquerade: Masquerade::Never, ..policy() };
    assert!(compute_desired_state(&view(&snapshot), None, &node, &never).0.source.preferred.is_empty());
}

fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let status = prop::sample::select(vec![
        ServiceStatus::Found,
        ServiceStatus::Found,
        ServiceStatus::Found,
        ServiceStatus::Missing,
        ServiceStatus::Headless,
        ServiceStatus::Unusable,
    ]);
    let backends = prop::collection::btree_set(1u8..5, 0..4);
    (status, prop::collection::vec((1u8..3, backends), 0..3)).prop_map(|(status, frontends)| {
        let frontends: BTreeMap<Vip, Frontend> = frontends
            .into_iter()
            .map(|(vip, backends)| {
                let vip = Vip::from(([10, 96, 0, vip], 443));
                let backends = backends.into_iter().map(|b| Backend::from(([192, 0, 2, b], 6443))).collect();
                (vip, Frontend { vip, port_name: String::new(), affinity: Affinity::None, backends })
            })
            .collect();
        let frontends =
            if status == ServiceStatus::Found { frontends.into_values().collect() } else { vec![] };
        snapshot(status, frontends)
    })
}

proptest! {
    #[test]
    fn no_history_ever_empties_a_virtual_ip_that_is_still_published(history in prop::collection::vec(any_snapshot(), 1..12)) {
        let mut last: Option<DesiredState> = None;
        for snapshot in history {
            let (state, fail_open) = compute_desired_state(&view(&snapshot), last.as_ref(), &NodeView::default(), &policy());
            prop_assert!(state.frontends.iter().all(|f| !f.backends.is_empty()));
            for before in last.iter().flat_map(|l| &l.frontends) {
                let gone = snapshot.service == ServiceStatus::Found && !snapshot.frontends.iter().any(|f| f.vip == before.vip);
                prop_assert!(gone || state.frontends.iter().any(|f| f.vip == before.vip));
            }
            let again = compute_desired_state(&view(&snapshot), Some(&state), &NodeView::default(), &policy());
            prop_assert_eq!(&again.0, &state, "the same view again changes nothing");
            let kept = fail_open.iter().filter(|h| h.keeps()).count();
            prop_assert!(kept == 0 || last.is_some() || snapshot.service != ServiceStatus::Found);
            last = Some(state);
        }
    }
}

const VIP: &str = "10.96.0.1:443";

fn backend(last: u8) -> Backend {
    Backend::from(([192, 0, 2, last], 6443))
}

/// Three published backends, 11 to 13, in these states.
fn three(states: [HealthState; 3]) -> HealthView {
    let mut view =
        view(&found(vec![frontend(VIP, &["192.0.2.11:6443", "192.0.2.12:6443", "192.0.2.13:6443"])]));
    view.backends = (11..).zip(states).map(|(last, state)| (backend(last), health(state))).collect();
    view
}

fn lasts(backends: &[Backend]) -> Vec<u8> {
    let last = |b: &Backend| b.ip().to_string().rsplit('.').next().unwrap().parse().unwrap();
    backends.iter().map(last).collect()
}

fn choice(view: &HealthView, last: Option<&DesiredState>) -> (Vec<u8>, Vec<u8>, Vec<FailOpenReason>) {
    let (state, fail_open) = compute_desired_state(view, last, &NodeView::default(), &policy());
    (lasts(&state.frontends[0].backends), lasts(&state.frontends[0].failed), fail_open)
}

fn vip() -> Vip {
    VIP.parse().unwrap()
}

#[test]
fn only_healthy_backends_get_new_connections() {
    use HealthState::{Draining, Failed, Healthy, Unknown};
    assert_eq!(choice(&three([Healthy, Healthy, Healthy]), None), (vec![11, 12, 13], vec![], vec![]));
    assert_eq!(
        choice(&three([Healthy, Unknown, Healthy]), None).0,
        [11, 12, 13],
        "nothing was programmed yet"
    );
    let without =
        compute_desired_state(&three([Healthy, Draining, Healthy]), None, &NodeView::default(), &policy()).0;
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
    let hold = vec![FailOpenReason::NoneReady { vip: vip() }];
    assert_eq!(choice(&three([Failed, Draining, Failed]), None), (vec![12], vec![11, 13], hold));
}

/// As after a start: the table that was found, or the first one, has them all.
#[test]
fn programmed_unprobed_backend_is_used_until_a_probe_fails() {
    use HealthState::{Healthy, Unknown};
    let last = compute_desired_state(&three([Unknown; 3]), None, &NodeView::default(), &policy()).0;
    assert_eq!(lasts(&last.frontends[0].backends), [11, 12, 13]);
    let mut view = three([Healthy, Unknown, Unknown]);
    assert_eq!(choice(&view, Some(&last)).0, [11, 12, 13]);
    view.backends
        .insert(backend(13), BackendHealth { failure: Some(FailReason::Timeout), ..health(Unknown) });
    assert_eq!(choice(&view, Some(&last)).0, [11, 12]);
    for health in view.backends.values_mut() {
        *health = BackendHealth { failure: Some(FailReason::Timeout), ..*health };
        health.state = Unknown;
    }
    assert_eq!(choice(&view, Some(&last)).0, [11, 12, 13], "better than none");
}

#[test]
fn all_down_keeps_the_last_backends_and_ends_no_flow() {
    use HealthState::{Failed, Healthy};
    let last =
        compute_desired_state(&three([Healthy, Failed, Healthy]), None, &NodeView::default(), &policy()).0;
    let hold = vec![FailOpenReason::NoneAnswers { vip: vip(), reason: Some(FailReason::Timeout) }];
    assert_eq!(choice(&three([Failed, Failed, Failed]), Some(&last)), (vec![11, 13], vec![], hold.clone()));
    assert_eq!(choice(&three([Failed, Failed, Failed]), None), (vec![11, 12, 13], vec![], hold));
}

#[test]
fn answering_backend_is_used_if_no_other_is_usable() {
    let mut view = three([HealthState::Failed, HealthState::Failed, HealthState::Failed]);
    let held =
        BackendHealth { answering: true, end_flows: false, failure: None, ..health(HealthState::Failed) };
    view.backends.insert(backend(12), held);
    assert_eq!(choice(&view, None), (vec![12], vec![11, 13], vec![FailOpenReason::NoneReady { vip: vip() }]));
}

#[test]
fn certificates_that_nobody_can_verify_are_told_apart_from_silence() {
    let mut view = three([HealthState::Healthy, HealthState::Healthy, HealthState::Healthy]);
    for health in view.backends.values_mut() {
        health.failure = Some(FailReason::BadCertificate);
    }
    let (backends, dead, fail_open) = choice(&view, None);
    assert_eq!((backends, dead), (vec![11, 12, 13], vec![]));
    assert!(fail_open[0].to_string().contains("clock"), "{}", fail_open[0]);
    assert!(fail_open[0].keeps());
}

#[test]
fn a_removed_one_is_used_only_when_no_published_one_answers() {
    let mut view = three([HealthState::Healthy, HealthState::Failed, HealthState::Failed]);
    let removed = BackendHealth { published: false, ..health(HealthState::Draining) };
    view.backends.insert(backend(14), removed);
    assert_eq!(choice(&view, None), (vec![11], vec![12, 13], vec![]));
    view.backends.insert(backend(11), health(HealthState::Failed));
    assert_eq!(choice(&view, None).0, [14]);
    view.backends.insert(backend(11), health(HealthState::Healthy));
    view.backends.insert(backend(14), BackendHealth { published: false, ..health(HealthState::Failed) });
    assert_eq!(choice(&view, None).1, [12, 13, 14], "its flows hang like any other's");
}

#[test]
fn an_emptied_service_still_follows_the_health_of_its_last_backends() {
    let good =
        compute_desired_state(&three([HealthState::Healthy; 3]), None, &NodeView::default(), &policy()).0;
    for service in [ServiceStatus::Missing, ServiceStatus::Found] {
        let frontends = if service == ServiceStatus::Found { vec![frontend(VIP, &[])] } else { vec![] };
        let mut view = view(&snapshot(service, frontends));
        view.backends = three([HealthState::Healthy, HealthState::Failed, HealthState::Healthy]).backends;
        let (backends, dead, fail_open) = choice(&view, Some(&good));
        assert_eq!((backends, dead, fail_open.len()), (vec![11, 13], vec![12], 1));
        let (before, _) = compute_desired_state(&view, Some(&good), &NodeView::default(), &policy());
        view.backends = three([HealthState::Healthy; 3]).backends;
        assert_eq!(choice(&view, Some(&before)).0, [11, 12, 13], "it came back");
    }
}

fn any_view() -> impl Strategy<Value = HealthView> {
    let state = prop::sample::select(HealthState::ALL.to_vec());
    let one = (state, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (any_snapshot(), prop::collection::btree_map(1u8..6, one, 0..6)).prop_map(|(snapshot, states)| {
        let mut view = view(&snapshot);
        view.backends = states
            .into_iter()
            .map(|(last, (state, published, answering, end_flows, failure))| {
                let failure = failure.then_some(FailReason::Refused);
                (backend(last), BackendHealth { published, answering, end_flows, failure, ..health(state) })
            })
            .collect();
        view
    })
}

proptest! {
    #[test]
    fn any_health_leaves_a_backend_and_uses_no_dead_one(history in prop::collection::vec(any_view(), 1..12)) {
        let mut last: Option<DesiredState> = None;
        for view in history {
            let (state, _) = compute_desired_state(&view, last.as_ref(), &NodeView::default(), &policy());
            for frontend in &state.frontends {
                prop_assert!(!frontend.backends.is_empty());
                prop_assert!(frontend.backends.is_sorted() && frontend.failed.is_sorted());
                prop_assert!(frontend.failed.iter().all(|b| !frontend.backends.contains(b)));
                let nobody = frontend.backends.iter().all(|b| {
                    view.backends.get(b).is_some_and(|h| h.state == HealthState::Failed && !h.answering)
                });
                prop_assert!(!nobody || frontend.failed.is_empty(), "no flow is ended while all are down");
            }
            for published in view.snapshot.frontends.iter().filter(|f| !f.backends.is_empty()) {
                prop_assert!(state.frontends.iter().any(|f| f.vip == published.vip));
            }
            let again = compute_desired_state(&view, Some(&state), &NodeView::default(), &policy()).0;
            prop_assert_eq!(&again, &state, "the same view again changes nothing");
            last = Some(state);
        }
    }
}
