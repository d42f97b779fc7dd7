//! The module under test, started with a kubeconfig, and what a test waits for.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cluster::Cluster;
use super::fake::FakeApiserver;
use crate::kube::{ApiConfig, Connection, ConnectionState, SPREAD_INTERVAL, run};
use crate::model::snapshot::PublishedSnapshot;
use crate::model::snapshot::SnapshotOptions;
use crate::model::sources::FallbackEndpoints;
use crate::transport::load::{load, watch_files_every};
use crate::transport::pki::Pki;
use crate::transport::readyz::Identity;
use crate::transport::{Access, TLS_NAME};

/// Far beyond what anything here takes: what is waited for happens, or the test fails.
const LIMIT: Duration = Duration::from_secs(60);

/// `run`, and its outputs.
pub(crate) struct Running {
    pub(crate) snapshots: watch::Receiver<Option<PublishedSnapshot>>,
    pub(crate) connection: watch::Receiver<Connection>,
    task: JoinHandle<()>,
    folder: TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A kubeconfig in a folder of its own, with relative paths.
pub(crate) fn kubeconfig(server: &str, ca_pem: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("ca.crt"), ca_pem).unwrap();
    std::fs::write(folder.path().join("token"), "secret-token\n").unwrap();
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: node\n\
         contexts: [{{name: node, context: {{cluster: here, user: apivip}}}}]\n\
         clusters: [{{name: here, cluster: {{server: '{server}', certificate-authority: ca.crt}}}}]\n\
         users: [{{name: apivip, user: {{tokenFile: token}}}}]\n"
    );
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// Looks for renewed files twenty times a second; on a clock that stands still, where that would be for ever, twice
/// an hour.
async fn watch_files(access: &watch::Sender<Arc<Access>>, identity: &watch::Sender<Identity>) {
    let begin = tokio::time::Instant::now();
    let often = watch_files_every(Duration::from_millis(50), access, identity);
    let _ = tokio::time::timeout_at(begin + LIMIT, often).await;
    watch_files_every(Duration::from_secs(1800), access, identity).await;
}

/// Starts `run` with `bootstrap` as the kubeconfig's server.
pub(crate) async fn start(bootstrap: SocketAddr, ca_pem: &str) -> Running {
    start_spread(bootstrap, ca_pem, SPREAD_INTERVAL).await
}

/// The same, and one server is read for about so long.
pub(crate) async fn start_spread(bootstrap: SocketAddr, ca_pem: &str, interval: Duration) -> Running {
    let (folder, path) = kubeconfig(&format!("https://{bootstrap}"), ca_pem);
    let access = load(Some(&path), None).unwrap();
    assert_eq!(access.tls_name(), TLS_NAME);
    start_with(access, folder, interval)
}

/// Silence is noticed after it and the 5 s that an answer may take.
const PING: Duration = Duration::from_secs(2);

fn start_with(access: Access, folder: TempDir, spread_interval: Duration) -> Running {
    let (snapshot_sender, snapshots) = watch::channel(None);
    let (connection_sender, connection) = watch::channel(Connection::default());
    let (identity, _) = watch::channel(Identity::anonymous(Arc::new(access.trust().unwrap())));
    let identity = Arc::new(identity);
    let (access_sender, access) = watch::channel(Arc::new(access));
    let config = ApiConfig {
        access,
        service: "default/kubernetes".parse().unwrap(),
        snapshot: SnapshotOptions { allow_loopback: true },
        alternatives: watch::channel(FallbackEndpoints::default()).1,
        views: watch::channel(None).1,
        identity: Arc::clone(&identity),
        ping_interval: PING,
        spread_interval,
    };
    let task = tokio::spawn(async move {
        tokio::join!(run(config, snapshot_sender, connection_sender), watch_files(&access_sender, &identity));
    });
    Running { snapshots, connection, task, folder }
}

impl Running {
    /// Where the files lie that the kubeconfig names.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Waits until the published backends are exactly these.
    pub(crate) async fn backends(&mut self, wanted: &[SocketAddr]) -> PublishedSnapshot {
        let wanted = wanted.iter().copied().collect();
        let matches = |published: &Option<PublishedSnapshot>| {
            published.as_ref().is_some_and(|published| published.snapshot.backends() == wanted)
        };
        let found = tokio::time::timeout(LIMIT, self.snapshots.wait_for(matches)).await;
        let found = found.unwrap_or_else(|_| panic!("never saw {wanted:?}; {:?}", self.connection.borrow()));
        found.unwrap().clone().unwrap()
    }

    /// Waits until the connection is as `matches` says.
    pub(crate) async fn connection(&mut self, matches: impl Fn(&Connection) -> bool) -> Connection {
        let mut receiver = self.connection.clone();
        let found = tokio::time::timeout(LIMIT, receiver.wait_for(|c| matches(c))).await;
        match found {
            Ok(connection) => connection.unwrap().clone(),
            Err(_) => panic!("never saw it; {:?}", self.connection.borrow()),
        }
    }

    /// Waits until the last error is one line that holds all of `parts`.
    pub(crate) async fn error(&mut self, parts: &[&str]) -> String {
        let holds = |error: &String| parts.iter().all(|part| error.contains(part));
        let connection = self.connection(|c| c.last_error.as_ref().is_some_and(holds)).await;
        let error = connection.last_error.unwrap();
        assert!(!error.contains('\n'), "{error}");
        error
    }

    /// Waits until both watches of the cluster are open.
    pub(crate) async fn synced(&mut self, cluster: &Cluster) {
        self.connection(|c| c.state == ConnectionState::Synced).await;
        eventually("two watches", || cluster.watchers() == 2).await;
    }
}

/// Waits until `holds`.
pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let waited = tokio::time::timeout(LIMIT, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// One server on 127.0.0.1 with a good certificate, itself the only endpoint, and `run` synced with it.
pub(crate) async fn one(protocols: &[&str]) -> (Cluster, FakeApiserver, Running) {
    let pki = Pki::new("cluster");
    let cluster = Cluster::new(&[]);
    let server = FakeApiserver::start(1, 0, pki.server(TLS_NAME, false, protocols), cluster.clone()).await;
    cluster.set_backends(&[server.address]);
    let mut running = start(server.address, &pki.ca_pem()).await;
    running.backends(&[server.address]).await;
    running.synced(&cluster).await;
    (cluster, server, running)
}
