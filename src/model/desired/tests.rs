use std::sync::Arc;
use std::time::Instant;

use proptest::prelude::*;

use super::*;
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
    desire(&view(&snapshot), None, &NodeView::default(), &policy()).0
}

#[test]
fn a_service_that_is_gone_or_headless_keeps_the_last_good_rules() {
    for (status, hold) in [
        (ServiceStatus::Missing, Hold::ServiceMissing),
        (ServiceStatus::Headless, Hold::ServiceHeadless),
        (ServiceStatus::Unusable, Hold::ServiceUnusable),
    ] {
        let (state, holds) =
            desire(&view(&snapshot(status, vec![])), Some(&good()), &NodeView::default(), &policy());
        assert_eq!(state, good());
        assert_eq!(holds, [hold]);
        assert!(holds[0].keeps());
    }
}

#[test]
fn empty_slices_keep_the_last_good_backends_of_that_virtual_ip_only() {
    let snapshot = found(vec![
        frontend("10.96.0.1:443", &[]),
        frontend("[fd00:10:96::1]:443", &["[2001:db8::11]:6443"]),
    ]);
    let (state, holds) = desire(&view(&snapshot), Some(&good()), &NodeView::default(), &policy());
    assert_eq!(state.frontends[0], good().frontends[0]);
    assert_eq!(state.frontends[1].backends, ["[2001:db8::11]:6443".parse().unwrap()]);
    assert_eq!(holds, [Hold::NoEndpoints { vip: "10.96.0.1:443".parse().unwrap(), kept: true }]);
}

#[test]
fn a_virtual_ip_that_never_had_a_backend_is_left_alone() {
    let (state, holds) =
        desire(&view(&found(vec![frontend("10.96.0.1:443", &[])])), None, &NodeView::default(), &policy());
    assert!(state.frontends.is_empty());
    assert_eq!(holds, [Hold::NoEndpoints { vip: "10.96.0.1:443".parse().unwrap(), kept: false }]);
    assert!(!holds[0].keeps());
}

#[test]
fn a_recreated_service_moves_to_its_new_virtual_ip() {
    let snapshot = found(vec![frontend("10.96.0.9:443", &["192.0.2.11:6443"])]);
    let (state, holds) = desire(&view(&snapshot), Some(&good()), &NodeView::default(), &policy());
    let vips: Vec<_> = state.frontends.iter().map(|f| f.vip.to_string()).collect();
    assert_eq!(vips, ["10.96.0.9:443"]);
    assert!(holds.is_empty());
}

#[test]
fn an_address_that_another_component_bound_has_no_guard() {
    let snapshot = found(vec![frontend("10.96.0.1:443", &["192.0.2.11:6443"])]);
    let node = NodeView { taken_vips: BTreeSet::from(["10.96.0.1".parse().unwrap()]), ..NodeView::default() };
    assert!(!desire(&view(&snapshot), None, &node, &policy()).0.frontends[0].guard);
    assert!(desire(&view(&snapshot), None, &NodeView::default(), &policy()).0.frontends[0].guard);
}

#[test]
fn only_sources_that_a_rule_can_use_are_part_of_the_state() {
    let snapshot = found(vec![frontend("10.96.0.1:443", &["192.0.2.11:6443"])]);
    let source = PreferredSource::Address(Source::anywhere("192.0.2.1".parse().unwrap()));
    let preferred = ["192.0.2.11", "192.0.2.99"].map(|b| (b.parse().unwrap(), source.clone())).into();
    let node = NodeView { preferred, ..NodeView::default() };
    let state = desire(&view(&snapshot), None, &node, &policy()).0;
    assert_eq!(state.source.preferred.len(), 1);
    let never = Policy { masquerade: Masquerade::Never, ..policy() };
    assert!(desire(&view(&snapshot), None, &node, &never).0.source.preferred.is_empty());
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
            let (state, holds) = desire(&view(&snapshot), last.as_ref(), &NodeView::default(), &policy());
            prop_assert!(state.frontends.iter().all(|f| !f.backends.is_empty()));
            for before in last.iter().flat_map(|l| &l.frontends) {
                let gone = snapshot.service == ServiceStatus::Found && !snapshot.frontends.iter().any(|f| f.vip == before.vip);
                prop_assert!(gone || state.frontends.iter().any(|f| f.vip == before.vip));
            }
            let again = desire(&view(&snapshot), Some(&state), &NodeView::default(), &policy());
            prop_assert_eq!(&again.0, &state, "the same view again changes nothing");
            let kept = holds.iter().filter(|h| h.keeps()).count();
            prop_assert!(kept == 0 || last.is_some() || snapshot.service != ServiceStatus::Found);
            last = Some(state);
        }
    }
}

mod health;
