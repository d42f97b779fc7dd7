//! Which backends are asked, and which share another's answer: an apiserver with several ports is asked at its port
//! `https`, and its other ports live and die with that one. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::health::BackendHealth;
use crate::model::snapshot::{HTTPS, Snapshot};
use crate::model::types::Backend;

/// Other ports of apiservers that are asked.
#[derive(Debug, Default)]
pub(super) struct Ports {
    asked_at: BTreeMap<Backend, Backend>,
}

impl Ports {
    /// Takes a snapshot over and returns whom to ask.
    pub(super) fn publish(&mut self, snapshot: &Snapshot) -> BTreeSet<Backend> {
        let all = snapshot.backends();
        let https = snapshot.frontends.iter().filter(|frontend| frontend.port_name == HTTPS);
        let https: BTreeSet<Backend> = https.flat_map(|frontend| &frontend.backends).copied().collect();
        let at = |backend: &Backend| https.iter().find(|asked| asked.ip() == backend.ip()).copied();
        // A port that is gone is forgotten with its apiserver, so that one that drains does so on all ports.
        self.asked_at.retain(|_, asked| !https.contains(asked));
        for backend in all.difference(&https) {
            if let Some(asked) = at(backend) {
                self.asked_at.insert(*backend, asked);
            }
        }
        all.into_iter().filter(|backend| https.contains(backend) || at(backend).is_none()).collect()
    }

    /// Who is asked about this backend.
    pub(super) fn asked_at(&self, backend: Backend) -> Backend {
        self.asked_at.get(&backend).copied().unwrap_or(backend)
    }

    /// Adds the other ports of those that were asked.
    pub(super) fn extend(&self, health: &mut BTreeMap<Backend, BackendHealth>) {
        for (backend, asked) in &self.asked_at {
            if let Some(shared) = health.get(asked).copied() {
                health.entry(*backend).or_insert(shared);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::{Affinity, Frontend, ServiceStatus};

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
    fn the_port_https_answers_for_the_others() {
        let mut ports = Ports::default();
        let asked = ports.publish(&snapshot(&[("https", 6443), ("metrics", 9090)], &[11, 12]));
        assert_eq!(asked, [at(11, 6443), at(12, 6443)].into());
        assert_eq!(ports.asked_at(at(12, 9090)), at(12, 6443));
        // One that is gone keeps its ports until it is forgotten; one that is there loses those that are gone.
        ports.publish(&snapshot(&[("https", 6443)], &[11]));
        assert_eq!(ports.asked_at(at(12, 9090)), at(12, 6443));
        assert_eq!(ports.asked_at(at(11, 9090)), at(11, 9090));
    }

    #[test]
    fn without_such_a_port_all_are_asked() {
        let mut ports = Ports::default();
        let asked = ports.publish(&snapshot(&[("a", 6443), ("", 9090)], &[11]));
        assert_eq!(asked, [at(11, 6443), at(11, 9090)].into());
    }
}
