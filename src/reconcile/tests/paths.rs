//! When the forwarder stands in for rules, and when it no longer does.

use super::*;
use crate::dataplane::LocalVip;
use crate::model::report::TrafficPath;

fn in_use(rig: &Rig) -> TrafficPath {
    rig.reports.borrow().path.as_ref().map_or(TrafficPath::None, |path| path.in_use)
}

impl Rig {
    /// Lets some time pass, in steps.
    async fn pass(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            advance(Duration::from_millis(50)).await;
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn refused_rules_activate_the_forwarder_within_a_second_and_come_back() {
    with_mode(Mode::Auto, async |mut rig: Rig| {
        rig.kernel.set_failing(true);
        rig.publish(1, ServiceStatus::Found, &[11, 12]).await;
        rig.pass(Duration::from_secs(1)).await;
        // No rules stand whose guard would have to see it.
        assert_eq!((in_use(&rig), rig.kernel.local_vip()), (TrafficPath::Forwarder, Some(LocalVip::Ports)));
        assert_eq!(rig.forwarder.served(), [SocketAddr::from(([10, 96, 0, 1], 443))].into());
        let routes = rig.forwarder.routes().unwrap();
        assert_eq!(routes.vips.values().next().unwrap().backends, [backend(11), backend(12)]);
        let report = rig.reports.borrow().clone();
        assert_eq!(report.phase, Phase::Forwarding);
        let path = report.path.unwrap();
        assert!(path.fallback_active && path.reason.unwrap().contains("refused"));

        rig.forwarder.set_connections(3);
        rig.kernel.set_failing(false);
        rig.pass(Duration::from_secs(1)).await;
        assert_eq!((in_use(&rig), rig.kernel.local_vip()), (TrafficPath::Nftables, Some(LocalVip::Ports)));
        assert_eq!((rig.forwarder.withdrawals(), rig.forwarder.served().len()), (1, 0));
        let path = rig.reports.borrow().path.clone().unwrap();
        assert!(!path.fallback_active && path.reason.unwrap().starts_with("--mode auto"));
        assert!(rig.kernel.programmed().unwrap().forwarding, "its connections must be left alone");

        rig.forwarder.set_connections(0);
        rig.pass(Duration::from_millis(200)).await;
        assert_eq!(rig.kernel.local_vip(), None);
        let forgotten = rig.flows.forgotten();
        assert!(forgotten.iter().all(|stale| stale.vip == SocketAddr::from(([10, 96, 0, 1], 443))));
        // When the forwarder began, when rules did, and with the forwarder's last connection.
        let ended: Vec<bool> = forgotten.iter().map(|stale| stale.ended).collect();
        assert_eq!(ended, [false, false, true], "the forwarder's last packets must find their entries");
        assert!(!rig.kernel.programmed().unwrap().forwarding);
    });
}

#[test]
fn counter_queries_do_not_delay_the_retry() {
    with_mode(Mode::Auto, async |mut rig: Rig| {
        rig.kernel.set_failing(true);
        rig.publish(1, ServiceStatus::Found, &[11, 12]).await;
        let ask = async |rig: &Rig| {
            for _ in 0..20 {
                let (query, answer) = oneshot::channel();
                rig.queries.send(query).await.unwrap();
                answer.await.unwrap();
                rig.pass(Duration::from_millis(50)).await;
            }
        };
        ask(&rig).await;
        assert_eq!(in_use(&rig), TrafficPath::Forwarder);
        rig.kernel.set_failing(false);
        ask(&rig).await;
        assert_eq!(in_use(&rig), TrafficPath::Nftables);
    });
}

#[test]
fn single_refused_commit_does_not_activate_the_forwarder() {
    with_mode(Mode::Auto, async |mut rig: Rig| {
        rig.kernel.set_failing(true);
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.kernel.set_failing(false);
        rig.pass(Duration::from_secs(1)).await;
        assert_eq!((in_use(&rig), rig.kernel.local_vip()), (TrafficPath::Nftables, None));
        assert_eq!(rig.forwarder.withdrawals(), 0);
    });
}

#[test]
fn it_takes_over_again_while_its_connections_drain() {
    with_mode(Mode::Auto, async |mut rig: Rig| {
        rig.kernel.set_failing(true);
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.pass(Duration::from_secs(1)).await;
        rig.forwarder.set_connections(1);
        rig.kernel.set_failing(false);
        rig.pass(Duration::from_secs(1)).await;
        assert_eq!(rig.kernel.local_vip(), Some(LocalVip::Ports));
        rig.kernel.set_failing(true);
        rig.publish(2, ServiceStatus::Found, &[12]).await;
        rig.pass(Duration::from_secs(1)).await;
        assert_eq!((in_use(&rig), rig.kernel.local_vip()), (TrafficPath::Forwarder, Some(LocalVip::All)));
        assert_eq!(rig.forwarder.routes().unwrap().vips.values().next().unwrap().backends, [backend(12)]);
    });
}

#[test]
fn hanging_commit_activates_the_forwarder() {
    with_mode(Mode::Auto, async |mut rig: Rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.kernel.set_blocked(true);
        let snapshot = rig.reports.borrow().view.clone().unwrap().snapshot;
        let mut other = (*snapshot).clone();
        (other.generation, other.frontends[0].backends) = (2, vec![backend(12)]);
        rig.views.send_replace(Some(HealthView::unprobed(Arc::new(other), Instant::now())));
        rig.pass(Duration::from_secs(9)).await;
        assert_eq!(rig.kernel.local_vip(), None, "another program may take that long");
        rig.pass(Duration::from_secs(2)).await;
        assert_eq!(rig.kernel.local_vip(), Some(LocalVip::All));
        assert_eq!(rig.forwarder.routes().unwrap().vips.values().next().unwrap().backends, [backend(12)]);
        rig.kernel.set_blocked(false);
        rig.pass(Duration::from_secs(2)).await;
        assert_eq!((in_use(&rig), rig.kernel.local_vip()), (TrafficPath::Nftables, None));
    });
}

#[test]
fn each_mode_keeps_to_itself() {
    with_mode(Mode::Nftables, async |mut rig: Rig| {
        rig.kernel.set_failing(true);
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.pass(Duration::from_secs(20)).await;
        assert_eq!((rig.kernel.local_vip(), rig.forwarder.served().len()), (None, 0));
        assert_eq!(rig.reports.borrow().phase, Phase::Failed);
    });
    with_mode(Mode::Forwarder, async |mut rig: Rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        assert_eq!((in_use(&rig), rig.kernel.local_vip()), (TrafficPath::Forwarder, Some(LocalVip::Ports)));
        let path = rig.reports.borrow().path.clone().unwrap();
        assert_eq!((path.fallback_active, path.reason.as_deref()), (false, Some("--mode forwarder")));
        rig.publish(2, ServiceStatus::Found, &[12]).await;
        assert_eq!((rig.kernel.commits(), rig.forwarder.served().len()), (0, 1));
    });
}

#[test]
fn failed_listeners_change_nothing() {
    with_mode(Mode::Auto, async |mut rig: Rig| {
        rig.kernel.set_failing(true);
        rig.forwarder.set_failing(true);
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.pass(Duration::from_secs(3)).await;
        assert_eq!((rig.kernel.local_vip(), in_use(&rig)), (None, TrafficPath::None));
        assert_eq!(rig.reports.borrow().phase, Phase::Failed);
        rig.forwarder.set_failing(false);
        rig.pass(Duration::from_secs(6)).await;
        assert_eq!(rig.kernel.local_vip(), Some(LocalVip::Ports));
    });
}
