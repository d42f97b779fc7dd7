//! Owns the detector and the probers: takes in snapshots and what the probers found, tells the probers how often to probe,
//! watches clients' own connections to a silent backend, and publishes views.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant as StdInstant;

use futures_util::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::detector::{Detector, Directive};
use super::probe::{ProberEvent, ProberEventKind, Target};
use super::prober::{Prober, ProberOrder, ProberState};
use super::schedule::{Intervals, PingTicker, ProbeSchedule};
use super::view::{self, PortAliases};
use super::{ClientFlowMonitor, Inputs, ProbeConfig};
use crate::model::health::{HealthView, ProbeOutcome, Trigger};
use crate::model::snapshot::{PublishedSnapshot, Snapshot};
use crate::model::types::{Backend, Vip};
use crate::transport::readyz::kept_open::ProbeRequests;

/// The capacity of the event channel. Probers wait when it is full.
const EVENTS: usize = 64;

/// The health monitor and all that it starts. Dropping it ends the probers.
pub(super) struct HealthMonitor {
    config: ProbeConfig,
    ticker: PingTicker,
    requests: ProbeRequests,
    inputs: Inputs,
    views: watch::Sender<Option<HealthView>>,
    detector: Detector,
    flow_watches: ClientFlowWatches,
    port_aliases: PortAliases,
    snapshot: Option<Arc<Snapshot>>,
    probers: BTreeMap<Backend, watch::Sender<ProberOrder>>,
    tasks: JoinSet<()>,
    events: mpsc::Sender<ProberEvent>,
    inbox: mpsc::Receiver<ProberEvent>,
    /// When each was suspected last.
    suspected: BTreeMap<Backend, Instant>,
}

enum Woken {
    SnapshotReceived(bool),
    Event(ProberEvent),
    Suspect(Backend),
    InUse(Backend),
    Deadline,
    Unwanted,
}

