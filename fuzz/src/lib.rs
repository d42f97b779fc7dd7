//! What must hold of everything that apivip programs, whatever the API says.
//!
//! In: a view of the API. Out: nothing, or a panic that names the broken promise. The promises are written down here
//! a second time, independently of the code that keeps them.

pub mod access;
pub mod table;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use apivip::model::address::InterfaceName;
use apivip::model::balance::Balance;
use apivip::model::desired::{
    DesiredState, Masquerade, NodeView, Policy, PreferredSource, SourceAddress, compute_desired_state,
};
use apivip::model::health::HealthView;
use apivip::model::objects::ClusterView;
use apivip::model::snapshot::{MAX_BACKENDS, MAX_FRONTENDS, Snapshot, SnapshotOptions};
use apivip::model::types::ServiceKey;

/// Every policy, every strictness: builds the table and checks it.
pub fn check(view: &ClusterView) {
    for allow_loopback in [false, true] {
        let options = SnapshotOptions { allow_loopback };
        let snapshot = Snapshot::build(view, options, 1);
        check_backends(&snapshot, allow_loopback);
        for masquerade in [Masquerade::Auto, Masquerade::Always, Masquerade::Never] {
            let policy = policy(masquerade);
            let node = node(&snapshot);
            let (desired, _) = compute_desired_state(&unprobed(snapshot.clone()), None, &node, &policy);
            table::check(&desired);
            for silence in silences(view) {
                let silent = Snapshot::build(&silence, options, 2);
                let (held, _) = compute_desired_state(&unprobed(silent), Some(&desired), &node, &policy);
                assert_eq!(held, desired, "a view without endpoints changed what was programmed");
            }
        }
    }
}

/// The Service that the fuzz targets are about.
pub fn key() -> ServiceKey {
    ServiceKey { namespace: "default".to_owned(), name: "kubernetes".to_owned() }
}

/// The states of the fixed policy that the tables are made for.
pub fn policy(masquerade: Masquerade) -> Policy {
    let cidrs = ["10.244.0.0/16", "fd00:10:244::/56"];
    Policy {
        service: key(),
        masquerade,
        cluster_cidrs: cidrs.iter().filter_map(|c| c.parse().ok()).collect(),
        balance: Balance::Random,
    }
}

/// What is known before anyone is asked.
fn unprobed(snapshot: Snapshot) -> HealthView {
    HealthView::unprobed(Arc::new(snapshot), Instant::now())
}

/// The states that `desired` is made of, for the target that reads the kernel.
pub fn desired(view: &ClusterView) -> DesiredState {
    let snapshot = Snapshot::build(view, SnapshotOptions::default(), 1);
    let node = node(&snapshot);
    compute_desired_state(&unprobed(snapshot), None, &node, &policy(Masquerade::Auto)).0
}

/// A node that knows the route to every other backend.
fn node(snapshot: &Snapshot) -> NodeView {
    let source = |ip: IpAddr| match ip {
        IpAddr::V4(_) => PreferredSource::Address(SourceAddress {
            address: IpAddr::from([192, 0, 2, 1]),
            interfaces: InterfaceName::new("eth0").into_iter().collect(),
            named: true,
            certain: false,
        }),
        IpAddr::V6(_) => PreferredSource::Local,
    };
    let preferred = snapshot.backends().iter().step_by(2).map(|b| (b.ip(), source(b.ip()))).collect();
    NodeView { preferred, taken_vips: BTreeSet::new() }
}

/// The same Service with its endpoints gone, and no Service at all.
fn silences(view: &ClusterView) -> [ClusterView; 2] {
    [ClusterView { service: view.service.clone(), ..ClusterView::default() }, ClusterView::default()]
}

fn check_backends(snapshot: &Snapshot, allow_loopback: bool) {
    let vips = snapshot.vip_addresses();
    assert!(snapshot.frontends.len() <= MAX_FRONTENDS, "more virtual IPs than a transaction holds");
    for frontend in &snapshot.frontends {
        assert_ne!(frontend.vip.port(), 0, "a virtual IP with port 0");
        assert!(frontend.backends.len() <= MAX_BACKENDS, "more backends than a transaction holds");
        for backend in &frontend.backends {
            let ip = backend.ip();
            assert_eq!(
                ip.is_ipv4(),
                frontend.vip.is_ipv4(),
                "{backend} is of another family than its virtual IP"
            );
            assert!(!vips.contains(&ip), "{backend} is a virtual IP");
            assert!(allow_loopback || !ip.is_loopback(), "{backend} is a loopback address");
            assert!(!ip.is_unspecified() && !ip.is_multicast(), "{backend} is no unicast address");
            assert!(!is_link_local(ip), "{backend} is a link-local address");
            assert_ne!(backend.port(), 0, "{backend} has port 0");
        }
        assert!(frontend.backends.is_sorted_by(|a, b| a < b), "backends of {} are not ordered", frontend.vip);
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
    }
}
