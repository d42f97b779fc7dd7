//! Who of a frontend's backends gets new connections, and whose established ones are to be ended. Fail-open: while
//! nobody answers, the last good ones go on and no flow is ended.

use std::collections::BTreeSet;

use super::{DesiredFrontend, Hold, NodeView, PreferredSource};
use crate::model::balance::{Balance, Candidate, choose};
use crate::model::health::{BackendHealth, HealthView, State};
use crate::model::snapshot::Frontend;
use crate::model::types::{Backend, Family};

/// The choice for one frontend.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// They get new connections; ordered, each once. Empty only if no backend is known.
    pub backends: Vec<Backend>,
    /// Their flows are to be ended; ordered, each once.
    pub dead: Vec<Backend>,
    /// Why the choice is not one of backends that are up.
    pub hold: Option<Hold>,
}

/// Chooses for `published`; `earlier` is what is programmed for it.
pub(super) fn select(
    view: &HealthView,
    published: &Frontend,
    earlier: Option<&DesiredFrontend>,
    node: &NodeView,
    balance: Balance,
) -> Selection {
    let earlier_backends = earlier.map_or(&[][..], |e| e.backends.as_slice());
    let removed = removed(view, published, earlier);
    let pool = if published.backends.is_empty() { &removed } else { &published.backends };
    let tier = |list: &[Backend], usable: fn(Option<&BackendHealth>) -> bool| -> Vec<Backend> {
        list.iter().copied().filter(|b| usable(view.backends.get(b))).collect()
    };
    let draining = |h: Option<&BackendHealth>| h.is_some_and(|h| h.state == State::Draining);
    let tiers = [
        (up(view, pool, earlier), false),
        (tier(pool, |h| h.is_none_or(|h| h.state == State::Unknown && h.failing.is_none())), false),
        (tier(pool, |h| h.is_some_and(|h| h.state == State::Unknown)), false),
        (tier(pool, draining), true),
        (tier(&removed, draining), true),
        (tier(pool, |h| h.is_some_and(|h| h.answering)), true),
    ];
    let vip = published.vip;
    let Some((candidates, second_best)) = tiers.into_iter().find(|(tier, _)| !tier.is_empty()) else {
        let last: Vec<Backend> = earlier_backends.iter().copied().filter(|b| pool.contains(b)).collect();
        let backends = if last.is_empty() { pool.clone() } else { last };
        let hold = (!backends.is_empty()).then(|| Hold::NoneAnswers { vip, reason: reason(view, pool) });
        return Selection { backends, dead: Vec::new(), hold };
    };
    let hold = if candidates.iter().all(|b| view.backends.get(b).is_some_and(|h| h.failing.is_some())) {
        Some(Hold::NoneAnswers { vip, reason: reason(view, &candidates) })
    } else {
        second_best.then_some(Hold::NoneReady { vip })
    };
    let backends = balanced(view, &candidates, earlier_backends, node, balance);
    let ending = |b: &Backend| view.backends.get(b).is_some_and(|h| h.ending) && !candidates.contains(b);
    // Nor is anything ended that began to be while somebody answered.
    let open = matches!(hold, Some(Hold::NoneAnswers { .. }));
    let dead: BTreeSet<Backend> =
        pool.iter().chain(&removed).copied().filter(|b| !open && ending(b)).collect();
    Selection { backends, dead: dead.into_iter().collect(), hold }
}

/// Those that answer in time and are ready, and with them those that answer late, unless at least half of the published ones,
/// rounded up, answer in time: so overload of one does not run through all. One that was not probed yet waits for that, so that an
/// endpoint which leads nowhere costs no connection; those that are programmed already share until something speaks against them,
/// and at the start all do.
fn up(view: &HealthView, pool: &[Backend], earlier: Option<&DesiredFrontend>) -> Vec<Backend> {
    let is = |backend: &Backend, state: State| view.backends.get(backend).is_some_and(|h| h.state == state);
    let healthy = pool.iter().filter(|backend| is(backend, State::Healthy)).count();
    let enough = healthy >= pool.len().div_ceil(2);
    let usable = |backend: &Backend| match view.backends.get(backend) {
        Some(health) if health.state == State::Healthy => true,
        Some(health) if health.state == State::Late => !enough,
        Some(health) if health.state != State::Unknown || health.failing.is_some() => false,
        _ => earlier.is_none_or(|earlier| earlier.backends.contains(backend)),
    };
    pool.iter().copied().filter(usable).collect()
}

/// Backends that are no longer published for this frontend and are probed on: those that were programmed for it, and
/// others of its family and ports.
fn removed(view: &HealthView, published: &Frontend, earlier: Option<&DesiredFrontend>) -> Vec<Backend> {
    let earlier = earlier.map_or(&[][..], |e| e.backends.as_slice());
    let ports: BTreeSet<u16> = published.backends.iter().chain(earlier).map(|b| b.port()).collect();
    let family = Family::of(published.vip.ip());
    let related = view
        .backends
        .keys()
        .filter(|b| Family::of(b.ip()) == family && ports.contains(&b.port()))
        .chain(if published.backends.is_empty() { earlier } else { &[] });
    let all: BTreeSet<Backend> = related.copied().filter(|b| !published.backends.contains(b)).collect();
    all.into_iter().collect()
}

fn balanced(
    view: &HealthView,
    backends: &[Backend],
    before: &[Backend],
    node: &NodeView,
    balance: Balance,
) -> Vec<Backend> {
    let candidates: Vec<Candidate> = backends
        .iter()
        .map(|backend| Candidate {
            backend: *backend,
            local: node.preferred.get(&backend.ip()) == Some(&PreferredSource::Local),
            round_trip: view.backends.get(backend).and_then(|h| h.round_trip),
        })
        .collect();
    choose(balance, &candidates, before)
}

/// The reason that all share; `None` if they differ or have none.
fn reason(view: &HealthView, backends: &[Backend]) -> Option<crate::model::health::FailReason> {
    let reasons: BTreeSet<_> =
        backends.iter().map(|b| view.backends.get(b).and_then(|health| health.failing)).collect();
    if reasons.len() == 1 { reasons.into_iter().next().flatten() } else { None }
}
