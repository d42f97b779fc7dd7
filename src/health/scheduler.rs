//! The owner of the state machine: takes in snapshots and what the workers found, tells the workers how often to ask,
//! and publishes views.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant as StdInstant;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::beat::Beat;
use super::detector::Detector;
use super::directive::Directive;
use super::fresh::Target;
use super::path::Watches;
use super::ports::Ports;
use super::prober::{Event, Order, Prober, State, What};
use super::request::Question;
use super::timetable::{Intervals, Timetable};
use super::view;
use super::{Inputs, ProbeConfig};
use crate::model::health::{Cue, HealthView, Outcome};
use crate::model::published::Published;
use crate::model::snapshot::Snapshot;
use crate::model::types::Backend;

/// Events on their way. Workers wait when it is full.
const EVENTS: usize = 64;

/// The scheduler and all that it starts. Dropping it ends the workers.
pub(super) struct Scheduler {
    config: ProbeConfig,
    beat: Beat,
    question: Question,
    inputs: Inputs,
    views: watch::Sender<Option<HealthView>>,
    detector: Detector,
    watches: Watches,
    ports: Ports,
    snapshot: Option<Arc<Snapshot>>,
    workers: BTreeMap<Backend, watch::Sender<Order>>,
    tasks: JoinSet<()>,
    events: mpsc::Sender<Event>,
    inbox: mpsc::Receiver<Event>,
    /// When each was suspected last.
    suspected: BTreeMap<Backend, Instant>,
}

enum Woken {
    Published(bool),
    Event(Event),
    Suspect(Backend),
    InUse(Backend),
    Deadline,
    Unwanted,
}

