//! The whole module at work on servers of a test: snapshots in, views out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::server::NAME;
use crate::health::{Inputs, ProbeConfig, ProbeObserver, run};
use crate::model::health::{HealthOptions, HealthState, HealthView};
use crate::model::snapshot::{Affinity, Frontend, PublishedSnapshot, ServiceStatus, Snapshot};
use crate::transport::readyz::Identity;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn config() -> ProbeConfig {
    ProbeConfig {
        interval: Duration::from_millis(300),
        ping_interval: Duration::from_millis(300),
        readyz_interval: Duration::from_secs(1),
        server_name: NAME.try_into().unwrap(),
        health: HealthOptions {
            fall: 2,
            rise: 2,
            removal_grace: Duration::from_secs(2),
            drain_timeout: None,
            silence_timeout: Duration::from_secs(5),
            reset_jitter: Duration::from_millis(100),
        },
    }
}

/// Counts what was found.
#[derive(Debug, Default)]
pub(super) struct Counted(Mutex<BTreeMap<&'static str, u64>>);

impl Counted {
    pub(super) fn of(&self, outcome: &str) -> u64 {
        self.0.lock().unwrap().get(outcome).copied().unwrap_or(0)
    }
}

impl ProbeObserver for Counted {
    fn probed(&self, outcome: &'static str, _: Duration) {
        *self.0.lock().unwrap().entry(outcome).or_default() += 1;
    }
}

/// A running prober.
pub(super) struct Probing {
    pub(super) identity: watch::Sender<Identity>,
    pub(super) counted: Arc<Counted>,
    pub(super) suspects: mpsc::UnboundedSender<SocketAddr>,
    published: watch::Sender<Option<PublishedSnapshot>>,
    views: watch::Receiver<Option<HealthView>>,
    generation: AtomicU64,
    pub(super) task: JoinHandle<()>,
}

impl Probing {
    pub(super) fn start(config: ProbeConfig, identity: Identity) -> Self {
        let (identity, asked_as) = watch::channel(identity);
        let (published, snapshots) = watch::channel(None);
        let (sender, views) = watch::channel(None);
        let counted = Arc::new(Counted::default());
        let (suspects, suspected) = mpsc::unbounded_channel();
        let inputs = Inputs {
            identity: asked_as,
            suspects: suspected,
            in_use: mpsc::unbounded_channel().1,
            kernel: Arc::new(()),
            clients: Arc::new(()),
            observer: Arc::clone(&counted) as _,
        };
        let task = tokio::spawn(run(config, inputs, snapshots, sender));
        Self { identity, counted, suspects, published, views, generation: AtomicU64::new(1), task }
    }

    /// Publishes these backends and returns when they became known.
    pub(super) fn publish(&self, backends: &[SocketAddr]) -> Instant {
        let mut backends = backends.to_vec();
        backends.sort();
        let frontend = Frontend {
            vip: "10.96.0.1:443".parse().unwrap(),
            port_name: "https".to_owned(),
            affinity: Affinity::None,
            backends,
        };
        let snapshot = Snapshot {
            generation: self.generation.fetch_add(1, Ordering::Relaxed),
            service: ServiceStatus::Found,
            frontends: vec![frontend],
            rejected: Default::default(),
        };
        let received = Instant::now();
        self.published.send_replace(Some(PublishedSnapshot { snapshot: Arc::new(snapshot), received }));
        received
    }

    /// Waits for such a view.
    pub(super) async fn until(&mut self, wanted: impl Fn(&HealthView) -> bool) -> HealthView {
        let found = self.views.wait_for(|view| view.as_ref().is_some_and(&wanted));
        let found = timeout(PATIENCE, found).await.ok().map(|view| view.unwrap().clone().unwrap());
        found.unwrap_or_else(|| {
            panic!("no such view within {PATIENCE:?}; the last: {:?}", *self.views.borrow())
        })
    }

    /// Waits until the backend is in that state.
    pub(super) async fn until_state(&mut self, backend: SocketAddr, state: HealthState) -> HealthView {
        self.until(|view| view.state(backend) == state).await
    }

    /// The latest view.
    pub(super) fn view(&self) -> HealthView {
        self.views.borrow().clone().unwrap()
    }

    /// Looks at every view for a while.
    pub(super) async fn during(&mut self, time: Duration, check: impl Fn(&HealthView)) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::timeout_at(end, self.views.changed()).await.is_ok() {
            check(self.views.borrow_and_update().as_ref().unwrap());
        }
    }

    /// Closes what comes in.
    pub(super) fn close(self) -> (JoinHandle<()>, watch::Receiver<Option<HealthView>>) {
        (self.task, self.views)
    }
}
