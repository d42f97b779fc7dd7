//! What is worth to be remembered over a restart: virtual IPs and their apiservers, where each was learnt, and when.
//! An empty view changes nothing of it.

use serde::{Deserialize, Serialize};

use super::{Merge, boot};
use crate::model::seed::Seed;
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot};
use crate::model::types::{Backend, Vip};

/// The last good state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastGood {
    /// Ordered by virtual IP, each once and with at least one backend.
    pub frontends: Vec<GoodFrontend>,
}

/// One virtual IP and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoodFrontend {
    /// Address and TCP port that clients dial.
    pub vip: Vip,
    /// The name of the Service's port; may be empty.
    pub port_name: String,
    /// How a client is tied to a backend.
    pub affinity: Affinity,
    /// Where the virtual IP was learnt.
    pub learnt: Learnt,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Ordered, each once.
    pub backends: Vec<GoodBackend>,
}

/// One apiserver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoodBackend {
    /// Where it listens.
    pub address: Backend,
    /// Where that was learnt.
    pub learnt: Learnt,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Where something was learnt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Learnt {
    /// From the API.
    Published,
    /// From the operator, in these words.
    Configured(String),
}

impl LastGood {
    /// Whether it is what the API said.
    fn is_published(&self) -> bool {
        self.frontends.iter().any(|frontend| frontend.learnt == Learnt::Published)
    }

    /// Since when the API had named this apiserver.
    pub(super) fn published(&self, backend: Backend) -> Option<u64> {
        self.records(backend).find(|record| record.learnt == Learnt::Published).map(|record| record.at)
    }

    /// Since when `seed` had stood for this apiserver.
    pub(super) fn seeded(&self, seed: &Seed, backend: Backend) -> Option<u64> {
        let learnt = Learnt::Configured(seed.to_string());
        self.records(backend).find(|record| record.learnt == learnt).map(|record| record.at)
    }

    /// Since when it is known, from wherever.
    pub(super) fn since(&self, backend: Backend) -> Option<u64> {
        self.records(backend).map(|record| record.at).min()
    }

    pub(super) fn frontend(&self, vip: Vip) -> Option<&GoodFrontend> {
        self.frontends.iter().find(|frontend| frontend.vip == vip)
    }

    fn records(&self, backend: Backend) -> impl Iterator<Item = &GoodBackend> {
        let all = self.frontends.iter().flat_map(|frontend| &frontend.backends);
        all.filter(move |record| record.address == backend)
    }
}

/// What is to be remembered now.
pub(super) fn next(merge: &Merge) -> LastGood {
    let frontends: Vec<GoodFrontend> = match &merge.published {
        Some(snapshot) if snapshot.service == ServiceStatus::Found => published(merge, snapshot),
        Some(_) => Vec::new(),
        // What the API once said is worth more than what follows from seeds, which are there at the next start as well.
        None if merge.saved.is_published() => Vec::new(),
        None => boot::snapshot(merge).iter().flat_map(|s| &s.frontends).map(|f| booted(merge, f)).collect(),
    };
    if frontends.is_empty() { merge.good.clone() } else { LastGood { frontends } }
}

/// A virtual IP that lost its endpoints keeps those that it had.
fn published(merge: &Merge, snapshot: &Snapshot) -> Vec<GoodFrontend> {
    let frontend = |frontend: &Frontend| {
        let before = merge.good.frontend(frontend.vip);
        let backend = |address: &Backend| GoodBackend {
            address: *address,
            learnt: Learnt::Published,
            at: merge.origins.of(*address).map_or(merge.started, |origin| origin.since),
        };
        let backends: Vec<GoodBackend> = match before {
            Some(before) if frontend.backends.is_empty() => before.backends.clone(),
            _ => frontend.backends.iter().map(backend).collect(),
        };
        let at = before.filter(|before| before.learnt == Learnt::Published).map(|before| before.at);
        let at = at.or(backends.iter().map(|backend| backend.at).max())?;
        Some(good(frontend, Learnt::Published, at, backends))
    };
    snapshot.frontends.iter().filter_map(frontend).collect()
}

/// Known from the operator only, perhaps since an earlier run.
fn booted(merge: &Merge, frontend: &Frontend) -> GoodFrontend {
    let at = merge.saved.frontend(frontend.vip).map_or(merge.started, |saved| saved.at);
    let backend = |address: &Backend| {
        let seeded = merge.seed_of(*address).map(|(seed, at)| GoodBackend {
            address: *address,
            learnt: Learnt::Configured(seed.to_string()),
            at,
        });
        seeded.or_else(|| merge.saved.records(*address).next().cloned())
    };
    let backends = frontend.backends.iter().filter_map(backend).collect();
    good(frontend, Learnt::Configured(frontend.vip.to_string()), at, backends)
}

fn good(frontend: &Frontend, learnt: Learnt, at: u64, backends: Vec<GoodBackend>) -> GoodFrontend {
    let Frontend { vip, port_name, affinity, .. } = frontend.clone();
    GoodFrontend { vip, port_name, affinity, learnt, at, backends }
}
