//! Seeds + saved state + published endpoints -> whom this node may use and dial, and where each was learnt. Pure.
//!
//! Until the API has been read, seeds and saved state together are the snapshot. A full list rules from then on, and
//! they are kept to dial the API itself. Times are seconds since 1970, and arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::address::{self, RejectReason};
use super::seed::Seed;
use super::snapshot::{Rejection, Snapshot};
use super::types::{Backend, Vip};

mod boot;
mod good;
mod origin;

pub use good::{GoodBackend, GoodFrontend, LastGood, Learnt};
pub use origin::{Origin, Origins, Source};

/// What the operator says of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    /// The virtual IPs.
    pub vips: Vec<Vip>,
    /// Where apiservers may be found.
    pub seeds: Vec<Seed>,
    /// Accept loopback addresses as apiservers.
    pub allow_loopback: bool,
    /// What a Pod is told to reach the API at: most likely the virtual IP, unless `vips` say otherwise.
    pub pod_server: Option<IpAddr>,
}

/// Whom the API client may dial besides published endpoints, and whom never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alternatives {
    /// Apiservers that seeds or saved state name.
    pub addresses: BTreeSet<SocketAddr>,
    /// Addresses that are, or are taken for, virtual IPs: not dialled while there is another way, or may be one.
    pub vips: BTreeSet<IpAddr>,
    /// There are seeds or saved apiservers, or a name that may yet stand for some.
    pub exist: bool,
}

/// All three sources, as far as they are known.
#[derive(Clone, Debug)]
pub struct Merge {
    configured: Configured,
    /// What each seed stands for, and since when; absent until its name is resolved.
    resolved: BTreeMap<Seed, BTreeMap<Backend, u64>>,
    saved: LastGood,
    published: Option<Arc<Snapshot>>,
    origins: Origins,
    good: LastGood,
    started: u64,
}

impl Merge {
    /// Nothing was resolved or read yet. `saved` is the last good state of an earlier run.
    pub fn new(configured: Configured, saved: LastGood, now: u64) -> Self {
        let mut merge = Self {
            configured,
            resolved: BTreeMap::new(),
            good: saved.clone(),
            saved,
            published: None,
            origins: Origins::default(),
            started: now,
        };
        for seed in merge.configured.seeds.clone() {
            if let Some(address) = seed.address() {
                merge.resolve(&seed, &[address].into(), now);
            }
        }
        merge.settle(now);
        merge
    }

    /// A seed stands for these addresses now. Returns those that cannot be an apiserver's.
    pub fn resolve(&mut self, seed: &Seed, addresses: &BTreeSet<SocketAddr>, now: u64) -> Vec<Rejection> {
        let mut rejected = Vec::new();
        let known = self.resolved.remove(seed).unwrap_or_default();
        let mut current = BTreeMap::new();
        for address in addresses {
            match self.judge(*address) {
                Ok(()) => {
                    let before = known.get(address).copied().or_else(|| self.saved.seeded(seed, *address));
                    current.insert(*address, before.unwrap_or(now));
                }
                Err(reason) => {
                    let port = Some(address.port().into());
                    rejected.push(Rejection { address: address.ip().to_string(), port, reason });
                }
            }
        }
        self.resolved.insert(seed.clone(), current);
        self.settle(now);
        rejected
    }

    /// A full list, or a change of it, was read.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>, now: u64) {
        self.published = Some(snapshot);
        self.settle(now);
    }

    /// Whether a full list has been read: seeds and saved state no longer decide who is used.
    pub fn is_published(&self) -> bool {
        self.published.is_some()
    }

    /// What follows from seeds and saved state; `None` where they name no virtual IP with an apiserver, and once a
    /// full list has been read.
    pub fn boot_snapshot(&self) -> Option<Snapshot> {
        if self.is_published() { None } else { boot::snapshot(self) }
    }

    /// Whom the API client may dial besides published endpoints.
    pub fn alternatives(&self) -> Alternatives {
        let mut addresses: BTreeSet<SocketAddr> = self.seeded().into_keys().collect();
        addresses.extend(boot::saved_main(self).map(|backend| backend.address));
        let published = self.published.iter().flat_map(|snapshot| snapshot.vip_addresses());
        let mut vips: BTreeSet<IpAddr> = published.collect();
        if vips.is_empty() {
            vips = boot::vips(self);
            if self.configured.vips.is_empty() {
                vips.extend(self.configured.pod_server);
            }
        }
        addresses.retain(|address| !vips.contains(&address.ip()));
        let exist = !addresses.is_empty() || !self.configured.seeds.is_empty();
        Alternatives { addresses, vips, exist }
    }

    /// Seeds at an address that the last good state takes for a virtual IP. They count, and it does not.
    pub fn contradicted(&self) -> impl Iterator<Item = (&Seed, Vip)> {
        boot::contradicted(self)
    }

    /// Where every apiserver was learnt, and when.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// What is worth to be remembered.
    pub fn last_good(&self) -> &LastGood {
        &self.good
    }

    /// What all seeds stand for, and since when.
    fn seeded(&self) -> BTreeMap<Backend, u64> {
        let mut all = BTreeMap::new();
        for (address, since) in self.resolved.values().flatten() {
            let earliest = all.entry(*address).or_insert(*since);
            *earliest = (*since).min(*earliest);
        }
        all
    }

    /// A seed that stands for an address, and since when.
    fn seed_of(&self, address: Backend) -> Option<(&Seed, u64)> {
        self.resolved.iter().find_map(|(seed, all)| Some((seed, *all.get(&address)?)))
    }

    fn judge(&self, address: SocketAddr) -> Result<(), RejectReason> {
        let text = address.ip().to_string();
        address::backend(&text, None, &boot::vips(self), self.configured.allow_loopback).map(drop)
    }

    /// Draws the conclusions from what has changed.
    fn settle(&mut self, now: u64) {
        match (&self.published, self.boot_snapshot()) {
            (Some(snapshot), _) => {
                let known = |backend: &Backend| self.good.published(*backend);
                self.origins.publish(snapshot.backends(), known, now);
            }
            (None, Some(snapshot)) => self.origins.boot(&snapshot.backends(), &self.seeded(), &self.saved),
            (None, None) => {}
        }
        self.good = good::next(self);
    }
}

#[cfg(test)]
mod tests;