impl Scheduler {
    pub(super) fn new(config: ProbeConfig, inputs: Inputs, views: watch::Sender<Option<HealthView>>) -> Self {
        let (events, inbox) = mpsc::channel(EVENTS);
        Self {
            beat: Beat::new(config.ping_interval, Instant::now().into_std(), rand::random()),
            question: Question::new(&config.server_name),
            detector: Detector::new(config.health, rand::random()),
            watches: Watches::new(Arc::clone(&inputs.clients), events.clone()),
            ports: Ports::default(),
            config,
            inputs,
            views,
            snapshot: None,
            workers: BTreeMap::new(),
            tasks: JoinSet::new(),
            events,
            inbox,
            suspected: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut published: watch::Receiver<Option<Published>>) {
        published.mark_changed();
        loop {
            match self.wait(&mut published).await {
                Woken::Published(false) | Woken::Unwanted => return,
                Woken::Published(true) => {
                    let latest = published.borrow_and_update().clone();
                    if let Some(latest) = latest {
                        self.take_over(latest);
                    }
                }
                Woken::Event(event) => self.learn(event),
                Woken::Suspect(backend) => self.suspect(self.ports.asked_at(backend)),
                Woken::InUse(backend) => {
                    if let Some(worker) = self.workers.get(&self.ports.asked_at(backend)) {
                        worker.send_modify(|order| order.in_use = Some(Instant::now()));
                    }
                }
                Woken::Deadline => self.pass(),
            }
        }
    }

    async fn wait(&mut self, published: &mut watch::Receiver<Option<Published>>) -> Woken {
        while self.tasks.try_join_next().is_some() {}
        let deadline = self.detector.next_deadline(Instant::now().into_std());
        tokio::select! {
            biased;
            changed = published.changed() => Woken::Published(changed.is_ok()),
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

    /// The view goes out before anyone is asked.
    fn take_over(&mut self, Published { snapshot, received }: Published) {
        let now = Instant::now().into_std();
        self.detector.publish(&self.ports.publish(&snapshot), now);
        self.snapshot = Some(snapshot);
        self.publish(now, Some(received));
        self.direct(&BTreeSet::new());
    }

    /// Takes this event and all that wait behind it, and draws the conclusions once: they cost as much as there are backends, and
    /// where many are silent at the same time there are as many events.
    fn learn(&mut self, event: Event) {
        let mut concerned = BTreeSet::from([event.backend]);
        let at = self.note(event);
        for _ in 1..EVENTS {
            let Ok(event) = self.inbox.try_recv() else { break };
            concerned.insert(event.backend);
            self.note(event);
        }
        self.ask(Instant::now().into_std());
        self.direct(&concerned);
        self.publish(at, None);
    }

    /// Tells the state machine of one event, and returns when it happened.
    fn note(&mut self, Event { backend, what }: Event) -> StdInstant {
        let now = Instant::now().into_std();
        if !matches!(what, What::Probed(_)) {
            tracing::debug!(%backend, ?what, "a sign");
        }
        let detector = &mut self.detector;
        match what {
            What::Cue(at, cue) => {
                detector.cue(backend, at.into_std(), cue);
                at.into_std()
            }
            What::Overdue { asked, now: at, cue } => {
                detector.overdue(backend, asked.into_std(), at.into_std(), cue);
                at.into_std()
            }
            What::DialOverdue { began, connected } => {
                detector.dial_overdue(backend, began.into_std(), connected, now);
                now
            }
            What::Shaken { now, local } => {
                detector.shook_hands(backend, now.into_std(), local);
                now.into_std()
            }
            What::HostHeard(at) => {
                detector.host_heard(backend, at.into_std());
                at.into_std()
            }
            What::Arrived { now, data } => {
                detector.arrived(backend, now.into_std(), data);
                now.into_std()
            }
            What::Asked(at, found) => {
                detector.asked(backend, at.into_std(), found);
                at.into_std()
            }
            What::Probed(probe) => {
                let took = probe.finished.saturating_duration_since(probe.started);
                self.inputs.observer.probed(label(probe.outcome), took);
                detector.observe(backend, probe);
                probe.finished
            }
        }
    }

    /// Where probes get through and others do not, it is asked at the usual pace only.
    fn suspect(&mut self, backend: Backend) {
        let now = Instant::now();
        let rested = |last: &Instant| now.duration_since(*last) >= self.config.interval;
        if self.workers.contains_key(&backend) && self.suspected.get(&backend).is_none_or(rested) {
            self.suspected.insert(backend, now);
            self.learn(Event { backend, what: What::Cue(now, Cue::Dial) });
        }
    }

    fn pass(&mut self) {
        let now = Instant::now().into_std();
        self.detector.look(now);
        self.ask(now);
        self.direct(&BTreeSet::new());
        self.publish(now, None);
    }

    /// Has clients' connections asked where that is due.
    fn ask(&mut self, now: StdInstant) {
        let vips = self.snapshot.as_ref().map(|snapshot| snapshot.frontends.iter().map(|f| f.vip).collect());
        for backend in self.detector.to_ask(now).into_iter().chain(self.detector.leaving(now)) {
            self.detector.asking(backend, now);
            self.watches.ask(backend, vips.clone().unwrap_or_default());
        }
    }

    /// Tells every worker what to do, `concerned` last: those that may bear witness ask before it is asked again.
    fn direct(&mut self, concerned: &BTreeSet<Backend>) {
        let now = Instant::now().into_std();
        let health = self.detector.backends(now);
        self.workers.retain(|backend, _| health.contains_key(backend));
        self.suspected.retain(|backend, _| health.contains_key(backend));
        self.watches.retain(|backend| health.contains_key(backend));
        let (last, first): (Vec<Backend>, Vec<Backend>) =
            health.into_keys().partition(|backend| concerned.contains(backend));
        for backend in first.into_iter().chain(last) {
            let Some(directive) = self.detector.directive(backend, now) else { continue };
            if let Some(since) = self.watches.follow(backend, directive.watch) {
                self.detector.watched(backend, since);
            }
            match self.workers.get(&backend) {
                Some(worker) => {
                    worker.send_if_modified(|known| {
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
        let (sender, orders) = watch::channel(Order { directive, in_use: None });
        let ProbeConfig { interval, readyz_interval, ref server_name, .. } = self.config;
        let intervals = Intervals { probe: interval, readyz: readyz_interval };
        let worker = Prober {
            target: Target { address: backend, name: server_name.clone(), question: self.question.clone() },
            identity: self.inputs.identity.clone(),
            orders,
            kernel: Arc::clone(&self.inputs.kernel),
            events: self.events.clone(),
            times: Timetable::new(self.beat.clone(), intervals, Instant::now().into_std()),
            state: State::default(),
        };
        self.tasks.spawn(worker.run());
        self.workers.insert(backend, sender);
    }

    /// Sends a view if it says something new: a snapshot that was `received`, or a change of health.
    fn publish(&mut self, now: StdInstant, received: Option<StdInstant>) {
        let Some(snapshot) = self.snapshot.clone() else { return };
        let mut backends = self.detector.backends(now);
        self.ports.extend(&mut backends);
        let noticed = match &*self.views.borrow() {
            Some(last) if *last.snapshot == *snapshot => view::news(&last.backends, &backends, now),
            _ => Some(received.unwrap_or(now)),
        };
        if let Some(noticed) = noticed {
            self.views.send_replace(Some(HealthView { snapshot, noticed, backends }));
        }
    }
}

fn label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Ready => "ready",
        Outcome::Alive => "alive",
        Outcome::Unready => "unready",
        Outcome::Failed(reason) => reason.label(),
    }
}
