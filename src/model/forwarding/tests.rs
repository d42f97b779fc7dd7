use std::sync::Arc;
use std::time::Instant;

use super::*;
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
fn view(states: &[(u8, State)]) -> HealthView {
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

fn state(used: &[u8], dead: &[u8]) -> DesiredState {
    let frontend = |(name, port, target): (&str, u16, u16)| DesiredFrontend {
        vip: vip(port),
        port_name: name.to_owned(),
        affinity: Affinity::ClientIP,
        backends: used.iter().map(|host| at(*host, target)).collect(),
        dead: dead.iter().map(|host| at(*host, target)).collect(),
        guard: true,
    };
    DesiredState {
        service: "default/kubernetes".parse().unwrap(),
        frontends: [("http", 80, 8080), ("https", 443, 6443)].map(frontend).to_vec(),
        source: SourcePolicy::default(),
        forwarding: false,
    }
}

#[test]
fn those_that_share_come_first_and_the_dead_last() {
    let view =
        view(&[(11, State::Healthy), (12, State::Failed), (13, State::Draining), (14, State::Draining)]);
    let routes = routes(&view, &state(&[11], &[12]));
    let https = &routes.vips[&vip(443)];
    assert_eq!(https.backends, [at(11, 6443)]);
    assert_eq!(https.others, [at(13, 6443), at(14, 6443), at(12, 6443)]);
    assert_eq!(https.affinity, Affinity::ClientIP);
    assert_eq!(routes.ending, [at(12, 6443), at(12, 8080)].into());
    // What was not asked is as good as any.
    assert_eq!(routes.vips[&vip(80)].others, [at(12, 8080), at(13, 8080)]);
}

#[test]
fn a_local_endpoint_leads_to_https() {
    let view = view(&[]);
    let routes = routes(&view, &state(&[11, 12], &[]));
    assert_eq!(routes.local.backends, [at(11, 6443), at(12, 6443)]);
    assert_eq!(routes.local.others, [at(13, 6443)]);
    assert_eq!(routes.local.affinity, Affinity::None);
}
