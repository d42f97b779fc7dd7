//! Which backends the forwarder dials, as the reconciler passes it on. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::desired::{DesiredFrontend, DesiredState};
use super::health::{HealthState, HealthView};
use super::snapshot::{Affinity, HTTPS};
use super::types::{Backend, Vip};

/// The backends of one listening address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyRoute {
    /// New connections are distributed among these.
    pub backends: Vec<Backend>,
    /// Fallbacks, dialled in this order once all of `backends` failed.
    pub others: Vec<Backend>,
    /// Session affinity.
    pub affinity: Affinity,
}

/// The complete configuration of the forwarder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyRoutes {
    /// Connections to virtual IPs.
    pub vips: BTreeMap<Vip, ProxyRoute>,
    /// Connections to node-local endpoints (`--listen`).
    pub local: ProxyRoute,
    /// Connections to these are to be reset.
    pub ending: BTreeSet<Backend>,
    /// TCP keepalive is sent each second on every connection to these.
    pub suspects: BTreeSet<Backend>,
}

impl ProxyRoutes {
    /// Whether this backend may be dialed, or its connections are watched or reset.
    pub fn contains(&self, backend: Backend) -> bool {
        let mut routes = self.vips.values().chain([&self.local]);
        routes.any(|route| route.backends.contains(&backend) || route.others.contains(&backend))
            || self.ending.contains(&backend)
            || self.suspects.contains(&backend)
    }
}

/// The backends that the forwarder dials while `state` is desired, from what `view` knows of all backends.
pub fn proxy_routes(view: &HealthView, state: &DesiredState) -> ProxyRoutes {
    let vips: BTreeMap<Vip, ProxyRoute> =
        state.frontends.iter().map(|frontend| (frontend.vip, route(view, frontend))).collect();
    let ending: BTreeSet<Backend> = state.failed().into_keys().collect();
    let out = view.backends.iter().filter(|(_, health)| health.state.is_out());
    let suspects = out.map(|(backend, _)| *backend).filter(|backend| !ending.contains(backend)).collect();
    ProxyRoutes { local: local(state, &vips), vips, ending, suspects }
}

/// Besides those that share new connections: every backend of the same family and port that is known, the best first.
fn route(view: &HealthView, frontend: &DesiredFrontend) -> ProxyRoute {
    let published = view.snapshot.frontends.iter().find(|f| f.vip == frontend.vip);
    let mut all: BTreeSet<Backend> = published.into_iter().flat_map(|f| &f.backends).copied().collect();
    all.extend(&frontend.failed);
    let ports: BTreeSet<u16> = all.iter().chain(&frontend.backends).map(Backend::port).collect();
    let related = |b: &&Backend| b.is_ipv4() == frontend.vip.is_ipv4() && ports.contains(&b.port());
    all.extend(view.backends.keys().filter(related));
    let mut others: Vec<Backend> = all.into_iter().filter(|b| !frontend.backends.contains(b)).collect();
    others.sort_by_key(|backend| match view.state(*backend) {
        HealthState::Healthy => 0,
        HealthState::Late => 1,
        HealthState::Unknown => 2,
        HealthState::Draining => 3,
        HealthState::Suspect => 4,
        HealthState::Failed => 5,
    });
    ProxyRoute { backends: frontend.backends.clone(), others, affinity: frontend.affinity }
}

/// Node-local listeners forward to the port `https`, or to the first one where none has that name, over either family.
fn local(state: &DesiredState, vips: &BTreeMap<Vip, ProxyRoute>) -> ProxyRoute {
    let https = state.frontends.iter().find(|f| f.port_name == HTTPS);
    let Some(chosen) = https.or(state.frontends.first()) else { return ProxyRoute::default() };
    let mut local = ProxyRoute::default();
    for frontend in state.frontends.iter().filter(|f| f.port_name == chosen.port_name) {
        let Some(route) = vips.get(&frontend.vip) else { continue };
        local.backends.extend(&route.backends);
        local.others.extend(&route.others);
    }
    local
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    use crate::model::desired::SourcePolicy;
    use crate::model::health::sample as health;
    use crate::model::snapshot::{Frontend, ServiceStatus, Snapshot};

    fn at(host: u8, port: u16) -> Backend {
        ([192, 0, 2, host], port).into()
    }

    fn vip(port: u16) -> Vip {
        ([10, 96, 0, 1], port).into()
    }

    /// Ports 443 to 6443 (`https`) and 80 to 8080, published at 11 to 13; 14 was removed.
    fn view(states: &[(u8, HealthState)]) -> HealthView {
        let frontend = |(name, port, target): (&str, u16, u16)| Frontend {
            vip: vip(port),
            port_name: name.to_owned(),
            affinity: Affinity::ClientIP,
            backends: (11..=13).map(|host| at(host, target)).collect(),
        };
        let frontends = [("http", 80, 8080), ("https", 443, 6443)].map(frontend).to_vec();
        let rejected = Default::default();
        let snapshot = Snapshot { generation: 1, service: ServiceStatus::Found, frontends, rejected };
        let mut view = HealthView::unprobed(Arc::new(snapshot), Instant::now());
        view.backends = states.iter().map(|(host, state)| (at(*host, 6443), health(*state))).collect();
        view
    }

    fn state(used: &[u8], failed: &[u8]) -> DesiredState {
        let frontend = |(name, port, target): (&str, u16, u16)| DesiredFrontend {
            vip: vip(port),
            port_name: name.to_owned(),
            affinity: Affinity::ClientIP,
            backends: used.iter().map(|host| at(*host, target)).collect(),
            failed: failed.iter().map(|host| at(*host, target)).collect(),
            local_route_allowed: true,
        };
        DesiredState {
            service: "default/kubernetes".parse().unwrap(),
            frontends: [("http", 80, 8080), ("https", 443, 6443)].map(frontend).to_vec(),
            source: SourcePolicy::default(),
            forwarding: false,
        }
    }

    #[test]
    fn selected_backends_come_first_and_dead_ones_last() {
        let view = view(&[
            (11, HealthState::Healthy),
            (12, HealthState::Failed),
            (13, HealthState::Draining),
            (14, HealthState::Draining),
        ]);
        let routes = proxy_routes(&view, &state(&[11], &[12]));
        let https = &routes.vips[&vip(443)];
        assert_eq!(https.backends, [at(11, 6443)]);
        assert_eq!(https.others, [at(13, 6443), at(14, 6443), at(12, 6443)]);
        assert_eq!(https.affinity, Affinity::ClientIP);
        assert_eq!(routes.ending, [at(12, 6443), at(12, 8080)].into());
        assert!([at(11, 6443), at(14, 6443), at(12, 8080)].into_iter().all(|b| routes.contains(b)));
        assert!(!routes.contains(at(15, 6443)));
        // A port that was not probed ranks like any other.
        assert_eq!(routes.vips[&vip(80)].others, [at(12, 8080), at(13, 8080)]);
    }

    #[test]
    fn local_listener_forwards_to_https() {
        let view = view(&[]);
        let routes = proxy_routes(&view, &state(&[11, 12], &[]));
        assert_eq!(routes.local.backends, [at(11, 6443), at(12, 6443)]);
        assert_eq!(routes.local.others, [at(13, 6443)]);
        assert_eq!(routes.local.affinity, Affinity::None);
    }
}
