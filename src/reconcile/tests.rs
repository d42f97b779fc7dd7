use std::net::SocketAddr;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::LocalSet;
use tokio::time::advance;

use super::*;
use crate::dataplane::fake::FakeFlows;
use crate::dataplane::fake::FakeKernel;
use crate::model::balance::Balance;
use crate::model::desired::{Masquerade, NodeView, PreferredSource, SourceAddress};
use crate::model::health::{HealthState, sample as health};
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot};
use crate::model::verdict::Verdict;
use crate::proxy::fake::FakeForwarder;

struct Rig {
    kernel: FakeKernel,
    metrics: Arc<Metrics>,
    flows: FakeFlows,
    forwarder: FakeForwarder,
    views: watch::Sender<Option<HealthView>>,
    reports: watch::Receiver<Report>,
    queries: mpsc::Sender<TotalsQuery>,
    stop: watch::Sender<bool>,
}

/// Runs `test` beside a reconciler on a fake kernel, on a paused clock.
fn with_reconciler<F: Future<Output = ()>>(test: impl FnOnce(Rig) -> F) {
    with_mode(Mode::Nftables, test);
}

/// The same in another mode.
fn with_mode<F: Future<Output = ()>>(mode: Mode, test: impl FnOnce(Rig) -> F) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(LocalSet::new().run_until(async {
        let kernel = FakeKernel::default();
        let metrics = Arc::new(Metrics::default());
        let flows = FakeFlows::default();
        let forwarder = FakeForwarder::default();
        let (views, views_out) = watch::channel(None);
        let (reports_in, reports) = watch::channel(Report::default());
        let (queries, queries_out) = mpsc::channel(1);
        let (stop, stop_out) = watch::channel(false);
        let policy = Policy {
            service: "default/kubernetes".parse().unwrap(),
            masquerade: Masquerade::Auto,
            cluster_cidrs: Vec::new(),
            balance: Balance::Random,
        };
        let (dataplane, host) = (kernel.clone(), kernel.clone());
        let parts = Parts { dataplane, host, flows: flows.clone(), forwarder: forwarder.clone() };
        let reconciler = Reconciler::new(parts, (mode, false), policy, Arc::clone(&metrics), reports_in);
        let predecessor = watch::channel(false).1;
        let inputs = Inputs { views: views_out, queries: queries_out, stop: stop_out, predecessor };
        let running = tokio::task::spawn_local(reconciler.run(inputs));
        let done = stop.clone();
        test(Rig { kernel, metrics, flows, forwarder, views, reports, queries, stop }).await;
        done.send_replace(true);
        running.await.unwrap();
    }));
}

impl Rig {
    /// Publishes a snapshot and waits until the reconciler has dealt with it.
    async fn publish(&mut self, generation: u64, service: ServiceStatus, backends: &[u8]) {
        self.show(view(generation, service, backends)).await;
    }

    /// Gives the reconciler a view and waits until it has dealt with it.
    async fn show(&mut self, view: HealthView) {
        self.views.send_replace(Some(view));
        self.reports.changed().await.unwrap();
        self.reports.borrow_and_update();
    }

    fn backends(&self) -> Vec<Backend> {
        self.kernel.programmed().map(|s| s.frontends[0].backends.clone()).unwrap_or_default()
    }

    fn metrics_text(&self) -> String {
        let connection = crate::kube::Connection::default();
        self.metrics.encode(Verdict::Healthy, &connection, &BTreeMap::new()).unwrap()
    }
}

/// A snapshot of one virtual IP that was not probed.
fn view(generation: u64, service: ServiceStatus, backends: &[u8]) -> HealthView {
    let frontend = Frontend {
        vip: SocketAddr::from(([10, 96, 0, 1], 443)),
        port_name: String::new(),
        affinity: Affinity::None,
        backends: backends.iter().map(|n| backend(*n)).collect(),
    };
    let frontends = if service == ServiceStatus::Found { vec![frontend] } else { Vec::new() };
    let snapshot = Arc::new(Snapshot { generation, service, frontends, rejected: BTreeSet::new() });
    HealthView::unprobed(snapshot, Instant::now())
}

fn backend(n: u8) -> Backend {
    SocketAddr::from(([192, 0, 2, n], 6443))
}

#[test]
fn nothing_is_touched_before_the_first_view() {
    with_reconciler(async |rig| {
        advance(Duration::from_secs(60)).await;
        assert_eq!(rig.kernel.commits(), 0);
        assert_eq!(rig.reports.borrow().phase, Phase::Starting);
    });
}

#[test]
fn a_first_view_without_backends_leaves_the_kernel_as_it_is() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[]).await;
        assert_eq!(rig.kernel.commits(), 0);
        assert_eq!(rig.reports.borrow().phase, Phase::Waiting);
        rig.publish(2, ServiceStatus::Missing, &[]).await;
        assert_eq!(rig.kernel.commits(), 0);
    });
}

