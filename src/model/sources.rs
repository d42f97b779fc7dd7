//! Endpoint sources -> the endpoints that this node may use and dial, and where each was learned. Pure.
//!
//! In: seeds and what they resolve to, the saved state of an earlier run, published endpoints. Out: a bootstrap
//! [`Snapshot`] until the API has been read, the addresses that the API client may dial besides published endpoints, the
//! origin of every endpoint, and the last known-good state to save. Once a full list has been read, it alone decides who
//! is used; seeds and saved state are kept to dial the API itself. Times are seconds since 1970, and arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::address::{self, RejectReason, Seed};
use super::snapshot::{
    Affinity, Frontend, HTTPS, MAX_BACKENDS, MAX_FRONTENDS, Rejection, ServiceStatus, Snapshot,
};
use super::types::{Backend, Family, Vip};

/// What the operator configured of the cluster.
#[derive(Clone, Debug, Default)]
pub struct SourceConfig {
    /// The virtual IPs.
    pub vips: Vec<Vip>,
    /// Where apiservers may be found.
    pub seeds: Vec<Seed>,
    /// Accept loopback addresses as apiservers.
    pub allow_loopback: bool,
    /// The API address in a Pod's environment (KUBERNETES_SERVICE_HOST): most likely the virtual IP, unless `vips`
    /// say otherwise.
    pub pod_server: Option<IpAddr>,
}

/// The endpoints that the API client may dial besides published ones, and the addresses that it must not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FallbackEndpoints {
    /// API servers known from seeds or saved state.
    pub addresses: BTreeSet<SocketAddr>,
    /// Addresses that are, or may be, virtual IPs: not dialled while another endpoint is, or may become, available.
    pub vips: BTreeSet<IpAddr>,
    /// There are seeds or saved API servers, or a DNS name that may still resolve to some.
    pub exist: bool,
}

/// The last good state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LastKnownGood {
    /// Ordered by virtual IP, each once and with at least one backend.
    pub frontends: Vec<SavedFrontend>,
}

/// One virtual IP and port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedFrontend {
    /// Address and TCP port that clients dial.
    pub vip: Vip,
    /// The name of the Service's port; may be empty.
    pub port_name: String,
    /// Session affinity.
    pub affinity: Affinity,
    /// Where the virtual IP was learned.
    pub learnt: LearnedFrom,
    /// When, in seconds since 1970.
    pub at: u64,
    /// Ordered, each once.
    pub backends: Vec<SavedBackend>,
}

/// One apiserver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBackend {
    /// Where it listens.
    pub address: Backend,
    /// Where that was learned.
    pub learnt: LearnedFrom,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Where something was learned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LearnedFrom {
    /// From the API.
    Published,
    /// From the operator: the flag's value.
    Configured(String),
}

impl LastKnownGood {
    /// Whether it was learned from the API.
    fn is_published(&self) -> bool {
        self.frontends.iter().any(|frontend| frontend.learnt == LearnedFrom::Published)
    }

    /// Since when the API has published this endpoint.
    fn published(&self, backend: Backend) -> Option<u64> {
        self.records(backend).find(|record| record.learnt == LearnedFrom::Published).map(|record| record.at)
    }

    /// Since when `seed` has resolved to this endpoint.
    fn seeded(&self, seed: &Seed, backend: Backend) -> Option<u64> {
        let learnt = LearnedFrom::Configured(seed.to_string());
        self.records(backend).find(|record| record.learnt == learnt).map(|record| record.at)
    }

    /// Since when it is known, from any source.
    fn since(&self, backend: Backend) -> Option<u64> {
        self.records(backend).map(|record| record.at).min()
    }

    fn frontend(&self, vip: Vip) -> Option<&SavedFrontend> {
        self.frontends.iter().find(|frontend| frontend.vip == vip)
    }

    fn records(&self, backend: Backend) -> impl Iterator<Item = &SavedBackend> {
        let all = self.frontends.iter().flat_map(|frontend| &frontend.backends);
        all.filter(move |record| record.address == backend)
    }
}

/// More than are ever used at a time, so that a draining one keeps its origin; beyond it those are dropped that
/// are not in use.
const REMEMBERED: usize = 256;

/// The source of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndpointSource {
    /// The API's endpoints.
    Published,
    /// The operator, with `--seed`.
    Seed,
    /// The state of an earlier run.
    Saved,
}

