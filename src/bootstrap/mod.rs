//! What is known of apiservers before the API has been read, and how it is merged with what the API says.
//!
//! In: snapshots of the API, what seeds resolve to, the saved state. Out: one sequence of snapshots for the probes,
//! beginning with that of seeds and saved state; the apiservers that the API client may dial; where each apiserver
//! was learnt; what is to be saved. [`crate::model::sources`] decides.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::model::report::Report;
use crate::model::snapshot::PublishedSnapshot;
use crate::model::snapshot::{ServiceStatus, Snapshot};
use crate::model::sources::{EndpointSources, FallbackEndpoints, LastKnownGood, Origins, SourceConfig};
use crate::process::clock::unix_now;
use saved_state::StateFile;
use seeds::ResolvedSeed;

pub mod saved_state;
pub mod seeds;

/// Longest that an incomplete first list waits until seeds and saved state are programmed: a commit can wait for another
/// program's for 8 s.
const PROGRAMMED_TIMEOUT: Duration = Duration::from_secs(10);

/// The last good state, or none and, if there is one that cannot be used, a warning.
pub fn load_saved_state(file: &StateFile) -> Option<LastKnownGood> {
    match file.load() {
        Ok(saved) => saved,
        Err(error) => {
            tracing::warn!(
                event = %"saved_state_unusable", %error,
                "Saved state cannot be used, starting without it"
            );
            None
        }
    }
}

/// The sources merged: seeds, saved state and the API. It sends what follows from them.
#[derive(Debug)]
pub struct Bootstrap {
    merge: EndpointSources,
    snapshots: watch::Sender<Option<PublishedSnapshot>>,
    alternatives: watch::Sender<FallbackEndpoints>,
    origins: watch::Sender<Origins>,
    last_good: watch::Sender<LastKnownGood>,
    api_read: watch::Sender<bool>,
}

impl Bootstrap {
    /// Starts from the configuration and the saved state. The first snapshot, if there is one, is there at once.
    pub fn new(configured: SourceConfig, saved: Option<LastKnownGood>) -> Self {
        let merge = EndpointSources::new(configured, saved.unwrap_or_default(), unix_now());
        for (seed, vip) in merge.contradicted() {
            tracing::warn!(
                event = %"seed_is_saved_vip", %seed, %vip,
                "Seed has the address of a saved virtual IP, using the seed"
            );
        }
        let bootstrap = Self {
            snapshots: watch::Sender::new(None),
            alternatives: watch::Sender::new(merge.alternatives()),
            origins: watch::Sender::new(Origins::default()),
            last_good: watch::Sender::new(LastKnownGood::default()),
            api_read: watch::Sender::new(false),
            merge,
        };
        bootstrap.send_changes(None);
        bootstrap
    }

    /// What is to be programmed.
    pub fn snapshots(&self) -> watch::Receiver<Option<PublishedSnapshot>> {
        self.snapshots.subscribe()
    }

    /// The apiservers that the API client may dial.
    pub fn alternatives(&self) -> watch::Receiver<FallbackEndpoints> {
        self.alternatives.subscribe()
    }

    /// Where each apiserver was learnt.
    pub fn origins(&self) -> watch::Receiver<Origins> {
        self.origins.subscribe()
    }

    /// What is to be saved.
    pub fn last_good(&self) -> watch::Receiver<LastKnownGood> {
        self.last_good.subscribe()
    }

    /// Whether the API has been read.
    pub fn api_read(&self) -> watch::Receiver<bool> {
        self.api_read.subscribe()
    }

    /// Works until the API client ends. `reports` show what has been programmed.
    pub async fn run(
        mut self,
        mut api: watch::Receiver<Option<PublishedSnapshot>>,
        mut resolved: mpsc::Receiver<ResolvedSeed>,
        mut reports: watch::Receiver<Report>,
    ) {
        loop {
            tokio::select! {
                biased;
                changed = api.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let Some(mut latest) = api.borrow_and_update().clone() else { continue };
                    if self.must_wait_for_rules(&latest.snapshot) {
                        let programmed = reports.wait_for(|report| report.programmed.is_some());
                        // Too late is better than never.
                        let _ = timeout(PROGRAMMED_TIMEOUT, programmed).await;
                        latest = api.borrow_and_update().clone().unwrap_or(latest);
                    }
                    self.merge.publish(Arc::clone(&latest.snapshot), unix_now());
                    self.send_changes(Some(latest));
                }
                Some(ResolvedSeed { seed, addresses }) = resolved.recv() => {
                    for rejection in self.merge.resolve(&seed, &addresses, unix_now()) {
                        let (address, reason) = (&rejection.address, &rejection.reason);
                        tracing::warn!(
                            event = %"seed_address_rejected", %seed, address, %reason,
                            "Rejected an address of a seed"
                        );
                    }
                    self.send_changes(None);
                }
            }
        }
    }

    /// A first list that leaves something empty takes nothing away from what seeds and saved state serve. But whoever
    /// follows snapshots may see the latest only, so that theirs must be in effect before it.
    fn must_wait_for_rules(&self, first: &Snapshot) -> bool {
        let whole =
            first.service == ServiceStatus::Found && first.frontends.iter().all(|f| !f.backends.is_empty());
        !whole && self.merge.bootstrap_snapshot().is_some()
    }

    /// Sends each receiver what is new to it, the snapshot first: it leads to rules.
    fn send_changes(&self, published: Option<PublishedSnapshot>) {
        let boot = || {
            let snapshot = Arc::new(self.merge.bootstrap_snapshot()?);
            Some(PublishedSnapshot { snapshot, received: Instant::now() })
        };
        if let Some(next) = published.or_else(boot) {
            self.snapshots.send_if_modified(|known| {
                let changed = known.as_ref().is_none_or(|known| known.snapshot != next.snapshot);
                if changed {
                    *known = Some(next);
                }
                changed
            });
        }
        replace(&self.alternatives, &self.merge.alternatives());
        replace(&self.origins, self.merge.origins());
        replace(&self.last_good, self.merge.last_good());
        replace(&self.api_read, &self.merge.is_published());
    }
}

fn replace<T: Clone + PartialEq>(sender: &watch::Sender<T>, latest: &T) {
    sender.send_if_modified(|known| {
        let changed = known != latest;
        if changed {
            known.clone_from(latest);
        }
        changed
    });
}