#[test]
fn a_change_is_programmed_once_and_the_same_view_again_is_not() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11, 12]).await;
        assert_eq!(rig.backends(), [backend(11), backend(12)]);
        rig.publish(2, ServiceStatus::Found, &[11, 12]).await;
        assert_eq!(rig.kernel.commits(), 1);
        rig.publish(3, ServiceStatus::Found, &[12]).await;
        assert_eq!(rig.backends(), [backend(12)]);
        assert_eq!(rig.kernel.commits(), 2);
    });
}

#[test]
fn an_emptied_service_keeps_the_last_good_rules_and_says_so() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.publish(2, ServiceStatus::Found, &[]).await;
        assert_eq!(rig.backends(), [backend(11)]);
        assert_eq!(rig.reports.borrow().fail_open.len(), 1);
        rig.publish(3, ServiceStatus::Missing, &[]).await;
        assert_eq!(rig.reports.borrow().fail_open, [FailOpenReason::ServiceMissing]);
        assert_eq!(rig.kernel.commits(), 1);
        assert_eq!(rig.reports.borrow().phase, Phase::Programmed);
    });
}

#[test]
fn a_refused_commit_is_tried_again_until_the_kernel_takes_it() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.kernel.set_failing(true);
        rig.publish(2, ServiceStatus::Found, &[12]).await;
        let report = rig.reports.borrow().clone();
        assert_eq!(report.phase, Phase::Failed);
        assert!(report.last_error.unwrap().contains("commit the transaction"));
        assert_eq!(rig.backends(), [backend(11)], "what stood before still stands");
        rig.kernel.set_failing(false);
        rig.reports.changed().await.unwrap();
        assert_eq!(rig.backends(), [backend(12)]);
        let text = rig.metrics_text();
        assert!(!text.contains("apivip_commits_total{outcome=\"failed\"} 0"), "{text}");
    });
}

#[test]
fn commit_without_reply_is_repeated_although_nothing_changed() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.kernel.set_unanswered(true);
        rig.publish(2, ServiceStatus::Found, &[12]).await;
        assert!(rig.reports.borrow().last_error.clone().unwrap().contains("no answer"));
        rig.kernel.set_unanswered(false);
        rig.publish(3, ServiceStatus::Found, &[11]).await;
        assert_eq!((rig.kernel.commits(), rig.backends()), (2, vec![backend(11)]));
        // Once that has an answer, nothing is left to be done.
        rig.publish(4, ServiceStatus::Found, &[11]).await;
        assert_eq!(rig.kernel.commits(), 2);
    });
}

#[test]
fn late_commit_is_repaired() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11]).await;
        rig.kernel.set_unanswered(true);
        rig.publish(2, ServiceStatus::Found, &[12]).await;
        rig.publish(3, ServiceStatus::Found, &[11]).await;
        rig.kernel.commit_late();
        rig.kernel.set_unanswered(false);
        tokio::time::sleep(RETRY_MAX * 2).await;
        assert_eq!(rig.backends(), [backend(11)]);
        assert_eq!(rig.reports.borrow().phase, Phase::Programmed);
    });
}

#[test]
fn totals_go_on_when_a_backend_leaves() {
    with_reconciler(async |mut rig| {
        rig.publish(1, ServiceStatus::Found, &[11, 12]).await;
        rig.kernel.set_connections(backend(11), 7);
        rig.publish(2, ServiceStatus::Found, &[12]).await;
        let (query, answer) = oneshot::channel();
        rig.queries.send(query).await.unwrap();
        assert_eq!(answer.await.unwrap()[&backend(11)], 7);
    });
}

#[test]
fn a_stop_ends_it_even_if_the_api_client_is_gone() {
    with_reconciler(async |rig| {
        drop(rig.views);
        advance(Duration::from_secs(1)).await;
        rig.stop.send_replace(true);
    });
}

mod deaths;
mod node;
mod paths;
mod repairs;

fn measured(base: &HealthView, micros: u64) -> HealthView {
    let mut view = base.clone();
    view.noticed = Instant::now();
    view.backends = BTreeMap::from([(backend(11), health(HealthState::Healthy))]);
    view.backends.values_mut().for_each(|health| health.round_trip = Some(Duration::from_micros(micros)));
    view
}

#[test]
fn changed_round_trip_is_reported_without_commit() {
    with_reconciler(async |mut rig| {
        let base = view(1, ServiceStatus::Found, &[11]);
        let first = measured(&base, 500);
        rig.show(first.clone()).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        rig.reports.borrow_and_update();
        let (asked, commits) = (rig.kernel.asked(), rig.kernel.commits());
        let mut later = measured(&base, 9000);
        later.backends.values_mut().zip(first.backends.values()).for_each(|(later, first)| {
            (later.since, later.noticed) = (first.since, first.noticed);
        });
        rig.show(later).await;
        let report = rig.reports.borrow().clone();
        let shown = report.view.unwrap().backends[&backend(11)].round_trip;
        assert_eq!((report.phase, shown), (Phase::Programmed, Some(Duration::from_millis(9))));
        assert_eq!((rig.kernel.asked(), rig.kernel.commits()), (asked, commits));
        // Any other change is reconciled.
        rig.publish(2, ServiceStatus::Found, &[11]).await;
        assert!(rig.kernel.asked() > asked);
    });
}