/// Where an API server was learned, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The source.
    pub source: EndpointSource,
    /// Seconds since 1970 when this source first contained the endpoint without interruption.
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

    /// The API publishes exactly `current`. `known` says since when an earlier run had it from the API, too.
    fn publish(&mut self, current: BTreeSet<Backend>, known: impl Fn(&Backend) -> Option<u64>, now: u64) {
        for backend in &current {
            let since = known(backend).unwrap_or(now);
            self.0.insert(*backend, Origin { source: EndpointSource::Published, since });
        }
        self.forget(&current);
    }

    /// Seeds and saved state contain `current`.
    fn boot(&mut self, current: &BTreeSet<Backend>, seeded: &BTreeMap<Backend, u64>, saved: &LastKnownGood) {
        for backend in current {
            let origin = match (seeded.get(backend), saved.since(*backend)) {
                (Some(since), _) => Origin { source: EndpointSource::Seed, since: *since },
                (None, Some(since)) => Origin { source: EndpointSource::Saved, since },
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

/// All three sources of endpoints, as far as they are known.
#[derive(Clone, Debug)]
pub struct EndpointSources {
    configured: SourceConfig,
    /// The addresses of each seed, and since when; absent until its name is resolved.
    resolved: BTreeMap<Seed, BTreeMap<Backend, u64>>,
    saved: LastKnownGood,
    published: Option<Arc<Snapshot>>,
    origins: Origins,
    last_good: LastKnownGood,
    started: u64,
}

impl EndpointSources {
    /// Nothing was resolved or read yet. `saved` is the last good state of an earlier run.
    pub fn new(configured: SourceConfig, saved: LastKnownGood, now: u64) -> Self {
        let mut sources = Self {
            configured,
            resolved: BTreeMap::new(),
            last_good: saved.clone(),
            saved,
            published: None,
            origins: Origins::default(),
            started: now,
        };
        for seed in sources.configured.seeds.clone() {
            if let Some(address) = seed.address() {
                sources.resolve(&seed, &[address].into(), now);
            }
        }
        sources.update(now);
        sources
    }

    /// A seed resolves to these addresses now. Returns those that cannot be an API server's.
    pub fn resolve(&mut self, seed: &Seed, addresses: &BTreeSet<SocketAddr>, now: u64) -> Vec<Rejection> {
        let mut rejected = Vec::new();
        let known = self.resolved.remove(seed).unwrap_or_default();
        let mut current = BTreeMap::new();
        for address in addresses {
            match self.validate(*address) {
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
        self.update(now);
        rejected
    }

    /// A full list, or a change of it, was read.
    pub fn publish(&mut self, snapshot: Arc<Snapshot>, now: u64) {
        self.published = Some(snapshot);
        self.update(now);
    }

    /// Whether a full list has been read: seeds and saved state no longer decide who is used.
    pub fn is_published(&self) -> bool {
        self.published.is_some()
    }

    /// What follows from seeds and saved state; `None` where they name no virtual IP with an apiserver, and once a
    /// full list has been read.
    pub fn bootstrap_snapshot(&self) -> Option<Snapshot> {
        if self.is_published() { None } else { bootstrap_snapshot(self) }
    }

    /// The endpoints that the API client may dial besides published ones.
    pub fn alternatives(&self) -> FallbackEndpoints {
        let mut addresses: BTreeSet<SocketAddr> = self.seeded().into_keys().collect();
        addresses.extend(saved_apiservers(self).map(|backend| backend.address));
        let published = self.published.iter().flat_map(|snapshot| snapshot.vip_addresses());
        let mut vips: BTreeSet<IpAddr> = published.collect();
        if vips.is_empty() {
            vips = bootstrap_vips(self);
            if self.configured.vips.is_empty() {
                vips.extend(self.configured.pod_server);
            }
        }
        addresses.retain(|address| !vips.contains(&address.ip()));
        let exist = !addresses.is_empty() || !self.configured.seeds.is_empty();
        FallbackEndpoints { addresses, vips, exist }
    }

    /// Seeds at an address that the last good state takes for a virtual IP. They count, and it does not.
    pub fn contradicted(&self) -> impl Iterator<Item = (&Seed, Vip)> {
        contradicted_vips(self)
    }

    /// Where every API server was learned, and when.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The last known-good state, to be saved.
    pub fn last_good(&self) -> &LastKnownGood {
        &self.last_good
    }

    /// The addresses of all seeds, and since when.
    fn seeded(&self) -> BTreeMap<Backend, u64> {
        let mut all = BTreeMap::new();
        for (address, since) in self.resolved.values().flatten() {
            let earliest = all.entry(*address).or_insert(*since);
            *earliest = (*since).min(*earliest);
        }
        all
    }

    /// A seed that resolves to an address, and since when.
    fn seed_of(&self, address: Backend) -> Option<(&Seed, u64)> {
        self.resolved.iter().find_map(|(seed, all)| Some((seed, *all.get(&address)?)))
    }

    fn validate(&self, address: SocketAddr) -> Result<(), RejectReason> {
        let text = address.ip().to_string();
        address::validate_backend(&text, None, &bootstrap_vips(self), self.configured.allow_loopback)
            .map(drop)
    }

    /// Updates what is derived from the sources.
    fn update(&mut self, now: u64) {
        match (&self.published, self.bootstrap_snapshot()) {
            (Some(snapshot), _) => {
                let known = |backend: &Backend| self.last_good.published(*backend);
                self.origins.publish(snapshot.backends(), known, now);
            }
            (None, Some(snapshot)) => self.origins.boot(&snapshot.backends(), &self.seeded(), &self.saved),
            (None, None) => {}
        }
        self.last_good = next_last_known_good(self);
    }
}

/// Every virtual IP that is configured, or saved and not contradicted.
fn bootstrap_vips(sources: &EndpointSources) -> BTreeSet<IpAddr> {
    let configured = sources.configured.vips.iter().map(|vip| vip.ip());
    configured.chain(eligible_saved(sources).map(|frontend| frontend.vip.ip())).collect()
}

/// Saved apiservers that serve the API, as far as nothing contradicts them. Those of a virtual IP that is one no more may
/// still live.
fn saved_apiservers(sources: &EndpointSources) -> impl Iterator<Item = &SavedBackend> {
    let main = api_port_name(sources);
    applicable_saved(sources)
        .filter(move |frontend| frontend.port_name == main)
        .flat_map(|f| saved_backends(sources, f))
}

/// Saved virtual IPs whose address the operator gives to a seed: it is an API server's by now. What a name resolves to is no
/// contradiction, for a name often resolves to the virtual IP itself.
fn contradicted_vips(sources: &EndpointSources) -> impl Iterator<Item = (&Seed, Vip)> {
    let seeds = sources.configured.seeds.iter().filter_map(|seed| Some((seed, seed.address()?.ip())));
    seeds.flat_map(|(seed, ip)| {
        let vips = applicable_saved(sources).map(|frontend| frontend.vip).filter(move |vip| vip.ip() == ip);
        vips.map(move |vip| (seed, vip))
    })
}

/// The snapshot, with generation 0; `None` if no virtual IP has an apiserver.
fn bootstrap_snapshot(sources: &EndpointSources) -> Option<Snapshot> {
    let (vips, main) = (bootstrap_vips(sources), api_port_name(sources));
    let mut frontends: BTreeMap<Vip, Frontend> = BTreeMap::new();
    for saved in eligible_saved(sources) {
        let backends = saved_backends(sources, saved).map(|backend| backend.address).collect();
        frontends.insert(saved.vip, new_frontend(saved.vip, &saved.port_name, saved.affinity, backends));
    }
    let affinity =
        eligible_saved(sources).find(|f| f.port_name == main).map_or(Affinity::None, |f| f.affinity);
    for vip in &sources.configured.vips {
        let known = saved_apiservers(sources).map(|backend| backend.address).collect();
        frontends.entry(*vip).or_insert_with(|| new_frontend(*vip, main, affinity, known));
    }
    let seeds: Vec<Backend> = sources.seeded().into_keys().collect();
    for frontend in frontends.values_mut() {
        let seeded = frontend.port_name == main || sources.configured.vips.contains(&frontend.vip);
        let mut all = if seeded { seeds.clone() } else { Vec::new() };
        all.append(&mut frontend.backends);
        all.retain(|backend| is_eligible(sources, &vips, frontend.vip, *backend));
        // The operator's seeds come first where there are too many.
        let mut seen = BTreeSet::new();
        all.retain(|backend| seen.insert(*backend));
        all.truncate(MAX_BACKENDS);
        all.sort();
        frontend.backends = all;
    }
    let frontends: Vec<Frontend> =
        frontends.into_values().filter(|f| !f.backends.is_empty()).take(MAX_FRONTENDS).collect();
    let found = !frontends.is_empty();
    found.then(|| Snapshot {
        generation: 0,
        service: ServiceStatus::Found,
        frontends,
        rejected: BTreeSet::new(),
    })
}

fn new_frontend(vip: Vip, port_name: &str, affinity: Affinity, backends: Vec<Backend>) -> Frontend {
    Frontend { vip, port_name: port_name.to_owned(), affinity, backends }
}

fn is_eligible(sources: &EndpointSources, vips: &BTreeSet<IpAddr>, vip: Vip, backend: Backend) -> bool {
    let family = Some(Family::of(vip.ip()));
    address::validate_backend(&backend.ip().to_string(), family, vips, sources.configured.allow_loopback)
        .is_ok()
}

/// Saved virtual IPs that still count.
fn eligible_saved(sources: &EndpointSources) -> impl Iterator<Item = &SavedFrontend> {
    applicable_saved(sources)
        .filter(|frontend| contradicted_vips(sources).all(|(_, vip)| vip != frontend.vip))
}

/// Those that the API once named, and those of an earlier `--vip` for a family of which nothing is configured now.
fn applicable_saved(sources: &EndpointSources) -> impl Iterator<Item = &SavedFrontend> {
    let configured = |family| sources.configured.vips.iter().any(|vip| Family::of(vip.ip()) == family);
    sources.saved.frontends.iter().filter(move |frontend| match frontend.learnt {
        LearnedFrom::Published => true,
        LearnedFrom::Configured(_) => !configured(Family::of(frontend.vip.ip())),
    })
}

/// Saved apiservers that still count: those that the API once named, and what a seed stood for that is still given and
/// cannot be resolved yet.
fn saved_backends<'a>(
    sources: &'a EndpointSources,
    frontend: &'a SavedFrontend,
) -> impl Iterator<Item = &'a SavedBackend> {
    frontend.backends.iter().filter(|backend| match &backend.learnt {
        LearnedFrom::Published => true,
        LearnedFrom::Configured(words) => {
            let mut seeds = sources.configured.seeds.iter();
            seeds.any(|seed| seed.to_string() == *words && !sources.resolved.contains_key(seed))
        }
    })
}

/// The name of the port that serves the API: `https`, or the first one where none has that name.
fn api_port_name(sources: &EndpointSources) -> &str {
    let mut names = applicable_saved(sources).map(|frontend| frontend.port_name.as_str());
    let Some(first) = names.next() else { return HTTPS };
    if first == HTTPS || names.any(|name| name == HTTPS) { HTTPS } else { first }
}

/// The last known-good state that follows from all sources.
fn next_last_known_good(sources: &EndpointSources) -> LastKnownGood {
    let frontends: Vec<SavedFrontend> = match &sources.published {
        Some(snapshot) if snapshot.service == ServiceStatus::Found => remember_published(sources, snapshot),
        Some(_) => Vec::new(),
        // What the API published takes precedence over seeds, which are configured at the next start as well.
        None if sources.saved.is_published() => Vec::new(),
        None => bootstrap_snapshot(sources)
            .iter()
            .flat_map(|s| &s.frontends)
            .map(|f| remember_bootstrap(sources, f))
            .collect(),
    };
    if frontends.is_empty() { sources.last_good.clone() } else { LastKnownGood { frontends } }
}

/// A virtual IP that lost its endpoints keeps those that it had.
fn remember_published(sources: &EndpointSources, snapshot: &Snapshot) -> Vec<SavedFrontend> {
    let frontend = |frontend: &Frontend| {
        let before = sources.last_good.frontend(frontend.vip);
        let backend = |address: &Backend| SavedBackend {
            address: *address,
            learnt: LearnedFrom::Published,
            at: sources.origins.of(*address).map_or(sources.started, |origin| origin.since),
        };
        let backends: Vec<SavedBackend> = match before {
            Some(before) if frontend.backends.is_empty() => before.backends.clone(),
            _ => frontend.backends.iter().map(backend).collect(),
        };
        let at = before.filter(|before| before.learnt == LearnedFrom::Published).map(|before| before.at);
        let at = at.or(backends.iter().map(|backend| backend.at).max())?;
        Some(saved_frontend(frontend, LearnedFrom::Published, at, backends))
    };
    snapshot.frontends.iter().filter_map(frontend).collect()
}

/// Known from the configuration only, perhaps since an earlier run.
fn remember_bootstrap(sources: &EndpointSources, frontend: &Frontend) -> SavedFrontend {
    let at = sources.saved.frontend(frontend.vip).map_or(sources.started, |saved| saved.at);
    let backend = |address: &Backend| {
        let seeded = sources.seed_of(*address).map(|(seed, at)| SavedBackend {
            address: *address,
            learnt: LearnedFrom::Configured(seed.to_string()),
            at,
        });
        seeded.or_else(|| sources.saved.records(*address).next().cloned())
    };
    let backends = frontend.backends.iter().filter_map(backend).collect();
    saved_frontend(frontend, LearnedFrom::Configured(frontend.vip.to_string()), at, backends)
}

fn saved_frontend(
    frontend: &Frontend,
    learnt: LearnedFrom,
    at: u64,
    backends: Vec<SavedBackend>,
) -> SavedFrontend {
    let Frontend { vip, port_name, affinity, .. } = frontend.clone();
    SavedFrontend { vip, port_name, affinity, learnt, at, backends }
}

#[cfg(test)]
mod tests;