impl HealthMonitor {
    pub(super) fn new(config: ProbeConfig, inputs: Inputs, views: watch::Sender<Option<HealthView>>) -> Self {
        let (events, inbox) = mpsc::channel(EVENTS);
        Self {
            ticker: PingTicker::new(config.ping_interval, Instant::now().into_std(), rand::random()),
            requests: ProbeRequests::new(&config.server_name),
            detector: Detector::new(config.health, rand::random()),
            flow_watches: ClientFlowWatches::new(Arc::clone(&inputs.clients), events.clone()),
            port_aliases: PortAliases::default(),
            config,
            inputs,
            views,
            snapshot: None,
            probers: BTreeMap::new(),
            tasks: JoinSet::new(),
            events,
            inbox,
            suspected: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut published: watch::Receiver<Option<PublishedSnapshot>>) {
        published.mark_changed();
        loop {
            match self.wait(&mut published).await {
                Woken::SnapshotReceived(false) | Woken::Unwanted => return,
                Woken::SnapshotReceived(true) => {
                    let latest = published.borrow_and_update().clone();
                    if let Some(latest) = latest {
                        self.apply_snapshot(latest);
                    }
                }
                Woken::Event(event) => self.handle_events(event),
                Woken::Suspect(backend) => self.suspect(self.port_aliases.probed_at(backend)),
                Woken::InUse(backend) => {
                    if let Some(prober) = self.probers.get(&self.port_aliases.probed_at(backend)) {
                        prober.send_modify(|order| order.in_use = Some(Instant::now()));
                    }
                }
                Woken::Deadline => self.handle_deadline(),
            }
        }
    }

    async fn wait(&mut self, published: &mut watch::Receiver<Option<PublishedSnapshot>>) -> Woken {
        while self.tasks.try_join_next().is_some() {}
        let deadline = self.detector.next_deadline(Instant::now().into_std());
        tokio::select! {
            biased;
            changed = published.changed() => Woken::SnapshotReceived(changed.is_ok()),
            () = self.views.closed() => Woken::Unwanted,
            Some(event) = self.inbox.recv() => Woken::Event(event),
            Some(backend) = self.inputs.suspects.recv() => Woken::Suspect(backend),
            Some(backend) = self.inputs.in_use.recv() => Woken::InUse(backend),
            () = async {
                match deadline {
                    Some(at) => sleep_until(Instant::from_std(at)).await,
                    None => std::future::pending().await,
                }
            } => Woken::Deadline,
        }
    }

    /// The view is published before any probe.
    fn apply_snapshot(&mut self, PublishedSnapshot { snapshot, received }: PublishedSnapshot) {
        let now = Instant::now().into_std();
        self.detector.publish(&self.port_aliases.publish(&snapshot), now);
        self.snapshot = Some(snapshot);
        self.publish(now, Some(received));
        self.update_probers(&BTreeSet::new());
    }

    /// Takes this event and all that wait behind it, and draws the conclusions once: they cost as much as there are
    /// backends, and where many are silent at the same time there are as many events.
    fn handle_events(&mut self, event: ProberEvent) {
        let mut affected = BTreeSet::from([event.backend]);
        let at = self.record(event);
        for _ in 1..EVENTS {
            let Ok(event) = self.inbox.try_recv() else { break };
            affected.insert(event.backend);
            self.record(event);
        }
        self.challenge_due(Instant::now().into_std());
        self.update_probers(&affected);
        self.publish(at, None);
    }

    /// Passes one event to the detector, and returns when it happened.
    fn record(&mut self, ProberEvent { backend, what }: ProberEvent) -> StdInstant {
        let now = Instant::now().into_std();
        if !matches!(what, ProberEventKind::Probed(_)) {
            tracing::debug!(event = %"probe_signal", %backend, signal = ?what, "Received signal of a probe");
        }
        let detector = &mut self.detector;
        match what {
            ProberEventKind::Triggered(at, trigger) => {
                detector.suspect(backend, at.into_std(), trigger);
                at.into_std()
            }
            ProberEventKind::RequestOverdue { asked, now: at, trigger } => {
                detector.request_overdue(backend, asked.into_std(), at.into_std(), trigger);
                at.into_std()
            }
            ProberEventKind::ConnectOverdue { began, connected } => {
                detector.connect_overdue(backend, began.into_std(), connected, now);
                now
            }
            ProberEventKind::HandshakeCompleted { now, local } => {
                detector.handshake_completed(backend, now.into_std(), local);
                now.into_std()
            }
            ProberEventKind::HostResponded(at) => {
                detector.host_responded(backend, at.into_std());
                at.into_std()
            }
            ProberEventKind::SegmentReceived { now, data } => {
                detector.segment_received(backend, now.into_std(), data);
                now.into_std()
            }
            ProberEventKind::Challenged(at, found) => {
                detector.challenge_finished(backend, at.into_std(), found);
                at.into_std()
            }
            ProberEventKind::Probed(probe) => {
                let took = probe.finished.saturating_duration_since(probe.started);
                self.inputs.observer.probed(label(probe.outcome), took);
                detector.observe(backend, probe);
                probe.finished
            }
        }
    }

    /// Where probes get through and other connections do not, it is probed at the usual interval only.
    fn suspect(&mut self, backend: Backend) {
        let now = Instant::now();
        let rested = |last: &Instant| now.duration_since(*last) >= self.config.interval;
        if self.probers.contains_key(&backend) && self.suspected.get(&backend).is_none_or(rested) {
            self.suspected.insert(backend, now);
            self.handle_events(ProberEvent {
                backend,
                what: ProberEventKind::Triggered(now, Trigger::ConnectFailed),
            });
        }
    }

    fn handle_deadline(&mut self) {
        let now = Instant::now().into_std();
        self.detector.evaluate(now);
        self.challenge_due(now);
        self.update_probers(&BTreeSet::new());
        self.publish(now, None);
    }

    /// Challenges clients' connections where that is due.
    fn challenge_due(&mut self, now: StdInstant) {
        let vips = self.snapshot.as_ref().map(|snapshot| snapshot.frontends.iter().map(|f| f.vip).collect());
        for backend in self.detector.challenges_due(now).into_iter().chain(self.detector.removals_due(now)) {
            self.detector.challenge_started(backend, now);
            self.flow_watches.challenge(backend, vips.clone().unwrap_or_default());
        }
    }

    /// Sends every prober its directive, `affected` last: witnesses probe before it is probed again.
    fn update_probers(&mut self, affected: &BTreeSet<Backend>) {
        let now = Instant::now().into_std();
        let health = self.detector.backends(now);
        self.probers.retain(|backend, _| health.contains_key(backend));
        self.suspected.retain(|backend, _| health.contains_key(backend));
        self.flow_watches.retain(|backend| health.contains_key(backend));
        let (last, first): (Vec<Backend>, Vec<Backend>) =
            health.into_keys().partition(|backend| affected.contains(backend));
        for backend in first.into_iter().chain(last) {
            let Some(directive) = self.detector.directive(backend, now) else { continue };
            if let Some(since) = self.flow_watches.follow(backend, directive.watch_flows) {
                self.detector.watching_since(backend, since);
            }
            match self.probers.get(&backend) {
                Some(prober) => {
                    prober.send_if_modified(|known| {
                        let changed = known.directive != directive;
                        known.directive = directive;
                        changed
                    });
                }
                None => self.start(backend, directive),
            }
        }
    }

    fn start(&mut self, backend: Backend, directive: Directive) {
        let (sender, orders) = watch::channel(ProberOrder { directive, in_use: None });
        let ProbeConfig { interval, readyz_interval, ref server_name, .. } = self.config;
        let intervals = Intervals { probe: interval, readyz: readyz_interval };
        let prober = Prober {
            target: Target { address: backend, name: server_name.clone(), requests: self.requests.clone() },
            identity: self.inputs.identity.clone(),
            orders,
            kernel: Arc::clone(&self.inputs.kernel),
            events: self.events.clone(),
            schedule: ProbeSchedule::new(self.ticker.clone(), intervals, Instant::now().into_std()),
            state: ProberState::default(),
        };
        self.tasks.spawn(prober.run());
        self.probers.insert(backend, sender);
    }

    /// Sends a view if it says something new: a snapshot that was `received`, or a change of health.
    fn publish(&mut self, now: StdInstant, received: Option<StdInstant>) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        let mut backends = self.detector.backends(now);
        self.port_aliases.extend(&mut backends);
        let noticed = match &*self.views.borrow() {
            Some(last) if *last.snapshot == *snapshot => view::changed_at(&last.backends, &backends, now),
            _ => Some(received.unwrap_or(now)),
        };
        if let Some(noticed) = noticed {
            self.views.send_replace(Some(HealthView { snapshot, noticed, backends }));
        }
    }
}

