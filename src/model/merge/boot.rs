//! Seeds and saved state -> the snapshot that a node is programmed with before the API answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::good::{GoodBackend, GoodFrontend, Learnt};
use super::{Merge, address};
use crate::model::seed::Seed;
use crate::model::snapshot::{
    Affinity, Frontend, HTTPS, MAX_BACKENDS, MAX_FRONTENDS, ServiceStatus, Snapshot,
};
use crate::model::types::{Backend, Family, Vip};

/// Every virtual IP that is configured, or saved and not contradicted.
pub(super) fn vips(merge: &Merge) -> BTreeSet<IpAddr> {
    let configured = merge.configured.vips.iter().map(|vip| vip.ip());
    configured.chain(saved(merge).map(|frontend| frontend.vip.ip())).collect()
}

/// Saved apiservers that serve the API, as far as nothing contradicts them. Those of a virtual IP that is one no more may
/// still live.
pub(super) fn saved_main(merge: &Merge) -> impl Iterator<Item = &GoodBackend> {
    let main = main_name(merge);
    kept(merge).filter(move |frontend| frontend.port_name == main).flat_map(|f| backends(merge, f))
}

/// Saved virtual IPs whose address the operator gives to a seed: it is an apiserver's by now. What a name stands for is no
/// such word, for a name often leads to the virtual IP itself.
pub(super) fn contradicted(merge: &Merge) -> impl Iterator<Item = (&Seed, Vip)> {
    let seeds = merge.configured.seeds.iter().filter_map(|seed| Some((seed, seed.address()?.ip())));
    seeds.flat_map(|(seed, ip)| {
        let vips = kept(merge).map(|frontend| frontend.vip).filter(move |vip| vip.ip() == ip);
        vips.map(move |vip| (seed, vip))
    })
}

/// The snapshot, with generation 0; `None` if no virtual IP has an apiserver.
pub(super) fn snapshot(merge: &Merge) -> Option<Snapshot> {
    let (vips, main) = (vips(merge), main_name(merge));
    let mut frontends: BTreeMap<Vip, Frontend> = BTreeMap::new();
    for saved in saved(merge) {
        let backends = backends(merge, saved).map(|backend| backend.address).collect();
        frontends.insert(saved.vip, frontend(saved.vip, &saved.port_name, saved.affinity, backends));
    }
    let affinity = saved(merge).find(|f| f.port_name == main).map_or(Affinity::None, |f| f.affinity);
    for vip in &merge.configured.vips {
        let known = saved_main(merge).map(|backend| backend.address).collect();
        frontends.entry(*vip).or_insert_with(|| frontend(*vip, main, affinity, known));
    }
    let seeds: Vec<Backend> = merge.seeded().into_keys().collect();
    for frontend in frontends.values_mut() {
        let seeded = frontend.port_name == main || merge.configured.vips.contains(&frontend.vip);
        let mut all = if seeded { seeds.clone() } else { Vec::new() };
        all.append(&mut frontend.backends);
        all.retain(|backend| fits(merge, &vips, frontend.vip, *backend));
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

fn frontend(vip: Vip, port_name: &str, affinity: Affinity, backends: Vec<Backend>) -> Frontend {
    Frontend { vip, port_name: port_name.to_owned(), affinity, backends }
}

fn fits(merge: &Merge, vips: &BTreeSet<IpAddr>, vip: Vip, backend: Backend) -> bool {
    let family = Some(Family::of(vip.ip()));
    address::backend(&backend.ip().to_string(), family, vips, merge.configured.allow_loopback).is_ok()
}

/// Saved virtual IPs that still count.
fn saved(merge: &Merge) -> impl Iterator<Item = &GoodFrontend> {
    kept(merge).filter(|frontend| contradicted(merge).all(|(_, vip)| vip != frontend.vip))
}

/// Those that the API once named, and those of an earlier `--vip` for a family of which nothing is configured now.
fn kept(merge: &Merge) -> impl Iterator<Item = &GoodFrontend> {
    let configured = |family| merge.configured.vips.iter().any(|vip| Family::of(vip.ip()) == family);
    merge.saved.frontends.iter().filter(move |frontend| match frontend.learnt {
        Learnt::Published => true,
        Learnt::Configured(_) => !configured(Family::of(frontend.vip.ip())),
    })
}

/// Saved apiservers that still count: those that the API once named, and what a seed stood for that is still given and
/// cannot be resolved yet.
fn backends<'a>(merge: &'a Merge, frontend: &'a GoodFrontend) -> impl Iterator<Item = &'a GoodBackend> {
    frontend.backends.iter().filter(|backend| match &backend.learnt {
        Learnt::Published => true,
        Learnt::Configured(words) => {
            let mut seeds = merge.configured.seeds.iter();
            seeds.any(|seed| seed.to_string() == *words && !merge.resolved.contains_key(seed))
        }
    })
}

/// The name of the port that serves the API: `https`, or the first one where none has that name.
fn main_name(merge: &Merge) -> &str {
    let mut names = kept(merge).map(|frontend| frontend.port_name.as_str());
    let Some(first) = names.next() else { return HTTPS };
    if first == HTTPS || names.any(|name| name == HTTPS) { HTTPS } else { first }
}
