//! When an apiserver that is not ready is left. Time is the runtime's, and stands still but for what is waited for.

use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use super::*;
use crate::kube::candidates::Slot;
use crate::kube::connection::Connection;
use crate::model::health::sample as health;
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot, SnapshotOptions};
use crate::transport::dialer::DialOrder;

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
fn shared_with_session() -> Shared {
    let nobody = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut candidates = Candidates::new(0);
    candidates.set_endpoints(&snapshot());
    candidates.connected(Slot::Endpoint(address(11)), address(11));
    Shared {
        key: "default/kubernetes".parse().unwrap(),
        candidates: Arc::new(Mutex::new(candidates)),
        store: Mutex::new(Store::new(SnapshotOptions::default())),
        reporter: Mutex::new(Reporter::new(watch::channel(Connection::default()).0)),
        snapshots: watch::channel(None).0,
        identity: Arc::new(watch::channel(Identity::anonymous(Arc::new(nobody))).0),
        ping_interval: crate::kube::PING_INTERVAL,
        alternatives_changed: Notify::new(),
    }
}

const BEHIND: [HealthState; 3] = [HealthState::Draining, HealthState::Healthy, HealthState::Unknown];

#[tokio::test(start_paused = true)]
async fn unready_or_silent_apiserver_is_left_after_the_grace_period_and_dialled_last() {
    for state in [HealthState::Draining, HealthState::Suspect] {
        let (sender, mut views) = watch::channel(None);
        let shared = shared_with_session();
        assert!(
            timeout(NEARLY * 2, apiserver_unready(&mut views, &shared)).await.is_err(),
            "nothing is known of it"
        );
        sender.send_replace(view([state, HealthState::Healthy, HealthState::Unknown]));
        assert!(
            timeout(NEARLY, apiserver_unready(&mut views, &shared)).await.is_err(),
            "it was left in haste"
        );
        assert!(timeout(NEARLY * 2, apiserver_unready(&mut views, &shared)).await.is_ok());
        let endpoint = |last| Slot::Endpoint(address(last));
        let mut slots = shared.candidates().targets();
        slots[..2].sort_unstable();
        assert_eq!(slots, [endpoint(12), endpoint(13), Slot::Bootstrap, endpoint(11)]);
    }
}

#[tokio::test(start_paused = true)]
async fn apiserver_is_kept_when_it_recovers_or_no_other_is_ready() {
    let (sender, mut views) = watch::channel(view(BEHIND));
    let shared = shared_with_session();
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
        () = apiserver_unready(&mut views, &shared) => panic!("it was left"),
    }
}
