//! Whom the forwarder dials: the words that the reconciler tells it in. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::desired::{DesiredFrontend, DesiredState};
use super::health::{HealthView, State};
use super::snapshot::Affinity;
use super::snapshot::HTTPS;
use super::types::{Backend, Vip};

/// Whom connections to one listening address go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// They share new connections.
    pub backends: Vec<Backend>,
    /// They are dialled in this order once all of `backends` failed: better than none.
    pub others: Vec<Backend>,
    /// How a client is tied to one of `backends`.
    pub affinity: Affinity,
}

/// All that the forwarder has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// Connections to virtual IPs.
    pub vips: BTreeMap<Vip, Route>,
    /// Connections to node-local endpoints (`--listen`).
    pub local: Route,
    /// Connections to these are to be reset.
    pub ending: BTreeSet<Backend>,
    /// The hosts of these are to be asked each second, on every connection, whether it still stands.
    pub suspects: BTreeSet<Backend>,
}

/// Whom the forwarder dials while `state` is desired, from what `view` knows of all backends.
pub fn routes(view: &HealthView, state: &DesiredState) -> Routes {
    let vips: BTreeMap<Vip, Route> =
        state.frontends.iter().map(|frontend| (frontend.vip, route(view, frontend))).collect();
    let ending: BTreeSet<Backend> = state.dead().into_keys().collect();
    let out = view.backends.iter().filter(|(_, health)| health.state.is_out());
    let suspects = out.map(|(backend, _)| *backend).filter(|backend| !ending.contains(backend)).collect();
    Routes { local: local(state, &vips), vips, ending, suspects }
}

/// Besides those that share new connections: every backend of the same family and port that is known, the best first.
fn route(view: &HealthView, frontend: &DesiredFrontend) -> Route {
    let published = view.snapshot.frontends.iter().find(|f| f.vip == frontend.vip);
    let mut all: BTreeSet<Backend> = published.into_iter().flat_map(|f| &f.backends).copied().collect();
    all.extend(&frontend.dead);
    let ports: BTreeSet<u16> = all.iter().chain(&frontend.backends).map(Backend::port).collect();
    let related = |b: &&Backend| b.is_ipv4() == frontend.vip.is_ipv4() && ports.contains(&b.port());
    all.extend(view.backends.keys().filter(related));
    let mut others: Vec<Backend> = all.into_iter().filter(|b| !frontend.backends.contains(b)).collect();
    others.sort_by_key(|backend| match view.state(*backend) {
        State::Healthy => 0,
        State::Late => 1,
        State::Unknown => 2,
        State::Draining => 3,
        State::Suspect => 4,
        State::Failed => 5,
    });
    Route { backends: frontend.backends.clone(), others, affinity: frontend.affinity }
}

/// Node-local endpoints lead to the port `https`, or to the first one where none has that name, over either family.
fn local(state: &DesiredState, vips: &BTreeMap<Vip, Route>) -> Route {
    let https = state.frontends.iter().find(|f| f.port_name == HTTPS);
    let Some(chosen) = https.or(state.frontends.first()) else { return Route::default() };
    let mut local = Route::default();
    for frontend in state.frontends.iter().filter(|f| f.port_name == chosen.port_name) {
        let Some(route) = vips.get(&frontend.vip) else { continue };
        local.backends.extend(&route.backends);
        local.others.extend(&route.others);
    }
    local
}

#[cfg(test)]
mod tests;
