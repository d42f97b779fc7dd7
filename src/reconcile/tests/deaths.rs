//! What follows when backends die: rules first, then their flows, with or without the help of a rule.

use super::*;
use crate::dataplane::flows::{FlowOrder, Purpose};
use crate::model::health::{BackendHealth, FailReason, HealthState, Trigger};

/// Backends 11 to 13, of which these are down.
fn view(down: &[u8]) -> HealthView {
    let now = Instant::now();
    let frontend = Frontend {
        vip: SocketAddr::from(([10, 96, 0, 1], 443)),
        port_name: String::new(),
        affinity: Affinity::None,
        backends: [11, 12, 13].map(backend).to_vec(),
    };
    let snapshot = Snapshot {
        generation: 1,
        service: ServiceStatus::Found,
        frontends: vec![frontend],
        rejected: BTreeSet::new(),
    };
    let health = |last: u8| {
        let is_down = down.contains(&last);
        let health = BackendHealth {
            state: if is_down { HealthState::Failed } else { HealthState::Healthy },
            since: now,
            noticed: now,
            trigger: Trigger::ProbeFailed,
            published: true,
            answering: !is_down,
            challenge_at: None,
            silent_since: None,
            termination_blocked: None,
            end_flows: is_down,
            failure: is_down.then_some(FailReason::Refused),
            round_trip: None,
            hold_down_until: None,
            readyz: None,
        };
        (backend(last), health)
    };
    HealthView { snapshot: Arc::new(snapshot), noticed: now, backends: [11, 12, 13].map(health).into() }
}

fn ordered(orders: &[FlowOrder]) -> Vec<(Backend, bool)> {
    let own_reset = |order: &FlowOrder| order.purpose == Purpose::Reset { own_reset: true };
    assert!(orders.iter().all(|order| order.purpose.ends()));
    orders.iter().map(|order| (order.backend, own_reset(order))).collect()
}

#[test]
fn dead_backend_leaves_the_rules_and_its_flows_are_ended_once() {
    with_reconciler(async |mut rig| {
        rig.show(view(&[])).await;
        assert!(rig.flows.orders().is_empty());
        rig.show(view(&[13])).await;
        assert_eq!(rig.backends(), [backend(11), backend(12)]);
        assert_eq!(rig.kernel.programmed().unwrap().frontends[0].failed, [backend(13)]);
        assert_eq!(ordered(&rig.flows.orders()), [(backend(13), false)]);
        assert_eq!(rig.flows.orders()[0].vips, [SocketAddr::from(([10, 96, 0, 1], 443))]);
        rig.show(view(&[12, 13])).await;
        assert_eq!(ordered(&rig.flows.orders()), [(backend(13), false), (backend(12), false)]);
        assert!(rig.flows.finish(backend(13), |report| report.flows = 7));
        rig.show(view(&[12, 13])).await;
        let text = rig.metrics_text();
        assert!(text.contains("apivip_flows_ended_total{method=\"reset\"} 7"), "{text}");
        assert!(text.contains("apivip_transitions_total{to=\"failed\",reason=\"refused\"} 2"), "{text}");
    });
}

#[test]
fn a_backend_that_is_back_keeps_its_new_flows() {
    with_reconciler(async |mut rig| {
        rig.show(view(&[13])).await;
        assert_eq!(rig.flows.under_way().len(), 1);
        rig.show(view(&[])).await;
        assert!(rig.flows.under_way().is_empty());
        rig.show(view(&[13])).await;
        assert_eq!(rig.flows.orders().len(), 2, "it died again");
    });
}

#[test]
fn set_of_dead_backends_is_refreshed_while_they_are_dead() {
    with_reconciler(async |mut rig| {
        rig.show(view(&[])).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(rig.kernel.refreshed().is_empty(), "nobody is dead");
        rig.show(view(&[13])).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        assert_eq!(rig.kernel.refreshed(), vec![[backend(13)].into(); 2], "every 20 s");
        // It is back, and the rules that say so are refused.
        rig.kernel.set_failing(true);
        rig.views.send_replace(Some(view(&[])));
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(rig.kernel.refreshed()[2..], [BTreeSet::new()]);
        rig.kernel.set_failing(false);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(rig.kernel.refreshed().len(), 3);
    });
}

#[test]
fn while_all_are_down_nothing_changes() {
    with_reconciler(async |mut rig| {
        rig.show(view(&[])).await;
        rig.show(view(&[11, 12, 13])).await;
        assert_eq!((rig.backends().len(), rig.kernel.commits()), (3, 1));
        assert!(rig.flows.orders().is_empty());
        assert!(rig.reports.borrow().fail_open[0].to_string().contains("refused"));
    });
}

#[test]
fn flows_are_ended_although_the_commit_is_blocked() {
    with_reconciler(async |mut rig| {
        rig.show(view(&[])).await;
        rig.kernel.set_blocked(true);
        rig.views.send_replace(Some(view(&[13])));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(ordered(&rig.flows.orders()), [(backend(13), true)]);
        rig.views.send_replace(Some(view(&[12, 13])));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(ordered(&rig.flows.orders()), [(backend(13), true), (backend(12), true)]);
        // What became of them is told at once, too.
        assert!(rig.flows.finish(backend(13), |report| (report.flows, report.sockets) = (5, 5)));
        tokio::time::sleep(Duration::from_millis(1)).await;
        // Of this one the rules that wait do not know yet.
        assert!(rig.flows.finish(backend(12), |report| report.flows = 3));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let text = rig.metrics_text();
        assert!(text.contains("apivip_flows_ended_total{method=\"socket\"} 5"), "{text}");
        rig.kernel.set_blocked(false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(rig.backends(), [backend(11)]);
        assert_eq!(ordered(&rig.flows.under_way()), [(backend(13), false), (backend(12), false)]);
        // The order began again under the rules, and found nobody who was not told.
        assert!(rig.flows.finish(backend(13), |_| {}));
        tokio::time::sleep(Duration::from_millis(1)).await;
        let report = rig.reports.borrow().clone();
        let of = |backend| report.transitions.iter().find(|t| t.backend == backend).unwrap();
        assert_eq!(of(backend(13)).ended.map(|ended| (ended.flows, ended.remaining)), Some((5, 0)));
        assert_eq!(of(backend(12)).ended.map(|ended| (ended.flows, ended.remaining)), Some((3, 0)));
    });
}

#[test]
fn flows_are_ended_although_the_kernel_refuses_the_rules() {
    with_reconciler(async |mut rig| {
        rig.show(view(&[])).await;
        rig.kernel.set_failing(true);
        rig.show(view(&[13])).await;
        assert_eq!(ordered(&rig.flows.orders()), [(backend(13), true)]);
        rig.kernel.set_failing(false);
        rig.reports.changed().await.unwrap();
        assert_eq!(ordered(&rig.flows.under_way()), [(backend(13), false)]);
    });
}
