//! One node: the daemon's decisions by its own code, its probers, and the orders of its dataplane.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apivip::health::detector::Detector;
use apivip::model::balance::Balance;
use apivip::model::desired::{DesiredState, Masquerade, NodeView, Policy, compute_desired_state};
use apivip::model::health::{BackendHealth, HealthOptions, HealthView};
use apivip::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot};
use apivip::model::types::Backend;

use super::prober::Prober;
use super::world::{SERVERS, Time};

/// The daemon's defaults.
pub fn options() -> HealthOptions {
    HealthOptions {
        fall: 2,
        rise: 2,
        removal_grace: Duration::from_secs(180),
        drain_timeout: None,
        silence_timeout: Duration::from_secs(5),
        reset_jitter: Duration::from_secs(1),
    }
}

/// The address of an API server.
pub fn backend(server: usize) -> Backend {
    Backend::from(([192, 0, 2, 11 + server as u8], 6443))
}

/// The API server with this address.
pub fn server(backend: Backend) -> usize {
    (0..SERVERS).find(|server| self::backend(*server) == backend).unwrap_or_default()
}

/// What the control plane publishes.
pub fn snapshot(published: [bool; SERVERS]) -> Arc<Snapshot> {
    let backends = (0..SERVERS).filter(|server| published[*server]).map(backend).collect();
    let vip = "10.96.0.1:443".parse().expect("an address");
    let frontend = Frontend { vip, port_name: String::new(), affinity: Affinity::None, backends };
    let (service, rejected) = (ServiceStatus::Found, Default::default());
    Arc::new(Snapshot { generation: 1, service, frontends: vec![frontend], rejected })
}

/// See the module.
pub struct Node {
    pub detector: Detector,
    pub probers: [Prober; SERVERS],
    /// How many daemons ran before this one.
    pub crashes: u32,
    pub snapshot: Arc<Snapshot>,
    health: BTreeMap<Backend, BackendHealth>,
    state: Option<DesiredState>,
    policy: Policy,
    /// The API servers that share new connections, and those whose connections are ended.
    pub chosen: Vec<usize>,
    pub failed: [bool; SERVERS],
    /// The observation of clients' connections that runs.
    pub observed: [Option<u64>; SERVERS],
    pub observations: u64,
    /// When something of it arrived last.
    pub heard: [Option<Time>; SERVERS],
    /// The next deadline of the detector, and which of them is valid.
    pub deadline: Option<Time>,
    pub deadlines: u64,
}

/// What follows from a view.
#[derive(Default)]
pub struct Orders {
    pub end: Vec<usize>,
    pub challenge: Vec<usize>,
}

impl Node {
    pub fn new(seed: u64, now: Time) -> Self {
        Self {
            detector: Detector::new(options(), seed),
            probers: [(); SERVERS].map(|()| Prober::new(now)),
            crashes: 0,
            snapshot: snapshot([true; SERVERS]),
            health: BTreeMap::new(),
            state: None,
            policy: Policy {
                service: "default/kubernetes".parse().expect("a name"),
                masquerade: Masquerade::Auto,
                cluster_cidrs: Vec::new(),
                balance: Balance::Random,
            },
            chosen: (0..SERVERS).collect(),
            failed: [false; SERVERS],
            observed: [None; SERVERS],
            observations: 0,
            heard: [None; SERVERS],
            deadline: None,
            deadlines: 0,
        }
    }

    /// The daemon ends, and another one begins. What it programmed stays.
    pub fn crash(&mut self, seed: u64, now: Time) {
        self.detector = Detector::new(options(), seed);
        self.probers = [(); SERVERS].map(|()| Prober::new(now));
        self.crashes += 1;
        self.health = BTreeMap::new();
        self.observed = [None; SERVERS];
        self.heard = [None; SERVERS];
        self.deadline = None;
        // Elements of the kernel's set expire by themselves.
        self.failed = [false; SERVERS];
    }

    /// Programs what follows, if anything changed.
    pub fn publish(&mut self, now: Instant, published: bool) -> Orders {
        let health = self.detector.backends(now);
        let compared = |health: &BackendHealth| {
            (
                health.state,
                health.challenge_at,
                health.end_flows,
                health.published,
                health.answering,
                health.failure,
            )
        };
        let same = health.len() == self.health.len()
            && health
                .iter()
                .zip(&self.health)
                .all(|(new, old)| new.0 == old.0 && compared(new.1) == compared(old.1));
        if same && !published {
            return Orders::default();
        }
        let challenge = health.iter().filter(|(backend, health)| {
            health.challenge_at.is_some()
                && self.health.get(backend).is_none_or(|old| old.challenge_at != health.challenge_at)
        });
        let challenge = challenge.map(|(backend, _)| server(*backend)).collect();
        let snapshot = Arc::clone(&self.snapshot);
        let view = HealthView { snapshot, noticed: now, backends: health };
        let state = compute_desired_state(&view, self.state.as_ref(), &NodeView::default(), &self.policy).0;
        self.health = view.backends;
        let frontend = state.frontends.first();
        self.chosen = frontend.iter().flat_map(|f| &f.backends).map(|backend| server(*backend)).collect();
        assert!(!self.chosen.is_empty(), "a backend is known, and none is chosen");
        let before = self.failed;
        self.failed = [false; SERVERS];
        for backend in frontend.iter().flat_map(|f| &f.failed) {
            self.failed[server(*backend)] = true;
        }
        let end = (0..SERVERS).filter(|server| self.failed[*server] && !before[*server]).collect();
        self.state = Some(state);
        Orders { end, challenge }
    }
}
