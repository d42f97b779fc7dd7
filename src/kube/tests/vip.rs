//! A daemon in a Pod is told the virtual IP and nothing else: it is dialled until an endpoint is known, never after.
//!
//! A loopback address stands for the virtual IP here. As no Service may have one, these tests tell the candidates what
//! a snapshot would, and the servers have no Service that contradicts.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cluster::{Cluster, Reply};
use super::fake::FakeApiserver;
use super::running::{eventually, kubeconfig};
use crate::kube::candidates::Candidates;
use crate::kube::connection::{Connection, ConnectionState, Reporter};
use crate::kube::session::{Rebalancer, Shared};
use crate::kube::store::Store;
use crate::kube::{SPREAD_INTERVAL, read};
use crate::model::snapshot::PublishedSnapshot;
use crate::model::snapshot::{Affinity, Frontend, ServiceStatus, Snapshot, SnapshotOptions};
use crate::transport::pki::Pki;
use crate::transport::readyz::Identity;
use crate::transport::{TLS_NAME, load};

/// Two servers, the first of which is what the virtual IP leads to, and a daemon that was told only of that.
struct Pod {
    cluster: Cluster,
    vip: FakeApiserver,
    endpoint: FakeApiserver,
    shared: Arc<Shared>,
    connection: watch::Receiver<Connection>,
    /// Without a listener the daemon would end.
    _published: watch::Receiver<Option<PublishedSnapshot>>,
    task: JoinHandle<()>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Pod {
    async fn start() -> Self {
        let pki = Pki::new("cluster");
        let cluster = Cluster::new(&[]);
        let none =
            r#"{"kind":"ServiceList","apiVersion":"v1","metadata":{"resourceVersion":"100"},"items":[]}"#;
        let list = "services?fieldSelector=metadata.name%3Dkubernetes&resourceVersion";
        cluster.fault(list, usize::MAX, Reply::json(200, none));
        let tls = pki.server(TLS_NAME, false, &["h2"]);
        let vip = FakeApiserver::start(200, 0, tls.clone(), cluster.clone()).await;
        let endpoint = FakeApiserver::start(2, 0, tls, cluster.clone()).await;
        let (folder, path) = kubeconfig(&format!("https://{}", vip.address), &pki.ca_pem());
        let access = load(Some(&path), None).unwrap();
        let (reporter, connection) = watch::channel(Connection::default());
        let (snapshots, mut published) = watch::channel(None);
        let shared = Arc::new(Shared {
            key: "default/kubernetes".parse().unwrap(),
            candidates: Arc::new(Mutex::new(Candidates::new(0))),
            store: Mutex::new(Store::new(SnapshotOptions::default())),
            reporter: Mutex::new(Reporter::new(reporter)),
            snapshots,
            identity: Arc::new(watch::channel(Identity::anonymous(Arc::new(access.trust().unwrap()))).0),
            ping_interval: Duration::from_secs(2),
            alternatives_changed: tokio::sync::Notify::new(),
        });
        let cloned = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            let _folder = folder;
            let (_unchanged, mut access) = watch::channel(Arc::new(access));
            let rebalancer = Rebalancer::new(SPREAD_INTERVAL);
            read(&mut access, &mut watch::channel(None).1, rebalancer, &cloned).await;
        });
        published.wait_for(Option::is_some).await.unwrap();
        let mut pod = Self { cluster, vip, endpoint, shared, connection, _published: published, task };
        pod.synced_with(pod.vip.address).await;
        pod
    }

    fn publish(&self, backends: &[SocketAddr]) {
        let frontend = Frontend {
            vip: self.vip.address,
            port_name: "https".into(),
            affinity: Affinity::None,
            backends: backends.to_vec(),
        };
        self.shared.candidates().set_endpoints(&Snapshot {
            generation: 1,
            service: ServiceStatus::Found,
            frontends: vec![frontend],
            rejected: BTreeSet::new(),
        });
    }

    async fn wait(&mut self, what: &str, holds: impl Fn(&Connection) -> bool) {
        let connection = self.connection.clone();
        eventually(what, || holds(&connection.borrow())).await;
    }

    async fn synced_with(&mut self, address: SocketAddr) {
        let cluster = self.cluster.clone();
        self.wait("synced", |c| {
            c.state == ConnectionState::Synced && c.address == Some(address) && cluster.watchers() == 2
        })
        .await;
    }
}

#[tokio::test]
async fn session_through_the_vip_moves_to_an_endpoint_and_stays() {
    let mut pod = Pod::start().await;
    let address = pod.endpoint.address;
    pod.publish(&[address]);
    pod.cluster.set_backends(&[address]);
    pod.synced_with(address).await;
    let connection = pod.connection.borrow().clone();
    assert_eq!((connection.last_error, connection.relists), (None, 0), "that was no failure");
    pod.endpoint.fall_silent();
    pod.cluster.send("services", "broken\n");
    pod.wait("refused", |c| c.reconnects >= 2).await;
    let endpoint = format!("{address}: accepts connections but does not answer");
    pod.wait("only the endpoint is dialled", |c| {
        c.last_error.as_ref().is_some_and(|error| error.contains(&endpoint) && !error.contains("127.0.0.200"))
    })
    .await;
    assert_eq!(pod.vip.connections(), 1);
}

#[tokio::test]
async fn vip_is_dialled_when_there_is_no_endpoint() {
    let mut pod = Pod::start().await;
    pod.publish(&[]);
    pod.cluster.send("services", "broken\n");
    pod.wait("a second session", |c| c.reconnects == 1).await;
    pod.synced_with(pod.vip.address).await;
    let address = pod.endpoint.address;
    pod.publish(&[address]);
    pod.cluster.set_backends(&[address]);
    pod.synced_with(address).await;
}
