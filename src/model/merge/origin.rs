//! Where each apiserver was learnt, and when, for whoever looks at it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::good::LastGood;
use crate::model::types::Backend;

/// More than are ever used at a time, so that one that drains is still told apart; beyond it those are forgotten that
/// are not in use.
const REMEMBERED: usize = 256;

/// Who says that there is an apiserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The API's endpoints.
    Published,
    /// The operator, with `--seed`.
    Seed,
    /// The state of an earlier run.
    Saved,
}

/// Where an apiserver was learnt, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The source.
    pub source: Source,
    /// Seconds since 1970 when it first named the apiserver without a break.
    pub since: u64,
}

/// The origin of every apiserver that is in use, and of many that were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<Backend, Origin>);

impl Origins {
    /// The origin of an apiserver.
    pub fn of(&self, backend: Backend) -> Option<Origin> {
        self.0.get(&backend).copied()
    }

    /// The API names exactly `current`. `known` says since when an earlier run had it from the API, too.
    pub(super) fn publish(
        &mut self,
        current: BTreeSet<Backend>,
        known: impl Fn(&Backend) -> Option<u64>,
        now: u64,
    ) {
        for backend in &current {
            let since = known(backend).unwrap_or(now);
            self.0.insert(*backend, Origin { source: Source::Published, since });
        }
        self.forget(&current);
    }

    /// Seeds and saved state name `current`.
    pub(super) fn boot(
        &mut self,
        current: &BTreeSet<Backend>,
        seeded: &BTreeMap<Backend, u64>,
        saved: &LastGood,
    ) {
        for backend in current {
            let origin = match (seeded.get(backend), saved.since(*backend)) {
                (Some(since), _) => Origin { source: Source::Seed, since: *since },
                (None, Some(since)) => Origin { source: Source::Saved, since },
                (None, None) => continue,
            };
            self.0.insert(*backend, origin);
        }
        self.forget(current);
    }

    fn forget(&mut self, current: &BTreeSet<Backend>) {
        if self.0.len() > REMEMBERED {
            self.0.retain(|backend, _| current.contains(backend));
        }
    }
}
