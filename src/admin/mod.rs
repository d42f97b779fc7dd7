//! Where the daemon is asked: HTTP on `RUN_DIR/apivip.sock`, which only root may open, and on `--admin-listen`.
//!
//! In: requests, and what the parts of the daemon know ([`Sources`]). Out: the same answers on both. `server` bounds what
//! clients may cost, `handler` says what there is, `health` and `page` are pure.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};

use crate::kube::Connection;
use crate::metrics::Metrics;
use crate::model::report::Report;
use crate::model::sources::Origins;
use crate::model::types::ServiceKey;
use crate::process::lock::{self, SOCKET_FILE};
use crate::reconcile::TotalsQuery;
use crate::selftest::SelfTestResults;

mod handler;
mod health;
mod listen;
mod meter;
mod page;
mod server;
mod trend;

use handler::Handler;

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("listen on {}", .path.display())]
pub struct AdminError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// What the answers are made from.
pub struct Sources {
    /// The Service.
    pub service: ServiceKey,
    /// When the daemon started.
    pub started: Instant,
    /// The reconciler's state.
    pub report: watch::Receiver<Report>,
    /// The API client's state.
    pub connection: watch::Receiver<Connection>,
    /// Where each apiserver was learnt.
    pub origins: watch::Receiver<Origins>,
    /// What the self-test found.
    pub selftests: watch::Receiver<SelfTestResults>,
    /// How often it tests; `None`: never.
    pub selftest_interval: Option<Duration>,
    /// The daemon's metrics.
    pub metrics: Arc<Metrics>,
    /// Where to ask for connection totals.
    pub totals: mpsc::Sender<TotalsQuery>,
}

/// Binds the socket in `run_dir`, whose lock the caller holds.
pub fn bind(run_dir: &Path) -> Result<UnixListener, AdminError> {
    let path = run_dir.join(SOCKET_FILE);
    lock::bind(&path).map_err(|source| AdminError { path, source })
}

/// Answers on the socket, and on `address` once it can be had, until the task is dropped.
pub async fn serve(socket: UnixListener, address: Option<SocketAddr>, sources: Sources) {
    let handler = Arc::new(Handler::new(sources));
    let tcp = async {
        if let Some(address) = address {
            let listener = listen::listen(address).await;
            server::serve(listener, address.ip().is_loopback(), Arc::clone(&handler)).await;
        }
    };
    tokio::join!(server::serve(socket, false, Arc::clone(&handler)), tcp, handler.sample());
}
