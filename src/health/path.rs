//! What clients' own connections show of a backend that is silent: watched as long as it is, and asked when the detector wants it.
//!
//! In: which backends, whom to tell. Out: events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant as StdInstant;

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ClientPath;
use super::prober::{Event, What};
use crate::model::types::{Backend, Vip};

/// The watches that are open. Dropping it ends them.
pub(super) struct Watches {
    clients: Arc<dyn ClientPath>,
    events: mpsc::Sender<Event>,
    open: BTreeMap<Backend, JoinSet<()>>,
    asking: JoinSet<()>,
}

impl Watches {
    pub(super) fn new(clients: Arc<dyn ClientPath>, events: mpsc::Sender<Event>) -> Self {
        Self { clients, events, open: BTreeMap::new(), asking: JoinSet::new() }
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
                        let what = What::Arrived { now: Instant::now(), data };
                        if events.send(Event { backend, what }).await.is_err() {
                            return;
                        }
                    }
                });
                Some(StdInstant::now())
            }
            Err(error) => {
                tracing::debug!(%backend, %error, "what arrives from a silent apiserver cannot be seen");
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

    /// Asks a few of clients' connections, and tells what came of it.
    pub(super) fn ask(&mut self, backend: Backend, vips: Vec<Vip>) {
        while self.asking.try_join_next().is_some() {}
        let (asked, events) = (self.clients.ask(backend, vips), self.events.clone());
        self.asking.spawn(async move {
            let found = asked.await;
            let what = What::Asked(Instant::now(), found);
            // Nobody listens when the daemon is about to end.
            let _ = events.send(Event { backend, what }).await;
        });
    }
}