fn label(outcome: ProbeOutcome) -> &'static str {
    match outcome {
        ProbeOutcome::Ready => "ready",
        ProbeOutcome::Alive => "alive",
        ProbeOutcome::Unready => "unready",
        ProbeOutcome::Failed(reason) => reason.label(),
    }
}

/// The open watches of clients' connections. Dropping it ends them.
pub(super) struct ClientFlowWatches {
    clients: Arc<dyn ClientFlowMonitor>,
    events: mpsc::Sender<ProberEvent>,
    open: BTreeMap<Backend, JoinSet<()>>,
    challenges: JoinSet<()>,
}

impl ClientFlowWatches {
    pub(super) fn new(clients: Arc<dyn ClientFlowMonitor>, events: mpsc::Sender<ProberEvent>) -> Self {
        Self { clients, events, open: BTreeMap::new(), challenges: JoinSet::new() }
    }

    /// Watches a backend from now on, or no longer. Returns since when it is, if that is new.
    pub(super) fn follow(&mut self, backend: Backend, wanted: bool) -> Option<Option<StdInstant>> {
        if !wanted {
            self.open.remove(&backend);
            return None;
        }
        if self.open.contains_key(&backend) {
            return None;
        }
        let mut task = JoinSet::new();
        let since = match self.clients.watch(backend) {
            Ok(mut arrivals) => {
                let events = self.events.clone();
                task.spawn(async move {
                    while let Some(data) = arrivals.next().await {
                        let what = ProberEventKind::SegmentReceived { now: Instant::now(), data };
                        if events.send(ProberEvent { backend, what }).await.is_err() {
                            return;
                        }
                    }
                });
                Some(StdInstant::now())
            }
            Err(error) => {
                tracing::debug!(
                    event = %"flow_watch_failed", %backend, %error,
                    "Cannot watch for packets of silent API server"
                );
                None
            }
        };
        self.open.insert(backend, task);
        Some(since)
    }

    /// Ends the watches of backends that are not tracked any more.
    pub(super) fn retain(&mut self, tracked: impl Fn(&Backend) -> bool) {
        self.open.retain(|backend, _| tracked(backend));
    }

    /// Challenges a few of clients' connections, and reports the result.
    pub(super) fn challenge(&mut self, backend: Backend, vips: Vec<Vip>) {
        while self.challenges.try_join_next().is_some() {}
        let (asked, events) = (self.clients.challenge(backend, vips), self.events.clone());
        self.challenges.spawn(async move {
            let found = asked.await;
            let what = ProberEventKind::Challenged(Instant::now(), found);
            // The receiver is gone when the daemon shuts down.
            let _ = events.send(ProberEvent { backend, what }).await;
        });
    }
}
