//! What the reconciler knows of the node, and what it does while the kernel does not tell, or does not make routes.

use super::*;
use crate::dataplane::fake::RtnetlinkMode;

/// The node's address is the right source for this backend.
fn node(last: u8) -> NodeView {
    let source = PreferredSource::Address(SourceAddress::anywhere([192, 0, 2, 1].into()));
    NodeView { preferred: BTreeMap::from([(backend(last).ip(), source)]), ..NodeView::default() }
}

fn preferred(rig: &Rig) -> usize {
    rig.kernel.programmed().unwrap().source.preferred.len()
}

#[test]
fn a_change_of_the_node_is_programmed() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.kernel.set_node(node(11));
        rig.reports.changed().await.unwrap();
        assert_eq!((rig.kernel.commits(), preferred(&rig)), (2, 1));
    });
}

#[test]
fn first_commit_waits_briefly_for_the_node_lookup() {
    with_reconciler(async |mut rig| {
        rig.kernel.set_node(node(11));
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        assert_eq!((rig.kernel.commits(), preferred(&rig)), (1, 1));
    });
    with_reconciler(async |rig| {
        rig.kernel.set_node(node(11));
        rig.kernel.set_routing(RtnetlinkMode::Waits);
        let before = tokio::time::Instant::now();
        rig.views.send_replace(Some(view(1, ServiceStatus::Found, &[11])));
        while rig.kernel.commits() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(before.elapsed() <= Duration::from_millis(1020), "{:?}", before.elapsed());
        assert_eq!(preferred(&rig), 0);
        rig.kernel.set_routing(RtnetlinkMode::Answers);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!((rig.kernel.commits(), preferred(&rig)), (2, 1));
        assert_eq!(rig.reports.borrow().phase, Phase::Programmed);
    });
}

#[test]
fn new_backend_is_programmed_before_the_node_lookup() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.kernel.set_routing(RtnetlinkMode::Waits);
        let before = tokio::time::Instant::now();
        rig.views.send_replace(Some(view(2, ServiceStatus::Found, &[12])));
        while rig.backends() != [backend(12)] {
            tokio::task::yield_now().await;
        }
        assert_eq!(before.elapsed(), Duration::ZERO);
        // Nor does the next change wait for the routes of this one.
        rig.views.send_replace(Some(view(3, ServiceStatus::Found, &[13])));
        while rig.backends() != [backend(13)] {
            tokio::task::yield_now().await;
        }
        assert_eq!(before.elapsed(), Duration::ZERO);
        rig.kernel.set_node(node(13));
        rig.kernel.set_routing(RtnetlinkMode::Answers);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(preferred(&rig), 1);
    });
}

#[test]
fn last_node_lookup_is_used_while_lookups_fail() {
    with_reconciler(async |mut rig| {
        rig.kernel.set_node(node(11));
        rig.publish(1, ServiceStatus::Found, &[11, 12]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.reports.borrow_and_update();
        rig.kernel.set_routing(RtnetlinkMode::Refuses);
        rig.publish(2, ServiceStatus::Found, &[11]).await;
        assert_eq!((rig.backends(), preferred(&rig)), (vec![backend(11)], 1));
        let looks = rig.kernel.looks();
        rig.kernel.set_node(NodeView::default());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(preferred(&rig), 1);
        let looks = rig.kernel.looks() - looks;
        assert!((5..=11).contains(&looks), "{looks} looks in 10 s");
    });
}

#[test]
fn failed_route_is_not_reported_as_refused_rules() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.kernel.set_routing(RtnetlinkMode::Refuses);
        rig.publish(2, ServiceStatus::Found, &[12]).await;
        let report = rig.reports.borrow().clone();
        assert_eq!((report.phase, rig.backends()), (Phase::Unrouted, vec![backend(12)]));
        assert_eq!(report.programmed.unwrap().backends(), [backend(12)].into());
        assert!(report.last_error.unwrap().contains("list the node's routes"));
        rig.kernel.set_routing(RtnetlinkMode::Answers);
        tokio::time::sleep(RETRY_MAX).await;
        let report = rig.reports.borrow().clone();
        assert_eq!((report.phase, report.last_error), (Phase::Programmed, None));
        assert_eq!(rig.kernel.commits(), 2);
    });
}

#[test]
fn failed_vip_release_delays_no_commit() {
    with_mode(Mode::Auto, async |mut rig: Rig| {
        rig.kernel.set_failing(true);
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.forwarder.set_connections(1);
        rig.kernel.set_failing(false);
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.kernel.set_routing(RtnetlinkMode::Waits);
        rig.forwarder.set_connections(0);
        let before = tokio::time::Instant::now();
        rig.views.send_replace(Some(view(2, ServiceStatus::Found, &[12])));
        while rig.backends() != [backend(12)] {
            tokio::task::yield_now().await;
        }
        assert_eq!(before.elapsed(), Duration::ZERO);
        rig.kernel.set_routing(RtnetlinkMode::Answers);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((rig.kernel.local_vip(), rig.kernel.programmed().unwrap().forwarding), (None, false));
    });
}
