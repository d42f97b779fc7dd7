//! Who is left, and when. Time is the runtime's, and stands still but for what is waited for.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::*;
use crate::kube::candidates::{Candidates, Slot};
use crate::kube::connection::{Connection, Reporter};
use crate::kube::store::Store;
use crate::model::health::sample as health;
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot, SnapshotOptions};
use crate::transport::readyz::Identity;

/// Nearly as long as it may be unready.
const NEARLY: Duration = Duration::from_secs(9);

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 6443))
}

fn snapshot() -> Snapshot {
    let backends = vec![address(11), address(12), address(13)];
    let vip = SocketAddr::from(([10, 96, 0, 1], 443));
    let https = Frontend { vip, port_name: "https".into(), affinity: Affinity::None, backends };
    Snapshot {
        generation: 1,
        service: ServiceStatus::Found,
        frontends: vec![https],
        rejected: BTreeSet::new(),
    }
}

fn view(states: [HealthState; 3]) -> Option<HealthView> {
    let mut view = HealthView::unprobed(Arc::new(snapshot()), Instant::now());
    view.backends = (11..).zip(states).map(|(last, state)| (address(last), health(state))).collect();
    Some(view)
}

/// A session with the first of three apiservers.
fn hub() -> Hub {
    let nobody = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut candidates = Candidates::new(0);
    candidates.publish(&snapshot());
    candidates.connected(Slot::Endpoint(address(11)), address(11));
    Hub {
        key: "default/kubernetes".parse().unwrap(),
        candidates: Arc::new(Mutex::new(candidates)),
        store: Mutex::new(Store::new(SnapshotOptions::default())),
        reporter: Mutex::new(Reporter::new(watch::channel(Connection::default()).0)),
        snapshots: watch::channel(None).0,
        identity: Arc::new(watch::channel(Identity::anonymous(Arc::new(nobody))).0),
        ping_interval: crate::kube::PING_INTERVAL,
        offered: Notify::new(),
    }
}

const BEHIND: [HealthState; 3] = [HealthState::Draining, HealthState::Healthy, HealthState::Unknown];

#[tokio::test(start_paused = true)]
async fn an_apiserver_that_is_unready_or_silent_is_left_after_a_while_and_dialled_last() {
    for state in [HealthState::Draining, HealthState::Suspect] {
        let (sender, mut views) = watch::channel(None);
        let hub = hub();
        assert!(timeout(NEARLY * 2, lost(&mut views, &hub)).await.is_err(), "nothing is known of it");
        sender.send_replace(view([state, HealthState::Healthy, HealthState::Unknown]));
        assert!(timeout(NEARLY, lost(&mut views, &hub)).await.is_err(), "it was left in haste");
        assert!(timeout(NEARLY * 2, lost(&mut views, &hub)).await.is_ok());
        let endpoint = |last| Slot::Endpoint(address(last));
        let mut slots = hub.candidates().slots();
        slots[..2].sort_unstable();
        assert_eq!(slots, [endpoint(12), endpoint(13), Slot::Bootstrap, endpoint(11)]);
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_left_who_is_ready_again_or_where_nobody_else_is_ready() {
    let (sender, mut views) = watch::channel(view(BEHIND));
    let hub = hub();
    let waits = async {
        tokio::time::sleep(NEARLY).await;
        sender.send_replace(view([HealthState::Healthy; 3]));
        tokio::time::sleep(NEARLY).await;
        // The first of them counts from here.
        sender.send_replace(view(BEHIND));
        tokio::time::sleep(NEARLY).await;
        sender.send_replace(view([HealthState::Draining; 3]));
        tokio::time::sleep(NEARLY * 2).await;
    };
    tokio::select! {
        () = waits => {}
        () = lost(&mut views, &hub) => panic!("it was left"),
    }
}
