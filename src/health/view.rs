//! From tracked backends to the published [`HealthView`](crate::model::health::HealthView). Pure.
//!
//! Which backends are probed, and which share the result of another port of the same API server; which change of health is
//! worth a new view.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::model::health::BackendHealth;
use crate::model::snapshot::{HTTPS, Snapshot};
use crate::model::types::Backend;

/// A round trip that changed by less, or by less than a fifth, counts as unchanged.
const ROUND_TRIP: Duration = Duration::from_micros(500);

/// When the change from `old` to `new` was noticed; `None` if there is none.
pub(super) fn changed_at(
    old: &BTreeMap<Backend, BackendHealth>,
    new: &BTreeMap<Backend, BackendHealth>,
    now: Instant,
) -> Option<Instant> {
    let gone = old.keys().any(|backend| !new.contains_key(backend)).then_some(now);
    let changed = new.iter().filter_map(|(backend, health)| match old.get(backend) {
        Some(before) if before.state != health.state => Some(health.noticed),
        Some(before) if is_unchanged(before, health) => None,
        _ => Some(now),
    });
    changed.chain(gone).min()
}

fn is_unchanged(old: &BackendHealth, new: &BackendHealth) -> bool {
    let settled = |health: &BackendHealth| {
        let BackendHealth { state, since, published, answering, failure, readyz, .. } = *health;
        let BackendHealth { end_flows, challenge_at, silent_since, termination_blocked, .. } = *health;
        let silent = silent_since.is_some();
        (
            state,
            since,
            published,
            answering,
            failure,
            readyz,
            end_flows,
            challenge_at,
            silent,
            termination_blocked,
        )
    };
    settled(old) == settled(new) && is_near(old.round_trip, new.round_trip)
}

fn is_near(old: Option<Duration>, new: Option<Duration>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            let moved = old.abs_diff(new);
            moved <= ROUND_TRIP || moved * 5 <= old
        }
        (None, None) => true,
        _ => false,
    }
}

/// Other ports of API servers that are probed.
#[derive(Debug, Default)]
pub(super) struct PortAliases {
    probed_at: BTreeMap<Backend, Backend>,
}

impl PortAliases {
    /// Takes in a snapshot and returns which backends to probe.
    pub(super) fn publish(&mut self, snapshot: &Snapshot) -> BTreeSet<Backend> {
        let all = snapshot.backends();
        let https = snapshot.frontends.iter().filter(|frontend| frontend.port_name == HTTPS);
        let https: BTreeSet<Backend> = https.flat_map(|frontend| &frontend.backends).copied().collect();
        let at = |backend: &Backend| https.iter().find(|probed| probed.ip() == backend.ip()).copied();
        // A port that is gone is forgotten with its apiserver, so that one that drains does so on all ports.
        self.probed_at.retain(|_, probed| !https.contains(probed));
        for backend in all.difference(&https) {
            if let Some(probed) = at(backend) {
                self.probed_at.insert(*backend, probed);
            }
        }
        all.into_iter().filter(|backend| https.contains(backend) || at(backend).is_none()).collect()
    }

    /// The backend whose probe result applies to this one.
    pub(super) fn probed_at(&self, backend: Backend) -> Backend {
        self.probed_at.get(&backend).copied().unwrap_or(backend)
    }

    /// Adds the other ports of those that were probed.
    pub(super) fn extend(&self, health: &mut BTreeMap<Backend, BackendHealth>) {
        for (backend, probed) in &self.probed_at {
            if let Some(shared) = health.get(probed).copied() {
                health.entry(*backend).or_insert(shared);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::health::{HealthState, TerminationBlocker, sample};
    use crate::model::snapshot::{Affinity, Frontend, ServiceStatus};

    #[test]
    fn relevant_health_changes_are_published() {
        let now = Instant::now();
        let (backend, old) = (Backend::from(([192, 0, 2, 11], 6443)), sample(HealthState::Healthy));
        let is_news =
            |new: BackendHealth| changed_at(&[(backend, old)].into(), &[(backend, new)].into(), now);
        assert_eq!(is_news(old), None);
        assert_eq!(
            is_news(BackendHealth { challenge_at: Some(now), ..old }),
            Some(now),
            "its clients are to be asked"
        );
        assert_eq!(is_news(BackendHealth { end_flows: true, ..old }), Some(now));
        assert_eq!(
            is_news(BackendHealth { termination_blocked: Some(TerminationBlocker::NoWitness), ..old }),
            Some(now)
        );
        assert_eq!(is_news(BackendHealth { round_trip: Some(Duration::from_micros(1400)), ..old }), None);
    }

    fn snapshot(ports: &[(&str, u16)], hosts: &[u8]) -> Snapshot {
        let frontend = |(name, port): &(&str, u16)| Frontend {
            vip: ([10, 96, 0, 1], *port).into(),
            port_name: (*name).to_owned(),
            affinity: Affinity::None,
            backends: hosts.iter().map(|host| Backend::from(([192, 0, 2, *host], *port))).collect(),
        };
        let frontends = ports.iter().map(frontend).collect();
        Snapshot { generation: 1, service: ServiceStatus::Found, frontends, rejected: BTreeSet::new() }
    }

    fn at(host: u8, port: u16) -> Backend {
        ([192, 0, 2, host], port).into()
    }

    #[test]
    fn the_https_port_is_probed_for_the_others() {
        let mut ports = PortAliases::default();
        let probed = ports.publish(&snapshot(&[("https", 6443), ("metrics", 9090)], &[11, 12]));
        assert_eq!(probed, [at(11, 6443), at(12, 6443)].into());
        assert_eq!(ports.probed_at(at(12, 9090)), at(12, 6443));
        // One that is gone keeps its ports until it is forgotten; one that is there loses those that are gone.
        ports.publish(&snapshot(&[("https", 6443)], &[11]));
        assert_eq!(ports.probed_at(at(12, 9090)), at(12, 6443));
        assert_eq!(ports.probed_at(at(11, 9090)), at(11, 9090));
    }

    #[test]
    fn without_an_https_port_all_ports_are_probed() {
        let mut ports = PortAliases::default();
        let probed = ports.publish(&snapshot(&[("a", 6443), ("", 9090)], &[11]));
        assert_eq!(probed, [at(11, 6443), at(11, 9090)].into());
    }
}
